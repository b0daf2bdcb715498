"""`tutorkd compare` judged by GLUE: from a recipe to means over training seeds x fine-tuning seeds."""

import itertools
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import glue_data
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from commands import compare, complete, fail, lines_of, run_here, save, save_corpus

from tutorkd.cli.main import main
from tutorkd.comparison import bench, on_glue
from tutorkd.comparison.matrix import RESULT_FILE, read_cells
from tutorkd.comparison.report import markdown, summarise
from tutorkd.comparison.score_plots import score_against_cost
from tutorkd.errors import UserError
from tutorkd.files import write_text
from tutorkd.glue import command as fine_tuning
from tutorkd.glue import runs
from tutorkd.seeds import nested
from tutorkd.words import duration

RECIPE = {
    "common": {
        **{"teacher": "teacher", "corpus": ["text.txt"], "max_steps": 2, "max_length": 16, "bf16": False},
        **{"per_device_train_batch_size": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2, "num_proc": 1},
    },
    "variants": ["kd", "mlm"],
    "seeds": [0, 1],
    "students": ["half"],
    "evaluate": {
        **{"tasks": ["stsb", "mrpc"], "data_dir": "glue", "seeds": [3, 4], "learning_rates": [1.0e-3], "epochs": [1]},
        **{"batch_sizes": [8], "max_length": 16, "max_train_samples": 16, "bf16": False},
    },
}
NAMES = [
    *("teacher-seed0", "not-distilled-half-seed0"),
    *("kd-half-seed0", "mlm-half-seed0", "kd-half-seed1", "mlm-half-seed1"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Teacher, text and tasks, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    save(tiny.masked_lm(), tmp_path / "teacher")
    save_corpus(tmp_path / "text.txt")
    for name in ("mrpc", "stsb"):
        glue_data.write_task(tmp_path / "glue", name)
    return tmp_path


@pytest.fixture
def in_process(in_process, monkeypatch):
    """Units run here too; nothing is drawn."""
    monkeypatch.setattr(fine_tuning, "run_processes", run_here([], lambda unit: unit.name))
    for draw in ("tutorkd.comparison.plots.draw", "tutorkd.glue.plots.draw"):
        monkeypatch.setattr(draw, lambda *arguments: [])
    return in_process


@pytest.fixture
def tuned(monkeypatch):
    """What is fine-tuned: task, then setting and seed."""
    done: list[str] = []
    result = runs._result

    def noted(unit, run, rows):
        done.append(f"{unit.task.name} {run.settings.learning_rate:g} {run.settings.seed}")
        return result(unit, run, rows)

    monkeypatch.setattr(runs, "_result", noted)
    return done


_command = partial(compare, RECIPE)


def test_students_are_fine_tuned_as_tutorkd_glue_does_and_references_once(here, in_process, tuned):
    complete(*_command(variants=["kd"]))
    assert in_process == [name for name in NAMES if "mlm" not in name]
    assert sorted(set(tuned)) == ["mrpc 0.001 3", "mrpc 0.001 4", "stsb 0.001 3", "stsb 0.001 4"]
    assert len(tuned) == 4 * len(in_process)

    student = "out/cells/kd-half-seed1/student"
    given = ["--tasks", "mrpc", "stsb", "--data_dir", "glue", "--seeds", "3", "4", "--learning_rates", "1e-3"]
    given += ["--epochs", "1", "--batch_sizes", "8", "--max_length", "16", "--max_train_samples", "16"]
    complete("glue", student, *given, "--bf16", "false", "--write_card", "false", "--output_dir", "alone")
    (alone,) = json.loads(Path("alone/results.json").read_text())["models"]
    summary = json.loads(Path("out/results.json").read_text())
    (cell,) = (cell for cell in summary["cells"] if cell["name"] == "kd-half-seed1")
    for task, figure in (("mrpc", "f1"), ("stsb", "spearman")):
        assert cell["evaluation"]["scores"][task][figure] == alone["tasks"][task]["figures"][figure]["seeds"]
        assert cell["figures"][task] == pytest.approx(alone["tasks"][task]["figures"][figure]["mean"])
    assert cell["figures"]["mean"] == pytest.approx((cell["figures"]["mrpc"] + cell["figures"]["stsb"]) / 2)
    labels = pq.read_table("glue/mrpc/validation.parquet")["label"].to_pylist()
    always = 2 * sum(labels) / (sum(labels) + len(labels))  # F1 of class 1 for each row: precision p, recall 1
    assert cell["evaluation"]["single_answer"] == {"mrpc": pytest.approx(always), "stsb": 0.0}


@pytest.mark.parametrize("name", [NAMES[1], NAMES[2]])
def test_a_cell_that_was_stopped_goes_on_fine_tuning_by_fine_tuning(here, tuned, monkeypatch, name):
    noted = runs._result

    def stopped(unit, run, rows):
        if len(tuned) == 3:
            raise KeyboardInterrupt
        return noted(unit, run, rows)

    with monkeypatch.context() as stopping:
        stopping.setattr(runs, "_result", stopped)
        assert main(_command("--cell", name)) == 130
    complete(*_command("--cell", name))
    assert tuned == ["mrpc 0.001 3", "mrpc 0.001 4", "stsb 0.001 3", "stsb 0.001 4"]


def test_finished_cells_count_until_the_tasks_or_their_rows_are_others(here, in_process, tuned):
    few = {"variants": ["mlm"], "seeds": [0], "references": False}
    complete(*_command(**few))
    tuned.clear()
    in_process.clear()
    complete(*_command("--data_dir", str(here / "glue" / ".." / "glue"), **few))
    assert in_process == []
    complete(*_command(**few, evaluate={"tasks": ["stsb"]}))
    assert (in_process, tuned) == (["mlm-half-seed0"], [])  # its fine-tunings are there
    assert "mrpc" not in json.loads(Path("out/results.json").read_text())["cells"][0]["figures"]
    glue_data.write_task(here / "glue", "stsb", train=20)
    complete(*_command(**few, evaluate={"tasks": ["stsb"]}))
    assert tuned == ["stsb 0.001 3", "stsb 0.001 4"]


def test_of_a_grid_the_setting_with_the_best_mean_counts(here, tuned, monkeypatch):
    result = runs._result

    def scored(unit, run, rows):
        found = result(unit, run, rows)
        value = {1e-3: {3: 0.4, 4: 0.6}, 2e-3: {3: 0.9, 4: 0.3}}[run.settings.learning_rate][run.settings.seed]
        return {**found, "scores": dict.fromkeys(found["scores"], value)}

    monkeypatch.setattr(runs, "_result", scored)
    complete(*_command("--cell", NAMES[2], evaluate={"tasks": ["mrpc"], "learning_rates": [1e-3, 2e-3]}))
    evaluation = json.loads(Path("out/cells", NAMES[2], RESULT_FILE).read_text())["evaluation"]
    assert evaluation["scores"]["mrpc"]["f1"] == {"3": 0.9, "4": 0.3}
    assert evaluation["setting"] == {"mrpc": "lr 0.002, batch 8, epochs 1"}


def test_a_cell_whose_fine_tunings_fail_is_told_with_the_first_reason(here, capfd, monkeypatch):
    result = runs._result

    def failing(unit, run, rows):
        if unit.task.name == "stsb" and run.settings.seed == 4:
            raise UserError("diverged")
        return result(unit, run, rows)

    monkeypatch.setattr(runs, "_result", failing)
    assert main(_command("--cell", NAMES[2])) == 2
    line = lines_of(capfd.readouterr().err)[-1]
    assert line == (
        "tutorkd: error: STS-B: 1 of 2 fine-tunings failed, the first (lr 0.001, batch 8, epochs 1, seed 4): diverged"
    )
    assert not Path("out/cells", NAMES[2], RESULT_FILE).exists()


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"evaluate": {"tasks": ["colla"]}}, [], "recipe.yaml, evaluate: there is no task 'colla'; did you mean cola?"),
        ({"evaluate": {"train": "a.csv"}}, [], "recipe.yaml, evaluate: train is for encoders; encoders on GLUE are "),
        ({"evaluate": {"fast": True}}, [], "recipe.yaml, evaluate: unknown key 'fast'"),
        ({"evaluate": {"seed": 1}}, [], "recipe.yaml, evaluate: seed can't be set there; the comparison sets it"),
        ({"evaluate": {"tasks": ["rte"]}}, [], "glue lacks rte/train.parquet, rte/validation.parquet: add them"),
        ({}, ["--data_dir", "none"], "--data_dir none: there is no such folder"),
        ({"evaluate": {"max_length": 65}}, [], "max_length 65 is longer than the 64 positions of the model teacher"),
    ],
)
def test_mistakes_are_told_in_one_line(here, in_process, capfd, changes, flags, message):
    assert fail(capfd, *_command(*flags, **changes)).startswith(message)
    assert not Path("out").exists()


