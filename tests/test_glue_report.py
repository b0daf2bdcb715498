"""From results on disk to the tables, worked out by hand."""

import json
import math
from pathlib import Path
from statistics import fmean

import glue_data
import pytest
import tiny
from matplotlib.figure import Figure

from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.files import write_text
from tutorkd.glue import plots, published
from tutorkd.glue.arguments import GlueArguments
from tutorkd.glue.data import load_task
from tutorkd.glue.report import escaped, markdown, unit_line
from tutorkd.glue.runs import ERROR_FILE, RESULT_FILE, Unit
from tutorkd.glue.selection import best_by_mean
from tutorkd.glue.summary import averages, summarise
from tutorkd.glue.tasks import TASKS, USUAL
from tutorkd.seeds import over_seeds

# The best single run, 0.9, belongs to the setting with the lower mean.
FIRST, SECOND = [0.9, 0.3, 0.3], [0.6, 0.65, 0.55]


@pytest.fixture
def units(tmp_path):
    """Makes the unit of a model and task, with the scores of each setting's seeds; None is a run that failed."""

    def make(model, name, *settings, figures=None, family="bert", **sizes):
        folder = tmp_path / model
        tiny.config(family, **sizes).save_pretrained(folder)
        checkpoint = Checkpoint(model, str(folder), 1, {"source": str(folder)})
        task = TASKS[name]
        data = load_task(task, glue_data.write_task(tmp_path / "data", name), None)
        args = GlueArguments(
            learning_rates=[1e-4, 1e-5][: len(settings)],
            batch_sizes=[8],
            epochs=[1],
            seeds=list(range(len(settings[0]))),
        )
        unit = Unit(checkpoint, task, data, tmp_path / "runs" / model / name, args.runs(task, None))
        for run, value in zip(unit.runs, [value for seeds in settings for value in seeds], strict=True):
            if value is None:
                write_text(run.folder / ERROR_FILE, "diverged | at once")
                continue
            scores = {figure.name: (figures or {}).get(figure.name, value) for figure in task.figures}
            about = {"identity": run.identity, "train_seconds": 2.0, "parameters": 10, "device": "cpu", "threads": 1}
            write_text(run.folder / RESULT_FILE, json.dumps({"scores": scores, **about}))
        return unit

    return make


def test_the_setting_is_chosen_by_its_mean_and_not_by_its_best_run():
    assert best_by_mean({"first": FIRST, "second": SECOND}) == "second"
    assert best_by_mean({"a": [0.5], "b": [0.5]}) == "a"
    assert best_by_mean({"a": [0.5, 0.5], "b": [0.9]}) == "a"  # b's other seed failed
    assert best_by_mean({"a": [], "b": [0.1]}) == "b"
    assert best_by_mean({}) is None


def test_an_infinite_figure_has_no_deviation():
    found = over_seeds([1.0, float("inf")])
    assert (found.mean, found.sd, found.n) == (float("inf"), None, 2)


def test_the_spread_over_seeds():
    found = over_seeds(SECOND)
    assert found == (0.6, pytest.approx(0.6), pytest.approx(0.05), 0.55, 0.65, 3)
    assert over_seeds([0.7]) == (0.7, 0.7, None, 0.7, 0.7, 1)
    assert over_seeds([0.1, 0.4]).median == pytest.approx(0.25)
    assert over_seeds([0.1, 0.4]).sd == pytest.approx(0.3 / math.sqrt(2))


def test_the_median_is_of_the_chosen_setting_and_the_best_of_all_runs_stands_beside_it(units):
    (model,) = summarise([units("student", "rte", FIRST, SECOND)], None, {})["models"]
    assert "source" not in model["weights"]  # a path of this machine
    task = model["tasks"]["rte"]
    assert task["setting"] == "lr 1e-05, batch 8, epochs 1"
    found = task["figures"]["accuracy"]
    assert found["seeds"] == {"0": 0.6, "1": 0.65, "2": 0.55}
    assert (found["median"], found["min"], found["max"], found["n"]) == (0.6, 0.55, 0.65, 3)
    assert found["best_of_all_runs"] == 0.9
    assert (task["settings"], task["runs"], task["finished_runs"], task["train_seconds"]) == (2, 6, 6, 12.0)
    assert unit_line(units("student", "rte", FIRST, SECOND)) == ": accuracy 60.0, 55.0 to 65.0, 3 seeds"


def test_a_change_of_the_runs_identity_makes_a_result_another_s(units):
    unit = units("student", "rte", SECOND)
    result = json.loads((unit.runs[0].folder / RESULT_FILE).read_text())
    for key in ("data_sha256", "weights", "bf16", "seed", "max_length", "max_train_samples"):
        assert key in result["identity"]
    assert not {"threads", "device", "output_dir"} & result["identity"].keys()
    assert unit.runs[0].result is not None
    result["identity"]["data_sha256"] = "other"
    write_text(unit.runs[0].folder / RESULT_FILE, json.dumps(result))
    assert unit.runs[0].result is None


