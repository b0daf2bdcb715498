"""The benchmarks run: a few kills, and the comparison of the step with the authors'."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commands import environment

from tutorkd.methods import METHODS

SETTINGS = {"minilm-v2": {"relation_heads": 4}}
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


@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_for_nothing_that_a_gpu_would_compute(method, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import count
    import step

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors without numbers
        stages = count.count_step(method, step.CHECK_SHAPE, **SETTINGS.get(method, {}))
    assert [place for stage in stages.values() for place in stage.synchronisations] == []
    assert all(stages[name].operations for name in ("student", "losses", "backward", "optimizer"))


def test_operations_are_counted_as_the_matrices_sizes_say(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import count
    import step

    shape = step.CHECK_SHAPE  # four layers, 48 wide, 4 heads, 3 rows of 16 tokens
    stages = count.count_step("mlm", shape, bfloat16=False)
    tokens, width, inner = 3 * 16, 48, 192
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * 16 * width  # products, attention
    assert sum(stages["student"].flops.values()) == 2 * layer