def test_a_folder_of_tasks_is_not_for_labelled_rows(here, capfd):
    evaluate = {"evaluate": dict.fromkeys(("max_length",), 16)}
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **evaluate}), encoding="utf-8")
    line = fail(capfd, "compare", "recipe.yaml", "--data_dir", "glue")
    assert line == (
        "recipe.yaml, evaluate: data_dir is for encoders on GLUE; encoders are compared on train and validation"
    )


def test_a_dry_run_counts_starting_training_and_all_fine_tunings(here, capsys, monkeypatch):
    clock = itertools.count(step=5.0)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(bench, "seconds_a_step", lambda *arguments: 10.0)
    monkeypatch.setattr(on_glue, "seconds_to_go", lambda unit, model: 100.0 * len(unit.runs))
    complete(*_command("--dry-run"))
    shown = capsys.readouterr().out
    # 6 cells of 2 tasks x 2 seeds; 4 of them trained for 2 steps, for which models are put together twice
    assert f"6 cells, about {duration(6 * 400 + 4 * (20 + 2 * 5))} left" in shown
    assert shown.count("few steps: 2 steps only show that everything works") == 1
    assert not Path("out").exists()


# Scores by variant, training seed and fine-tuning seed; of mrpc these, of stsb a tenth less.
SCORES = {
    "kd": [[0.70, 0.74], [0.80, 0.78]],
    "mlm": [[0.60, 0.62], [0.61, 0.61]],
    "not distilled": [[0.50, 0.54]],
    "teacher": [[0.90, 0.90]],
}