def test_the_best_single_answer_stands_beside_the_models(units):
    found = [units("student", "rte", [0.5]), units("teacher", "rte", [0.5])]
    labels = found[0].rows.validation["validation"]["label"][:]
    expected = max(sum(labels), len(labels) - sum(labels)) / len(labels)
    summary = summarise(found, None, {})
    assert summary["single_answer"] == {"rte": {"accuracy": pytest.approx(expected)}}
    (line,) = [line for line in markdown(summary).splitlines() if line.startswith("| no model")]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["-", *[f"{100 * expected:.1f}"] * 2]


def test_both_averages_over_the_tasks_that_there_are():
    def task(*medians):
        return {"figures": {str(number): {"median": median} for number, median in enumerate(medians)}}

    tasks = {
        "cola": task(0.5),
        "mrpc": task(0.9, 0.8),
        "mnli": task(0.7, 0.6),
        "wnli": task(0.1),
        "rte": {"figures": {}},
    }
    found = averages(tasks)
    assert found["paper"]["value"] == pytest.approx((0.5 + 0.9 + 0.7) / 3)
    assert found["glue"]["value"] == pytest.approx((0.5 + 0.85 + 0.65) / 3)
    assert found["glue"]["tasks"] == ["cola", "mrpc", "mnli"]
    assert found["glue"]["all"] is False
    assert averages({name: task(0.5) for name in USUAL})["paper"]["all"] is True
    assert averages({"wnli": task(0.1)}) == {}


def test_what_is_kept_of_the_teacher_by_task_and_on_average(units):
    student = [units("student", "rte", [0.6]), units("student", "mrpc", [0.8], figures={"accuracy": 0.7})]
    teacher = [units("teacher", "rte", [0.8]), units("teacher", "mrpc", [0.9], figures={"accuracy": 0.875})]
    summary = summarise([*student, *teacher], teacher[0].checkpoint, {})
    model, reference = summary["models"]
    assert reference["is_teacher"]
    assert "kept" not in reference
    kept = model["kept"]
    assert kept["tasks"]["rte"] == {"accuracy": pytest.approx(0.75)}
    assert kept["tasks"]["mrpc"] == {"f1": pytest.approx(0.8 / 0.9), "accuracy": pytest.approx(0.8)}
    assert kept["averages"]["paper"] == pytest.approx(1.4 / 1.7)
    assert kept["averages"]["glue"] == pytest.approx((0.6 + 0.75) / (0.8 + 0.8875))
    text = markdown(summary)
    assert "| RTE  | accuracy |   60.0 |                 - |     1 |             60.0 |              75.0 |" in text
    assert "alone, 2 of 8 tasks, as in the paper's average" in text
    assert "70.0, 82.4 % of the teacher's." in text


@pytest.mark.parametrize(("task", "nothing"), [("cola", 0.0), ("rte", 0.5), ("rte", 0.45)])
def test_nothing_is_kept_of_a_teacher_that_is_no_better_than_one_answer(units, task, nothing):
    units = [units("student", task, [0.6]), units("teacher", task, [nothing])]
    summary = summarise(units, units[1].checkpoint, {})
    kept = summary["models"][0]["kept"]
    assert (kept["tasks"][task], kept["averages"], kept["averages_over"]) == ({}, {}, [])
    assert "% of the teacher's" not in markdown(summary)


def test_published_rows_are_of_the_same_size_and_the_mean_is_over_what_all_rows_have(units):
    small = {"num_hidden_layers": 6, "hidden_size": 264, "num_attention_heads": 12, "family": "electra"}
    found = [units("student", name, [0.5], **small) for name in ("stsb", "rte", "qnli")]
    lines = markdown(summarise(found, None, {})).splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][:9]
    assert table[0] == ["model", "layers x hidden", "QNLI", "STS-B", "RTE", "mean of 2"]
    assert table[2][0].endswith("student: median over seeds")
    assert table[2][1:] == ["6 x 264", "50.0", "50.0", "50.0", "50.0"]
    assert table[4][:2] == ["no model: the same answer to every row", "-"]
    assert table[5] == ["BERT-base (teacher): published", "12 x 768", "90.6", "86.3", "65.4", "78.0"]
    assert table[8] == ["MiniLM v2: published", "6 x 264", "87.9", "-", "65.7", "76.8"]
    assert "The mean is over QNLI and RTE, which all rows have;" in "\n".join(lines)
    assert "The paper has no model" not in "\n".join(lines)


