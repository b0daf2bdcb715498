"""What a run says of itself on its way and at its end, of logs written by hand."""

import pytest
import tiny
from commands import SHORT, complete, save, save_corpus
from transformers import TrainerState

from tutorkd import probe
from tutorkd.callbacks import ProgressTable
from tutorkd.objective import CAUSAL, EMBEDDING, MASKED
from tutorkd.pretraining.outcome import few_steps, judged


def looks(name: str, *values: float) -> list[dict[str, float]]:
    """A log with a look every ten steps, and lines of training between them."""
    log = []
    for number, value in enumerate(values, 1):
        log += [{"step": 10 * number - 5, "loss": 1.0}, {"step": 10 * number, name: value, "eval_loss": 9.0}]
    return log


def test_looks_at_held_out_text_have_their_steps_also_those_before_the_first_line(capsys):
    table = ProgressTable("distil", [probe.CORRELATION])
    state = TrainerState(max_steps=6, is_world_process_zero=True)
    table.on_train_begin(None, state, None)
    for step, logs in ((2, {"eval_probe_auc": 0.6}), (4, {"loss": 2.0}), (4, {"eval_probe_auc": 0.7})):
        state.global_step = step
        table.on_log(None, state, None, logs)
    table.close()
    assert capsys.readouterr().out.splitlines() == [
        "   step  held-out text",
        "      2  eval_probe_auc 0.600",
        "   step     loss",
        "      4    2.000",
        "      4  eval_probe_auc 0.700",
    ]


def test_the_probe_s_first_and_last_looks_are_told_with_what_guessing_is():
    figure, verdict = judged(looks("eval_probe_auc", 0.55, 0.6, 0.7, 0.8))
    assert figure.startswith("probe AUC 0.550 after step 10, 0.700 after step 30, 0.800 after step 40; 0.5 is guessing")
    assert verdict.startswith("good: better than at any look before")


def test_a_figure_near_0_isn_t_told_as_0_which_would_be_the_teacher_itself():
    figure, _ = judged(looks("eval_kl_to_teacher", 0.005, 9.2e-4, 4.8e-4))
    assert figure.startswith("KL(T||S) 0.005 after step 10, 9.2e-04 after step 20, 4.8e-04 after step 30; 0 is the")


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("eval_probe_auc", (0.3, 0.5), "not good: no better than guessing"),
        ("eval_probe_auc", (0.8, 0.9, 0.7), "not good: no better than at the first look"),
        ("eval_probe_auc", (0.6, 0.9, 0.7), "good: better than at first, though best after step 20"),
        ("eval_kl_to_teacher", (3.0, 1.0, 2.0), "good: better than at first, though best after step 20"),
        ("eval_kl_to_teacher", (3.0, 2.0, 1.0), "good: better than at any look before"),
        ("eval_probe_correlation", (0.1, -0.1), "not good: no better than guessing"),
        ("eval_cosine", (0.8, 0.7), "not good: no better than at the first look"),
        ("eval_perplexity", (30.0, 31.0), "not good: no better than at the first look"),
        ("eval_perplexity", (30.0, 29.0), "good: better than at any look before"),
        ("eval_cosine", (0.8,), "one look at held-out text doesn't say"),
    ],
)
def test_whether_a_course_is_good_is_told_in_words(name, values, told):
    figure, verdict = judged(looks(name, *values))
    assert verdict.startswith(told)
    assert "None" not in figure


def test_other_methods_are_judged_by_their_loss_and_nothing_is_said_without_a_look():
    figure, verdict = judged([{"step": 5, "eval_loss": 2.5}, {"step": 9, "eval_loss": 2.25}])
    assert figure == "held-out loss 2.500 after step 5, 2.250 after step 9; less is better"
    assert verdict.startswith("good")
    assert not list(judged([{"step": 5, "loss": 2.5}]))


@pytest.mark.parametrize(("objective", "shortest"), [(MASKED, 250), (CAUSAL, 80), (EMBEDDING, 300)])
def test_runs_shorter_than_any_that_is_known_to_help_are_told_so(objective, shortest):
    assert few_steps(shortest, objective) is None
    told = few_steps(shortest - 1, objective)
    assert told is not None
    assert told.startswith(f"{shortest - 1} steps only show")
    assert f"has {shortest}" in told
    assert str(few_steps(1, objective)).startswith("1 step only shows")


def test_a_run_explains_its_figures_once_and_says_at_its_end_what_came_of_it(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ["--teacher", save(tiny.masked_lm(), tmp_path / "teacher"), "--cache_dir", "cache"]
    complete(
        *("distill", "--method", "tutor-kd"),
        *models,
        "--corpus",
        save_corpus(tmp_path / "a.txt"),
        "--output_dir",
        "out",
        "--heldout",
        "0.5",
        *SHORT,
    )
    said = capfd.readouterr().out
    assert said.count("probe corr.: 0 is guessing") == 1  # at the first of two looks
    assert said.count("note     4 steps only show that everything works") == 2  # at the beginning and the end
    *_, done, figure, verdict, _, last = said.splitlines()
    assert done.startswith("done     4 steps")
    assert figure.startswith("result   probe ")
    assert " after step 2, " in figure
    assert verdict.startswith("         good: ") or verdict.startswith("         not good: ")
    assert last == "report   out/report.html"
