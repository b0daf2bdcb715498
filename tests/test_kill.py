"""Runs that are killed at random go on to the weights of one never killed: a few kills of ``benchmarks/kill.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tutorkd

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill.py"


@pytest.mark.parametrize(("processes", "kills"), [(1, 7), (2, 3)])
def test_a_killed_run_goes_on_to_the_same_weights(processes, kills):
    paths = [str(Path(tutorkd.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(SCRIPT), "--kills", str(kills), "--processes", str(processes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"killed {kills} times, " in done.stdout
