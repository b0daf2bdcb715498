"""The benchmarks run: a few kills, a small text, and the comparison of the step with the authors'."""

import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import tiny
from commands import environment

from tutorkd.methods import METHODS
from tutorkd.objective import MASKED

SETTINGS = {"minilm-v2": {"relation_heads": 4}}
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _run(script: str, *flags: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 2)])
def test_a_killed_run_goes_on_to_the_same_weights(processes, kills):
    printed = _run("kill.py", "--kills", str(kills), "--processes", str(processes))
    assert f"killed {kills} times, " in printed


def test_preparing_a_text_is_measured(tmp_path):
    made = _run("corpus.py", "--gigabytes", "0.0003", "--processes", "2", "--scratch", str(tmp_path))
    figures = dict(re.findall(r"^\| (.*\S) +\| +(.*\S) \|$", made, re.MULTILINE))
    assert figures["text"].startswith("0.00 GB, ")
    tokens, seconds = (float(figures[name].split()[0].replace(",", "")) for name in ("tokens/s", "second start"))
    assert tokens > 0
    assert seconds > 0
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(tiny.documents()))
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    given = _run("corpus.py", "--folder", str(folder), "--tokenizer", str(tmp_path / "tokenizer"))
    tokens = sum(len(text.split()) for text in tiny.documents())
    assert f"{tokens:,} tokens |" in given


def test_our_step_and_the_authors_compute_the_same():
    assert "the same losses and gradients in both orders" in _run("step.py", "--check")


def test_the_profile_of_our_step_times_each_of_its_parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import step

    ours = step.Ours(step.CHECK_SHAPE, bfloat16=False)
    with step.timed_parts(ours) as total:
        ours.run(1)
    assert {
        "teacher reads X^M and X'",
        "student reads X'",
        "L_mod",
        "L_hid, with its projection",
        "L_att",
    } <= total.keys()
    assert all(seconds > 0 for seconds in total.values())


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


def test_graphs_are_counted_with_what_their_kernels_read_and_write(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import count
    import step

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, fused = (
            sums(step.CHECK_SHAPE) for sums in (partial(count.count_step, "mlm"), partial(count.count_graphs, "mlm"))
        )
    assert fused["optimizer"] == plain["optimizer"]
    in_graphs = [fused[stage] for stage in ("forward", "backward")]
    as_planned = [counts for stage, counts in plain.items() if stage not in ("optimizer", "clipping, figures")]
    for figure in ("operations", "bytes"):
        assert 0 < sum(getattr(c, figure) for c in in_graphs) < sum(getattr(c, figure) for c in as_planned)
    weights = 4 * sum(p.numel() for p in step.build_student("half", step.CHECK_SHAPE.teacher, head=MASKED).parameters())
    assert sum(c.bytes for c in in_graphs) > weights


def test_operations_are_counted_as_the_matrices_sizes_say(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import count
    import step

    shape = step.CHECK_SHAPE  # four layers, 48 wide, 4 heads, 3 rows of 16 tokens
    stages = count.count_step("mlm", shape, bfloat16=False)
    tokens, width, inner = 3 * 16, 48, 192
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * 16 * width  # products, attention
    assert sum(stages["student"].flops.values()) == 2 * layer
