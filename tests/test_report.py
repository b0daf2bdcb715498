"""What a report says of a folder, against the files that the commands leave."""

import base64
import hashlib
import json
import math
import os
import shlex
import socket
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import SHORT, complete, edited, fail
from fuzz import damaged_json, fuzzed, or_refused
from hypothesis import given
from hypothesis import strategies as st
from report_folders import (
    HOSTILE,
    HOSTILE_MODEL,
    LOG,
    evaluation_result,
    row,
    write_comparison,
    write_evaluation,
    write_glue,
    write_results,
    write_run,
)

from tutorkd.cli import report as command
from tutorkd.evaluation.arguments import parser as evaluation_parser
from tutorkd.evaluation.report import markdown_table
from tutorkd.files import write_text
from tutorkd.locks import HOLDER_FILE, held, in_use
from tutorkd.report import log, settings
from tutorkd.report.charts import Point, bars
from tutorkd.report.folders import sections
from tutorkd.report.markdown import rendered
from tutorkd.report.page import page
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Panel, Part, Section

FILES = {"PyTorch": 4_000_000, "int8": 1_000_000}  # by their bytes


class Read(HTMLParser):
    """A page's text, scripts and attributes, as a browser would find them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.charts: list[dict] = []
        self.words = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag == "script" and self.tags[-1][1].get("type") == "application/json":
            self.charts.append(json.loads(self.scripts.pop()))
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words += data


def read(folder: Path) -> Read:
    return Read(page(folder, sections(folder)))


def part(section: Section, title: str) -> Part:
    (found,) = [each for each in section.parts if each.title.startswith(title)]
    return found


def panels(section: Section, title: str) -> dict[str, Panel]:
    return {panel.title: panel for panel in part(section, title).panels}


def data(panel: Panel) -> list[dict]:
    """The rows of a chart, of all its layers."""
    return rows_of(panel.spec)


def rows_of(spec: dict) -> list[dict]:
    kept = [row for rows in spec.get("datasets", {}).values() for row in rows]
    kept += spec.get("data", {}).get("values", [])
    return kept + [row for layer in spec.get("layer", []) for row in rows_of(layer)]


def test_the_line_that_runs_it_again_finds_the_run_finished(tmp_path, teacher_folder, corpus_file, capfd):
    out = str(tmp_path / "my run")
    told = ["--teacher", str(teacher_folder), "--corpus", str(corpus_file), "--output_dir", out, *SHORT]
    complete("distill", *told, "--learning_rate", "3e-4", "--method", "mlm", "--save_initial_student")
    (section,) = sections(Path(out))
    assert (section.state, section.kind) == (FINISHED, "distillation, masked-language modelling")
    changed = {name: (value, default) for name, value, default in part(section, "Settings that aren't").rows}
    assert changed["learning_rate"] == ("0.0003", "0.0005")
    assert changed["method"] == ("mlm", "auto")
    assert changed["max_length"] == ("16", "128")
    assert "weight_decay" not in changed
    kept = dict(part(section, "Settings at their").rows)
    assert kept["weight_decay"] == "0.01"
    assert not changed.keys() & kept.keys()
    name, *again = shlex.split(part(section, "Run it again").command)
    assert name == "tutorkd"
    assert float(again[again.index("--logging_steps") + 1]) == 1
    assert again[again.index("--save_initial_student") + 1] == "true"
    capfd.readouterr()
    complete(*again)
    assert "is finished; --restart runs it again" in capfd.readouterr().out
    complete("report", out)
    assert "masked-language modelling" in Read((Path(out) / "report.html").read_text(encoding="utf-8")).words


def test_a_figure_of_the_log_has_a_panel_with_its_values_and_times_have_none(tmp_path):
    (section,) = sections(write_run(tmp_path))
    assert section.title == "org/teacher → thin"
    losses = panels(section, "Losses")
    assert [(row["step"], row["value"]) for row in data(losses["loss"])] == [(s, 8.0 / s) for s in range(1, 11)]
    assert (losses["loss"].logarithmic, losses["L_pol"].logarithmic) == (True, False)
    assert panels(section, "Held-out text")["probe AUC"].about == "probe AUC, 0.5 to 1"
    assert list(panels(section, "Speed and steps")) == ["tok/s", "lr"]
    assert list(panels(section, "Rewards")) == ["R_T"]
    tiles = dict(section.tiles)
    assert tiles["loss"] == "8 → 0.8"
    assert tiles["probe AUC"] == "0.75"
    assert tiles["tokens/s, median"] == "600"
    assert (tiles["parameters"], tiles["size on disk"]) == ("0.3 M", "1.2 MB")  # 300,007 numbers of four bytes
    rows = {name: figures for _, name, *figures in part(section, "First to last").rows}
    assert rows["loss"] == ["8", "0.8", "0.8", "8"]


def test_what_isn_t_finite_is_left_out_and_long_logs_are_means_of_windows():
    curves = log.curves_of(
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}, {"step": 3, "loss": 1}]
    )
    assert curves == {"loss": [(3, 1)]}
    long = [(step, float(step)) for step in range(1, 1001)]
    thin = log.thinned(long)
    assert thin[:2] == [(3, 2.0), (6, 5.0)]
    assert thin[-1] == (1000, 1000.0)
    (part,) = log.parts({"run": [{"loss": long}]})
    assert part.note == "Each point is the mean of up to 3 lines of the log."
    finite = bars([Point("a", float("inf")), Point("b", 2.0, 1.0, 4.0)], ".1f")
    assert {row["name"] for row in rows_of(finite)} == {"b"}
    assert "Infinity" not in json.dumps(finite)


def test_seeds_of_a_variant_are_one_line_with_their_range(tmp_path):
    (section,) = sections(write_comparison(tmp_path))
    (loss,) = part(section, "Losses").panels
    found = {(row["series"], row["step"]): (row["low"], row["value"], row["high"]) for row in data(loss)}
    assert found == {(name, step): (step, step + 0.5, step + 1) for name in ("plain", "costly") for step in (1, 2)}
    assert part(section, "Losses").note == "Mean over the seeds; their range is shaded."


def test_a_comparison_shows_scores_against_costs_with_bars_and_its_own_table(tmp_path):
    folder = write_comparison(tmp_path)
    (section,) = sections(folder)
    assert (section.state, section.progress) == (FINISHED, "4 of 4 cells finished")
    assert dict(section.tiles) == {"best mean: costly": "90.0 %", "teacher": "95.0 %"}
    costs = panels(section, "Score against cost")
    assert list(costs) == ["training, operations", "training, time"]  # all have as many parameters
    points = {row["name"]: row for row in data(costs["training, operations"])}
    assert points["plain"]["cost"] == 1e12
    assert [points["plain"][key] for key in ("low", "value", "high")] == pytest.approx([79, 80, 81])
    assert "cost" not in points["teacher"]
    assert part(section, "Run it again").command == shlex.join(
        ["tutorkd", "compare", str(folder / "recipe.yaml"), "--output_dir", str(folder)]
    )
    assert "Parameters are the classifier's." in read(folder).words  # the caption of results.md


def test_the_losses_of_different_methods_have_panels_of_their_own():
    curves = {"loss": [(1, 2.0)], "eval_loss": [(1, 2.0)], "eval_probe_auc": [(1, 0.7)]}
    runs = {name: [curves] for name in ("a", "b", "c")}
    losses, heldout = log.parts(runs, {"a": "kd", "b": "minilm-v2", "c": "kd"})
    assert [panel.title for panel in losses.panels] == ["loss, kd", "loss, minilm-v2"]
    assert [[row["series"] for row in data(panel)] for panel in losses.panels] == [["a", "c"], ["b"]]
    assert [panel.title for panel in heldout.panels] == ["held-out loss, kd", "held-out loss, minilm-v2", "probe AUC"]
    assert [panel.title for panel in log.parts(runs, dict.fromkeys("abc", "kd"))[0].panels] == ["loss"]


@pytest.mark.parametrize(
    ("seeds", "caveat"),
    [((), ""), ((0,), ", which learned nothing with 1 of 2 seeds"), ((0, 1), ", which learned nothing")],
)
def test_the_best_is_told_to_have_learned_nothing_where_every_row_got_the_same_class(tmp_path, seeds, caveat):
    with edited(write_comparison(tmp_path) / "results.json") as summary:
        costly = [cell for cell in summary["cells"] if cell["variant"] == "costly"]
        for seed in seeds:
            costly[seed]["evaluation"]["only_class"] = "1"
    (section,) = sections(tmp_path)
    assert dict(section.tiles) == {f"best mean: costly{caveat}": "90.0 %", "teacher": "95.0 %"}


def test_runs_of_one_title_in_a_folder_are_told_apart_by_their_folders(tmp_path):
    write_run(tmp_path / "first")
    write_run(tmp_path / "second")
    write_run(tmp_path / "third", student="quarter")
    assert {section.title for section in sections(tmp_path)} == {
        *("org/teacher → thin (first)", "org/teacher → thin (second)", "org/teacher → quarter"),
    }


def test_variants_of_equal_operations_stand_side_by_side_the_best_first(tmp_path):
    with edited(write_comparison(tmp_path) / "results.json") as summary:
        for each in summary["rows"]:
            if "training_flops" in each["figures"]:
                each["figures"]["training_flops"]["mean"] = 1e12
    (section,) = sections(tmp_path)
    costs = panels(section, "Score against cost")
    assert list(costs) == ["At equal operations", "training, time"]
    shown = data(costs["At equal operations"])
    assert [row["name"] for row in shown] == ["teacher", "costly", "plain"]
    *_, references, variants = costs["At equal operations"].spec["layer"]
    assert variants["transform"] == [{"filter": {"field": "name", "oneOf": ["plain", "costly"]}}]
    assert references["transform"] == [{"filter": {"not": variants["transform"][0]["filter"]}}]
    assert variants["encoding"]["color"]["scale"]["range"] == ["var(--series-0)", "var(--series-1)"]  # as the legend
    assert variants["encoding"]["shape"]["scale"]["range"] == ["circle", "square"]
    assert [shown[2][key] for key in ("low", "value", "high")] == pytest.approx([79, 80, 81])


def test_a_reference_that_is_far_from_the_variants_is_told_and_not_drawn(tmp_path):
    with edited(write_comparison(tmp_path) / "results.json") as summary:
        summary["rows"][0]["figures"]["accuracy"]["mean"] = 0.1  # the teacher's; the variants have 0.8 and 0.9
    (section,) = sections(tmp_path)
    names = {row["name"] for row in data(panels(section, "Score against cost")["training, operations"])}
    assert names == {"plain", "costly"}
    assert part(section, "Score against cost").note.endswith("Far off and not drawn: teacher 10.")


def test_a_score_that_is_no_number_isn_t_the_best(tmp_path):
    with edited(write_comparison(tmp_path) / "results.json") as summary:
        summary["rows"][1]["figures"]["accuracy"]["mean"] = math.nan  # of plain, which stands first
    (section,) = sections(tmp_path)
    assert dict(section.tiles) == {"best mean: costly": "90.0 %", "teacher": "95.0 %"}


def test_a_comparison_shows_the_versions_and_machines_of_its_cells_each_once(tmp_path):
    with edited(write_comparison(tmp_path) / "results.json") as summary:
        for number, cell in enumerate(summary["cells"][1:]):
            cell["machine"] = {"torch": "2.9", "processor": f"processor {number % 2}"}
    (section,) = sections(tmp_path)
    assert part(section, "Environment").rows == [["torch", "2.9"], ["processor", "processor 0; processor 1"]]


def test_a_comparison_in_progress_shows_how_far_its_cells_came(tmp_path):
    write_run(tmp_path / "cells" / "kd-half-seed0" / "student", method="kd")
    write_text(tmp_path / "cells" / "kd-half-seed0" / "result.json", json.dumps({"training": {}}))
    write_run(tmp_path / "cells" / "kd-half-seed1" / "student", finished=False, method="kd", max_steps=20)
    with held(tmp_path):
        (section,) = sections(tmp_path)
        assert section.state == RUNNING
    assert part(section, "Cells").rows == [
        ["kd-half-seed0", "finished"],
        ["kd-half-seed1", "step 10 of 20 at its last checkpoint"],
    ]
    assert ("method", "kd", "auto") in part(section, "Settings that aren't").rows
    (other,) = sections(tmp_path)
    assert other.state == STOPPED


def test_glue_has_a_bar_for_each_model_with_its_range(tmp_path):
    (section,) = sections(write_glue(tmp_path))
    (panel,) = part(section, "Scores by task").panels
    bars = {row["name"]: row for row in data(panel) if "name" in row}
    assert bars["student"] == {"name": "student", "group": "CoLA", "value": 40.0, "low": 30.0, "high": 60.0}
    assert bars["teacher (teacher)"]["value"] == 50.0
    assert part(section, "Scores by task").note == "The line across a group: no model: the same answer to every row."
    line = f"tutorkd glue models/student --tasks cola --teacher teacher --fast true --output_dir {tmp_path}"
    assert part(section, "Run it again").command == line
    assert ["processor", "a processor"] in part(section, "Environment").rows


def test_models_of_an_evaluation_have_bars_with_their_errors_and_quartiles(tmp_path):
    (section,) = sections(write_evaluation(tmp_path))
    first = data(panels(section, "Scores")["accuracy %"])[0]
    assert [first[key] for key in ("low", "value", "high")] == pytest.approx([88, 90, 92])
    sizes = panels(section, "Sizes and speed")
    assert [data(sizes["ms a sentence"])[0][key] for key in ("low", "value", "high")] == [1.5, 2.0, 3.0]
    assert data(sizes["size on disk, MB"])[0]["value"] == pytest.approx(6.0)
    assert shlex.split(part(section, "Run it again").command)[:4] == ["tutorkd", "evaluate", "--train", "train.csv"]


@pytest.mark.parametrize("preferred", [True, False])
def test_the_number_format_that_the_machine_chose_isn_t_a_changed_setting(monkeypatch, preferred):
    monkeypatch.setattr(settings, "prefers_bfloat16", lambda: preferred)
    for bf16 in (True, False):
        changed, kept = settings.beside_defaults({"bf16": bf16}, evaluation_parser())
        assert [setting.name for setting in (kept if bf16 == preferred else changed)] == ["bf16"]
        line = settings.command(["tutorkd", "evaluate"], {"bf16": bf16}, evaluation_parser())
        assert line == f"tutorkd evaluate --bf16 {str(bf16).lower()}"  # what another machine does isn't known


def test_models_are_called_in_charts_as_in_tables_by_the_last_part_of_their_path(tmp_path):
    names = ("runs/first/student", "runs/second/student", "org/teacher")
    (section,) = sections(write_evaluation(tmp_path, names))
    shown = ["first-student", "second-student", "teacher"]
    assert [row["name"] for row in data(panels(section, "Scores")["accuracy %"])][:3] == shown
    assert [name for name, _ in section.tiles] == [f"accuracy %: {name}" for name in shown]
    assert f" --models {' '.join(names)} " in part(section, "Run it again").command


def test_models_under_other_names_are_run_again_from_where_they_lay(tmp_path):
    names = ("teacher", "runs/student")
    write_evaluation(tmp_path, names)
    for folder, name, source in (("teacher", "teacher", "/models/large"), ("student", "runs/student", "runs/student")):
        record = {"settings": {}, "weights": {"source": source}, "result": {"name": name, "parameters": 10}}
        (tmp_path / folder).mkdir()
        write_text(tmp_path / folder / "result.json", json.dumps({**record, "classifier": True}))
    line = part(sections(tmp_path)[0], "Run it again").command
    assert " --models /models/large runs/student --names teacher " in line
    assert " --save_models true" in line


def test_seeds_of_a_model_are_one_bar_between_the_lowest_and_the_highest(tmp_path):
    results = [evaluation_result("a", 0.5, seed=0), evaluation_result("a", 0.7, seed=1), evaluation_result("b", 0.9)]
    (section,) = sections(write_results(tmp_path, results))
    accuracy = panels(section, "Scores")["accuracy %"]
    found = {row["name"]: [row.get(key) for key in ("low", "value", "high")] for row in data(accuracy)}
    assert found["a"] == pytest.approx([50, 60, 70])
    assert section.progress == "2 models"
    line = part(section, "Run it again").command
    assert "--models a b --" in line
    assert "--seeds 0 1 --" in line


def test_times_over_seeds_are_the_medians_that_the_table_has(tmp_path):
    times = (1.0, 2.0, 6.0)
    results = [
        replace(evaluation_result("a", 0.5, seed=seed), milliseconds_per_sentence=took)
        for seed, took in enumerate(times)
    ]
    (section,) = sections(write_results(tmp_path, results))
    panel = panels(section, "Sizes and speed")["ms a sentence"]
    assert panel.about == "median over seeds, lowest to highest"
    assert [data(panel)[0][key] for key in ("low", "value", "high")] == [1, 2, 6]
    assert " 2.00 (" in markdown_table(results)
    assert panels(section, "Scores")["accuracy %"].about == "mean over seeds, lowest to highest"


def test_figures_of_embedding_models_have_bars_with_their_errors(tmp_path):
    model = {"name": "m", "parameters": 10, "is_teacher": False, "milliseconds_per_text": 2.0}
    model |= {"figures": {"STS, Spearman": 0.75}, "standard_errors": {"STS, Spearman": 0.05}}
    write_text(tmp_path / "results.json", json.dumps({"settings": {"seed": 0}, "results": [model]}))
    (section,) = sections(tmp_path)
    (row, *_) = data(panels(section, "Scores")["STS, Spearman"])
    assert [row[key] for key in ("low", "value", "high")] == pytest.approx([0.7, 0.75, 0.8])
    assert dict(section.tiles) == {"STS, Spearman: m": "0.750"}
    assert "ms a text" in panels(section, "Sizes and speed")


def test_students_judged_by_glue_are_shown_by_their_mean_over_tasks(tmp_path):
    rows = [
        row(name, mean=value, cola=0.4, training_flops=flops)
        for name, value, flops in (("a", 0.6, 1e9), ("b", 0.5, 2e9))
    ]
    write_text(tmp_path / "results.json", json.dumps({"rows": rows, "cells": []}))
    (section,) = sections(tmp_path)
    assert dict(section.tiles) == {"best mean: a": "60.0 %"}
    (cost,) = part(section, "Score against cost").panels
    assert {row["name"]: row["value"] for row in data(cost)} == {"a": 60, "b": 50}


def test_a_page_s_bars_are_those_of_the_plots_and_of_the_table(tmp_path):
    """Over several fine-tunings of each student they are standard errors of the mean over students, not deviations."""
    rows = [row(name, mean=0.6, training_flops=flops) for name, flops in (("a", 1e9), ("b", 2e9))]
    rows[0]["figures"]["mean"] |= {"sd": 0.03, "n": 9, "standard_error": 0.01}
    rows[1]["figures"] |= {"mean_error": {"mean": 0.02, "sd": None, "n": 1}}
    rows[1]["figures"]["mean"] |= {"sd": None, "n": 1, "standard_error": None}
    write_text(tmp_path / "results.json", json.dumps({"rows": rows, "cells": []}))
    (section,) = sections(tmp_path)
    shown = part(section, "Score against cost")
    found = {each["name"]: [each["low"], each["high"]] for each in data(shown.panels[0])}
    assert found["a"] == pytest.approx([59, 61])
    assert found["b"] == pytest.approx([58, 62])
    assert shown.note == "Bars: standard error over seeds or standard error of the score; higher is better."


@pytest.mark.parametrize(
    ("error", "about", "ends"),
    [({"standard_error": 0.02}, "± its standard error", (76.25, 80.25)), ({}, "", (None, None))],  # {}: of earlier runs
)
def test_a_small_classifier_is_shown_beside_its_teacher(tmp_path, error, about, ends):
    models = [
        {
            "name": name,
            "parameters": 10,
            "bytes": size,
            "scores": {"accuracy": 0.7825},
            "agreement": 0.9,
            "milliseconds": 1.5,
            **error,
        }
        for name, size in (("teacher", 4_000_000), ("student, int8", 1_000_000))
    ]
    settings = {
        "max_length": 48,
        "teacher": "org/teacher",
        "distill_from": {"source": "org/teacher", "revision": "abc"},
    }
    write_text(
        tmp_path / "results.json", json.dumps({"settings": settings, "machine": {"torch": "2"}, "models": models})
    )
    (section,) = sections(tmp_path)
    assert section.kind == "small classifier"
    assert list(panels(section, "Scores")) == ["accuracy %", "same as teacher %"]
    accuracy = panels(section, "Scores")["accuracy %"]
    assert accuracy.about == about
    for shown in data(accuracy):
        assert (shown.get("low"), shown.get("high")) == pytest.approx(ends)
        assert shown["figure"] == f"{78.25:.1f}" == "78.2"  # as in the table, where d3-format says 78.3
    assert dict(section.tiles) == {
        **{f"accuracy %: {name}": "78.2" for name in ("teacher", "student, int8")},
        **{f"ms a row: {name}": "1.50" for name in ("teacher", "student, int8")},
    }
    assert [row["value"] for row in data(panels(section, "Sizes and speed")["size on disk, MB"])[:2]] == [4.0, 1.0]
    line = f"tutorkd distill-task --max_length 48 --teacher org/teacher --output_dir {tmp_path}"
    assert part(section, "Run it again").command == line
    assert ("distill_from", "org/teacher") in part(section, "What it was made from").rows


@pytest.mark.parametrize("write", [write_run, lambda folder: folder])
def test_exported_files_are_shown_beside_pytorch_alone_and_in_a_run_s_folder(tmp_path, write):
    write(tmp_path)
    shared = {"difference": 1e-6, "agreement": 0.98765, "scores": {"accuracy": 0.8}}
    files = [{"name": name, "bytes": size, "milliseconds": size / 1e6, **shared} for name, size in FILES.items()]
    record = {"model": "m", "checked_on": "9 rows", "threads": 1, "agreement": "a share", "machine": {"torch": "2"}}
    write_text(tmp_path / "onnx" / "export.json", json.dumps({**record, "files": files}))
    (section,) = sections(tmp_path)
    found = panels(section, "On a device")
    for title in ("size on disk, MB", "ms a row"):
        assert {row["name"]: row["value"] for row in data(found[title])} == {"PyTorch": 4, "int8": 1}
    assert {row["value"] for row in data(found["accuracy %"])} == {80}
    nearness = part(section, "Nearness")
    assert nearness.rows == [["int8", "0.9877", "1.0e-06"]]
    assert nearness.note == "On 9 rows, threads: 1. Nearness: a share."


def test_a_folder_of_several_has_a_section_each_in_the_order_of_their_making(tmp_path):
    first = write_run(tmp_path / "z")
    write_run(tmp_path / "a", finished=False)
    os.utime(first / "run.yaml", (1, 1))
    write_evaluation(tmp_path / "evaluation")
    (tmp_path / "data").mkdir()
    found = sections(tmp_path)
    assert [section.kind for section in found] == ["distillation, Tutor-KD"] * 2 + ["evaluation"]
    assert [section.state for section in found] == [FINISHED, STOPPED, FINISHED]
    assert found[1].progress == "step 10 of 20, where its last checkpoint is"
    assert [tag for tag, _ in read(tmp_path).tags].count("section") == 3


@pytest.mark.parametrize("write", [write_run, write_comparison, write_evaluation, write_glue])
def test_a_name_that_is_a_script_stays_a_name(tmp_path, write):
    hostile = HOSTILE_MODEL if write is write_evaluation else HOSTILE
    given = {
        write_run: {"teacher": HOSTILE, "log": [*LOG, {"step": 3, HOSTILE: 1.0}]},
        write_comparison: {"names": (HOSTILE, "b")},
        write_evaluation: {"names": (hostile,)},
        write_glue: {"title": HOSTILE},
    }[write]
    found = read(write(tmp_path, **given))
    assert len(found.scripts) == 2  # the charts' and the page's
    assert not [attributes for tag, attributes in found.tags if tag == "img" or "onerror" in attributes]
    assert hostile in found.words
    assert hostile in json.dumps(found.charts, ensure_ascii=False) or write is write_run


def test_a_browser_may_run_these_scripts_alone_and_fetch_nothing(tmp_path):
    found = read(write_run(tmp_path))
    (policy,) = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts]
    assert policy.startswith("default-src 'none'; script-src 'unsafe-eval' 'sha256-")
    assert [policy.count(f"'sha256-{digest}'") for digest in digests] == [1, 1]
    assert not [attributes for _, attributes in found.tags if {"src", "srcset", "action"} & attributes.keys()]
    assert not [a["href"] for _, a in found.tags if "href" in a and not a["href"].startswith("#")]


def test_markdown_keeps_tables_and_alignment_and_neither_links_nor_html():
    html = rendered("## a *b*\n\n| x | y |\n| - | -: |\n| 1 | <b>2</b> |\n\n[l](http://a.b) ![p](http://a.b/c.png)")
    assert "<h4>a <em>b</em></h4>" in html
    assert '<td style="text-align:right">&lt;b&gt;2&lt;/b&gt;</td>' in html
    assert "<a" not in html
    assert "<img" not in html


def test_what_a_report_can_t_be_made_of_is_told(tmp_path, capfd, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fail(capfd, "report", str(empty)).startswith(f"{empty} holds nothing to report on; looked for: run.yaml of")
    assert fail(capfd, "report", str(tmp_path / "none")) == f"{tmp_path / 'none'} isn't a folder here"
    assert fail(capfd, "report") == "tutorkd report takes one folder, ahead of its options, not 0"
    write_text(empty / "results.json", json.dumps({"rows": [{"kind": "distilled"}], "cells": []}))
    message = fail(capfd, "report", str(empty))
    assert message.startswith(f"the files in {empty} are damaged or of another version, so there is no report")
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "altair" else name)
    assert fail(capfd, "report", str(empty)) == "a report needs altair: pip install 'tutorkd[report]'"


@fuzzed(15)
@given(drawn=st.data())
@pytest.mark.parametrize("write", [write_comparison, write_evaluation, write_glue])
def test_a_damaged_result_is_shown_or_refused(tmp_path, write, drawn):
    write(tmp_path)
    whole = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (tmp_path / "results.json").write_bytes(drawn.draw(damaged_json(whole)))
    or_refused(str(tmp_path), sections, tmp_path)
    write(tmp_path)


def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(tmp_path):
    write_run(tmp_path)
    (tmp_path / "run.yaml").write_bytes(b"a: [\xff")
    (tmp_path / "trainer_state.json").write_text("{", encoding="utf-8")
    (section,) = sections(tmp_path)
    assert section.state == STOPPED


@pytest.mark.parametrize("place", ["", "checkpoint-10"])
def test_a_run_in_python_is_shown_by_the_state_that_its_trainer_saves(tmp_path, place):
    folder = write_run(tmp_path / "student")
    (folder / "run.yaml").unlink()
    state = (folder / "trainer_state.json").read_text(encoding="utf-8")
    (folder / "trainer_state.json").unlink()
    write_text(folder / place / "trainer_state.json", state)
    (section,) = sections(folder)
    assert (section.kind, section.title, section.state) == ("training in Python", "student", FINISHED)
    assert section.progress == "10 steps"
    assert "loss" in " ".join(panels(section, "Losses"))
    assert not [each for each in section.parts if each.title in ("Run it again", "Settings")]
    stopped = json.loads(state) | {"max_steps": 20}
    write_text(folder / place / "trainer_state.json", json.dumps(stopped))
    assert sections(folder)[0].state == (FINISHED if place == "" else STOPPED)  # where all is saved, it ended earlier


def test_a_folder_is_in_use_while_its_holder_lives(tmp_path):
    assert not in_use(tmp_path)
    with held(tmp_path):
        assert in_use(tmp_path)
        holder = json.loads((tmp_path / HOLDER_FILE).read_text(encoding="utf-8"))
    assert not in_use(tmp_path)
    (tmp_path / HOLDER_FILE).write_text(json.dumps({**holder, "process": 2**22 + 1}), encoding="utf-8")  # above any id
    assert not in_use(tmp_path)
    (tmp_path / HOLDER_FILE).write_text(json.dumps({**holder, "host": f"not-{socket.gethostname()}"}), encoding="utf-8")
    assert in_use(tmp_path)


def test_a_watched_page_grows_with_the_log_and_is_written_last_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_SECONDS", 1)
    folder, file = tmp_path / "run", tmp_path / "run" / "report.html"

    def wait_for(what: str) -> str:
        for _ in range(300):
            if file.exists() and what in (text := file.read_text(encoding="utf-8")):
                return text
            time.sleep(0.1)
        raise AssertionError(what)

    with held(folder):
        watching = threading.Thread(target=command.run, args=([str(folder), "--watch"],))
        watching.start()
        write_run(folder, finished=False)
        assert 'data-refresh="1"' in wait_for("step 10 of 20")
        write_text(
            folder / "checkpoint-10" / "trainer_state.json",
            json.dumps({"global_step": 15, "max_steps": 20, "log_history": LOG}),
        )
        wait_for("step 15 of 20")
        write_run(folder)
    watching.join(60)
    assert not watching.is_alive()
    assert "data-refresh" not in wait_for("10 steps")


def test_a_command_ends_with_its_page_which_one_of_several_processes_writes(tmp_path, capfd, monkeypatch):
    write_run(tmp_path)
    monkeypatch.setenv("RANK", "1")
    command.tell_page(tmp_path)
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "report.html").exists()
    monkeypatch.setenv("RANK", "0")
    command.tell_page(tmp_path, "report  ")
    assert capfd.readouterr().out == f"report   {tmp_path}/report.html\n"
    assert "org/teacher → thin" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_where_a_command_can_t_write_its_page_it_names_the_line_that_does(tmp_path, capfd, monkeypatch):
    folder = tmp_path / "a run"
    command.tell_page(folder)  # which isn't there
    assert capfd.readouterr().out == f"all of it on one page: tutorkd report '{folder}'\n"
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "altair" else name)
    command.tell_page(folder)
    line = f"pip install 'tutorkd[report]', then tutorkd report '{folder}'"
    assert capfd.readouterr().out == f"all of it on one page: {line}\n"
