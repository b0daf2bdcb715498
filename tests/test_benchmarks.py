"""The benchmarks run: a few kills, and the comparison of the step with the authors'."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _run(script: str, *flags: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("processes", "kills"), [(1, 7), (2, 3)])
def test_a_killed_run_goes_on_to_the_same_weights(processes, kills):
    printed = _run("kill.py", "--kills", str(kills), "--processes", str(processes))
    assert f"killed {kills} times, " in printed


def test_our_step_and_the_authors_compute_the_same():
    assert "the same losses and gradients in both orders" in _run("step.py", "--check")