def test_a_mean_over_some_tasks_is_never_called_the_average_of_all(units):
    text = markdown(summarise([units("student", "rte", [0.5])], None, {}))
    assert "over all 8 tasks" not in text
    assert "The paper has no model of 4 x 32 (layers x hidden)." in text
    text = markdown(summarise([units("student", name, [0.5]) for name in USUAL], None, {}))
    assert "The paper's average over all 8 tasks (over the first figure of each task above): 50.0." in text
    assert "GLUE's own average over all 8 tasks (over the mean of each task's official figures): 50.0." in text
    assert "The mean is over all 8 tasks;" in text


def test_a_published_mean_is_of_the_row_s_scores_and_not_the_printed_average(units):
    (row,) = [row for row in published.same_size(6, 768) if row.model == "TinyBERT"]
    assert row.average == 79.7
    mean = fmean([82.4, 90.0, 90.4, 91.7, 45.9, 85.1, 87.8, 64.9])
    sizes = {"num_hidden_layers": 6, "hidden_size": 768, "num_attention_heads": 12}
    text = markdown(summarise([units("student", name, [0.5], **sizes) for name in USUAL], None, {}))
    (line,) = [line for line in text.splitlines() if line.startswith("| TinyBERT")]
    assert line.split("|")[-2].strip() == f"{mean:.1f}" == "79.8"


def test_all_published_rows_have_all_columns_of_their_table():
    sizes = [(12, 768), (6, 768), (12, 264), (6, 264), (2, 264)]
    assert [len(published.same_size(*size)) for size in sizes] == [1, 6, 4, 4, 4]
    for size in sizes:
        tasks = set(published.COLUMNS) - ({"stsb"} if size[1] == 264 else set())
        assert all(set(row.scores) == tasks for row in published.same_size(*size))
    assert published.same_size(12, 768) == [published.TEACHER]
    assert published.same_size(3, 384) == []


def test_failed_runs_are_told_once_and_their_setting_isn_t_judged_by_the_lucky_seeds(units):
    unit = units("a|b", "rte", [0.9, None, None], [0.5, 0.6, 0.4])
    summary = summarise([unit], None, {})
    assert summary["models"][0]["tasks"]["rte"]["figures"]["accuracy"]["median"] == 0.5
    text = markdown(summary)
    assert "RTE, failed runs: 2 of 6: diverged \\| at once (lr 0.0001, batch 8, epochs 1, seed 1 and 1 more)." in text
    assert "a\\|b" in text


def test_a_process_that_ended_is_why_its_runs_have_no_result(units):
    unit = units("student", "rte", [0.5, None])
    (unit.runs[1].folder / ERROR_FILE).unlink()
    summary = summarise([unit], None, {unit.name: "ended by signal 9 (Killed)"})
    assert list(summary["models"][0]["tasks"]["rte"]["failed"].values()) == ["ended by signal 9 (Killed)"]


def test_nothing_finished_makes_a_report_too(units, tmp_path):
    summary = summarise([units("student", "rte", [None])], None, {})
    assert "No task of the paper's table was finished." in markdown(summary)
    assert plots.draw(summary, tmp_path)


def test_columns_line_up_and_models_of_one_name_are_told_apart(units, tmp_path):
    here, there = units("a/x/student", "rte", [0.5]), units("b/x/student", "rte", [0.25])
    text = markdown(summarise([here, there], None, {}))
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1
    assert "a/x/student: median" in text
    assert "b/x/student: median" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\nc", "a\\|b c"),
        ("<b>*x*", "\\<b\\>\\*x\\*"),
        ("tiny_bert", "tiny_bert"),
        ("_x_", "\\_x\\_"),
        ("`[", "\\`\\["),
    ],
)
def test_text_is_shown_as_it_is(text, shown):
    assert escaped(text) == shown


def test_the_plot_has_a_bar_a_model_and_task_and_the_teacher_s_line(units, tmp_path):
    models = [units(name, task, values) for name, values in (("$a$", FIRST), ("_b", SECOND), ("teacher", [0.7]))
              for task in ("rte", "cola")]  # fmt: skip
    summary = summarise(models, models[-1].checkpoint, {})
    figure = plots.scores_by_task(summary)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert sorted(bar.get_height() for bar in axes.patches) == pytest.approx([30, 30, 60, 60])
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "CoLA\nMatthews\nteacher 70.0",
        "RTE\naccuracy\nteacher 70.0",
    ]
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [70, 70]
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [0, 100 * summary["single_answer"]["rte"]["accuracy"]]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert [text.split("/")[-1] for text in shown] == [
        *("\\$a\\$", "_b", "teacher (teacher)"),
        "no model: the same answer to every row",
    ]
    files = plots.draw(summary, tmp_path)
    assert [file.name for file in files] == ["scores.png", "scores.svg"]
    assert Path(files[0]).read_bytes().startswith(b"\x89PNG")
    assert b"<?xml" in Path(files[1]).read_bytes()[:100]