@pytest.fixture
def finished(tmp_path):
    """Cells with scores made up."""
    recipe = {**RECIPE, "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4}}
    cells = read_cells(recipe, "r", tmp_path)
    for cell in cells:
        of_seeds = dict(zip(("3", "4"), SCORES[cell.variant][cell.seed], strict=True))
        lower = {seed: value - 0.1 for seed, value in of_seeds.items()}
        evaluation = {
            "scores": {"mrpc": {"f1": of_seeds, "accuracy": of_seeds}, "stsb": {"spearman": lower, "pearson": lower}},
            **{"setting": {"mrpc": "s", "stsb": "s"}, "train_rows": {"mrpc": 16, "stsb": 1600}},
            **{"validation_rows": {"mrpc": 12, "stsb": 13}, "failed_runs": 0, "parameters": 1_500_000},
            "single_answer": {"mrpc": 0.812, "stsb": 0.0},
            **{"device": "cpu", "threads": 1},
        }
        training = {"steps": 4, "tokens": 40, "seconds": 60.0, "flops": 2e12, "log": [{"loss": 2.0, "step": 4}]}
        result = {
            "settings": cell.settings,
            "training": training if cell.kind == "distilled" else {},
            "evaluation": evaluation,
        }
        write_text(cell.folder / RESULT_FILE, json.dumps(result))
    return cells


def test_the_two_spreads_are_told_apart_and_make_the_standard_error(finished):
    rows = {row["variant"]: row["figures"] for row in summarise(finished, {})["rows"]}
    found = rows["kd"]["mean"]
    # The students' means over tasks are 0.67 and 0.74, their variances 0.0008 and 0.0002: worked out by hand.
    assert found["mean"] == pytest.approx(0.705)
    assert found["fine_tuning_sd"] == pytest.approx(math.sqrt(0.0005))
    assert found["training_sd"] == pytest.approx(math.sqrt(0.07**2 / 2 - 0.0005 / 2))
    assert found["standard_error"] == pytest.approx(0.035)
    assert rows["mlm"]["mean"]["training_sd"] == 0  # what is between the students is less than their fine-tunings give
    reference = rows["not distilled"]["mrpc"]
    assert reference["standard_error"] == pytest.approx(0.02)  # sd 0.0283 of two fine-tunings, through their root
    assert reference["training_sd"] is None


def test_the_table_has_a_column_a_task_and_one_for_each_spread(finished):
    lines = [" ".join(line.split()) for line in markdown(summarise(finished, {}), finished[0].measures).splitlines()]
    assert lines[0].startswith(
        "| variant | student | seeds | MRPC | STS-B | mean of 2 | training seeds, sd | fine-tuning seeds, sd | param"
    )
    assert lines[2].startswith("| teacher | - | 1 | 90.0 ± 0.0 | 80.0 ± 0.0 | 85.0 ± 0.0 | - | 0.0 | 1.5 M | - |")
    assert lines[4].startswith("| kd | half | 2 | 75.5 ± 3.5 | 65.5 ± 3.5 | 70.5 ± 3.5 | 4.7 | 2.2 | 1.5 M | 1 min 0 s")
    assert "MRPC (F1, 16 training rows, 12 to measure on), STS-B (Spearman, 1,600 training rows" in lines[7]


def test_what_one_answer_to_every_row_gets_stands_under_the_table(finished):
    table = markdown(summarise(finished, {}), finished[0].measures)
    assert "The same answer to every row, without any model, gets MRPC 81.2, STS-B 0.0." in table


def test_variants_are_compared_task_by_task_in_the_results_and_by_the_mean_in_words(finished):
    summary = summarise(finished, {})
    paired = {each["figure"]: each for each in summary["paired"]}
    assert paired.keys() == {"mean", "mrpc", "stsb"}
    # kd's means are 0.72 and 0.79 on MRPC, mlm's 0.61 and 0.61: differences -0.11 and -0.18.
    assert paired["mrpc"]["difference"] == pytest.approx(-0.145)
    assert paired["mrpc"]["standard_error"] == pytest.approx(0.035)
    assert "- mlm, half: 14.5 points worse than kd over 2 paired seeds, standard error 3.5: more than two " in markdown(
        summary, finished[0].measures
    )


def test_the_plot_s_bars_are_the_standard_errors_of_the_means(finished):
    styles = dict.fromkeys(["kd", "mlm"], ("black", "-"))
    (axes,) = score_against_cost(summarise(finished, {}), styles, finished[0].measures.score).axes
    assert axes.get_title(loc="left") == "Score against cost, mean over 2 seeds; bars: standard error over seeds"
    lengths = [container.lines[2][0].get_segments()[0][:, 1] for container in axes.containers]
    assert [(high - low) / 2 for low, high in lengths] == pytest.approx([3.5, 0])


def test_the_estimates_of_both_spreads_are_right_on_average():
    """Over many made-up comparisons, the squares are those that the scores were drawn with."""
    draw = np.random.default_rng(0)
    training, tuning, students, each = 2.0, 1.0, 4, 3
    found, means = [], []
    for _ in range(4000):
        values = draw.normal(0, training, (students, 1)) + draw.normal(0, tuning, (students, each))
        found.append(nested(values.tolist()))
        means.append(values.mean())
    assert np.mean([one.fine_tuning_sd**2 for one in found]) == pytest.approx(tuning**2, rel=0.03)
    assert np.mean([one.training_sd**2 for one in found]) == pytest.approx(training**2, rel=0.05)
    assert np.mean([one.standard_error**2 for one in found]) == pytest.approx(np.var(means), rel=0.05)


def test_what_one_seed_doesn_t_tell_is_left_open():
    assert nested([[0.5, 0.7]]) == (None, None, pytest.approx(0.1 * math.sqrt(2)))
    assert nested([[0.5], [0.7]]) == (pytest.approx(0.1), None, None)
    assert nested([[0.5]], trained=False) == (None, None, None)
