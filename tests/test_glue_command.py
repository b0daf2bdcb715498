"""The command from end to end, on tiny models and rows in GLUE's layout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from zipfile import ZipFile

import glue_data
import pandas as pd
import pytest
import tiny
import torch
from commands import complete, environment, fail, run_here, save
from filelock import FileLock
from transformers import AutoModelForSequenceClassification, Trainer

from tutorkd.cli.main import main
from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.glue import arguments, runs
from tutorkd.glue import command as fine_tuning
from tutorkd.glue.tasks import TASKS, USUAL
from tutorkd.options.recipes import load_recipe
from tutorkd.processes import Stopped

RTE = dict(enumerate(TASKS["rte"].classes))
CODES = {name: code for code, name in RTE.items()}
ONE_SETTING = ["--learning_rates", "1e-3", "--batch_sizes", "8", "--epochs", "1", "--bf16", "false"]


@pytest.fixture
def in_process(monkeypatch):
    """Units run here, and their tasks are told; nothing is drawn."""
    ran = []
    monkeypatch.setattr(fine_tuning, "run_processes", run_here(ran, lambda unit: unit.task.name))
    monkeypatch.setattr("tutorkd.glue.plots.draw", lambda *arguments: [])
    return ran


def _results(place):
    return json.loads((place / "out" / "results.json").read_text())["models"]


def _command(model, *tasks, seeds=(0,), setting=ONE_SETTING):
    given = ["--tasks", *tasks, "--data-dir", "glue", "--output-dir", "out", "--seeds", *map(str, seeds)]
    return ["glue", model, *given, *setting]


def test_one_command_gives_the_table_of_a_student_and_its_teacher(place, capsys):
    save(tiny.masked_lm("bert"), place / "teacher")
    save(tiny.masked_lm("distilbert", num_hidden_layers=2), place / "student")
    glue_data.write_task(place / "glue", "mrpc")
    complete(*_command("student", "mrpc", seeds=(0, 1)), "--teacher", "teacher", "--jobs", "2", "--max-length", "32")
    shown = capsys.readouterr().out
    assert "runs     4, of which 0 are finished; models x tasks to do: 2" in shown
    assert shown.count("; 2 of 2") == 1
    assert "seeds; " in shown
    student, teacher = _results(place)
    assert (student["layers"], student["hidden_size"], teacher["is_teacher"]) == (2, 32, True)
    for model in (student, teacher):
        assert {name: found["n"] for name, found in model["tasks"]["mrpc"]["figures"].items()} == {
            "f1": 2,
            "accuracy": 2,
        }
    assert (place / "out" / "results.md").read_text() in shown
    assert {file.name for file in (place / "out").iterdir()} == {
        *("runs", "report.html", "results.json", "results.md", "scores.png", "scores.svg"),
    }


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_any_family_is_fine_tuned_on_pairs_and_similarities(family, place, in_process):
    model = save(tiny.masked_lm(family), place / "model")
    for name in ("rte", "stsb"):
        glue_data.write_task(place / "glue", name)
    complete(*_command(model, "rte", "stsb"))
    (found,) = _results(place)
    assert 0 <= found["tasks"]["rte"]["figures"]["accuracy"]["median"] <= 1
    assert -1 <= found["tasks"]["stsb"]["figures"]["spearman"]["median"] <= 1


def test_separable_rows_are_learned_whatever_label_order_a_checkpoint_had(place, in_process):
    order = {"contradiction": 0, "entailment": 1, "neutral": 2}
    config = tiny.config(
        "bert",
        num_hidden_layers=2,
        initializer_range=0.1,
        num_labels=3,
        label2id=order,
        id2label={v: k for k, v in order.items()},
    )
    torch.manual_seed(0)
    model = save(AutoModelForSequenceClassification.from_config(config), place / "model")
    for name in ("mnli", "stsb"):
        glue_data.write_task(place / "glue", name, train=240, validation=30)
    setting = ["--learning_rates", "2e-3", "--batch_sizes", "8", "--epochs", "6", "--bf16", "false"]
    complete(*_command(model, "mnli", "stsb", setting=setting))
    (found,) = _results(place)
    medians = {figure: value["median"] for task in found["tasks"].values() for figure, value in task["figures"].items()}
    assert set(medians) == {"accuracy_matched", "accuracy_mismatched", "spearman", "pearson"}
    assert min(medians.values()) > 0.8, medians


def test_a_stop_tells_the_results_of_what_is_finished(place, in_process, monkeypatch, capsys):
    model = save(tiny.masked_lm(), place / "model")
    for name, rows in (("rte", 16), ("cola", 32)):
        glue_data.write_task(place / "glue", name, train=rows)
    here = fine_tuning.run_processes

    def stopped_after(count):
        def stopped(units, command, jobs, tell):
            here(units[:count], command, jobs, tell)
            raise Stopped("stopped; the same command goes on where it was", signal.SIGTERM, {})

        return stopped

    command = _command(model, "cola", "rte")
    monkeypatch.setattr(fine_tuning, "run_processes", stopped_after(0))
    assert main(command) == 143
    assert not (place / "out" / "results.json").exists()
    monkeypatch.setattr(fine_tuning, "run_processes", stopped_after(1))
    assert main(command) == 143
    (found,) = _results(place)
    assert [name for name, task in found["tasks"].items() if task["figures"]] == ["rte"]
    shown = capsys.readouterr()
    assert (place / "out" / "results.md").read_text() in shown.out
    assert shown.err.splitlines()[-1] == "tutorkd: stopped; the same command goes on where it was"
    monkeypatch.setattr(fine_tuning, "run_processes", here)
    complete(*command)
    assert all(task["figures"] for task in _results(place)[0]["tasks"].values())


def test_it_goes_on_where_it_was_whatever_the_number_of_threads(place, in_process, monkeypatch, capsys):
    model = save(tiny.masked_lm(), place / "model")
    for name, rows in (("rte", 16), ("cola", 32)):
        glue_data.write_task(place / "glue", name, train=rows)
    command = _command(model, "cola", "rte", seeds=(0, 1))
    complete(*command)
    assert in_process == ["rte", "cola"]  # the smaller first
    assert capsys.readouterr().out.endswith("\nall of it on one page: out/report.html\n")
    before = _results(place)

    in_process.clear()
    (unit,) = (place / "out" / "runs").iterdir()
    shutil.rmtree(unit / "cola" / "lr0.001-batch8-epochs1-seed1")
    other = (unit / "cola" / "lr0.001-batch8-epochs1-seed0" / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    complete(*command, "--jobs", "2")
    assert in_process == ["cola"]
    assert (unit / "cola" / "lr0.001-batch8-epochs1-seed0" / "result.json").stat().st_mtime_ns == other
    assert _scores(_results(place)) == _scores(before)

    in_process.clear()
    complete(*_command(model, "cola", seeds=(0, 1, 2)))  # only the new seed is run
    assert in_process == ["cola"]
    assert "runs     3, of which 2 are finished" in capsys.readouterr().out
    assert (unit / "cola" / "lr0.001-batch8-epochs1-seed0" / "result.json").stat().st_mtime_ns == other
    complete(*_command(model, "cola"), "--restart")
    assert (unit / "cola" / "lr0.001-batch8-epochs1-seed0" / "result.json").stat().st_mtime_ns != other


def _scores(models):
    return [found for model in models for task in model["tasks"].values() for found in task["figures"].values()]


def test_a_unit_that_is_asked_to_end_makes_no_further_run(place, monkeypatch, capfd):
    save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    started = []

    def fine_tune(*args):
        started.append(args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runs, "fine_tune", fine_tune)
    unit = f"{find_checkpoint('model').slug}/rte"
    assert main([*_command("model", "rte", seeds=range(3)), "--unit", unit]) == 143
    assert len(started) == 1
    assert not list((place / "out").rglob("error.txt"))


def test_a_killed_run_goes_on_behind_its_last_finished_fine_tuning(place, in_process, capsys):
    save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte", train=200)
    command = _command("model", "rte", seeds=range(8))
    unit = f"{find_checkpoint('model').slug}/rte"
    process = subprocess.Popen(
        [sys.executable, "-m", "tutorkd.cli.main", *command, "--unit", unit],
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        deadline = time.monotonic() + 300
        while not list((place / "out" / "runs" / unit).glob("*/result.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()  # nothing has the chance to tidy up
        process.wait()
    finished = {file: file.stat().st_mtime_ns for file in (place / "out" / "runs" / unit).glob("*/result.json")}
    assert 1 <= len(finished) < 8
    complete(*command)
    assert f"runs     8, of which {len(finished)} are finished" in capsys.readouterr().out
    assert _results(place)[0]["tasks"]["rte"]["finished_runs"] == 8
    assert {file: file.stat().st_mtime_ns for file in finished} == finished


def test_a_run_that_fails_is_told_and_the_others_go_on(place, in_process, monkeypatch, capfd):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    glue_data.write_task(place / "glue", "cola")
    train = Trainer.train

    def fails(self, *arguments):
        if self.args.seed == 1 and "rte" in self.args.output_dir:
            raise RuntimeError("out of memory")
        return train(self, *arguments)

    monkeypatch.setattr(Trainer, "train", fails)
    command = _command(model, "rte", "cola", seeds=(0, 1, 2))
    assert main(command) == 1
    printed = capfd.readouterr()
    assert "1 of 3 runs failed, the first (lr 0.001, batch 8, epochs 1, seed 1): out of memory" in printed.err
    assert "RTE, failed runs: 1 of 3: out of memory" in printed.out
    (found,) = _results(place)
    assert found["tasks"]["rte"]["figures"]["accuracy"]["seeds"].keys() == {"0", "2"}
    assert found["tasks"]["cola"]["finished_runs"] == 3

    in_process.clear()
    monkeypatch.setattr(Trainer, "train", train)
    complete(*command)  # what failed is tried again
    assert in_process == ["rte"]
    assert _results(place)[0]["tasks"]["rte"]["failed"] == {}


def test_a_fine_tuning_that_diverges_is_a_failed_run(place, in_process, monkeypatch, capfd):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "stsb")
    predict = runs.predict
    monkeypatch.setattr(runs, "predict", lambda *arguments: predict(*arguments) * float("nan"))
    assert main(_command(model, "stsb")) == 1
    printed = capfd.readouterr()
    assert "diverged: its answers aren't finite" in printed.out
    assert "Traceback" not in printed.err
    assert "No task of the paper's table was finished." in printed.out
    assert not (place / "model" / "README.md").exists()  # there is nothing to say in it


def test_a_model_of_few_positions_has_its_rows_cut_and_that_is_told(place, in_process, capsys):
    model = save(tiny.masked_lm(max_position_embeddings=16), place / "model")
    glue_data.write_task(place / "glue", "rte")
    complete(*_command(model, "rte"))
    assert "Rows cut earlier than usual, in tokens: RTE at 16." in capsys.readouterr().out
    assert _results(place)[0]["tasks"]["rte"]["max_length"] == 16


def test_a_part_of_the_training_rows_is_said_wherever_scores_are(place, in_process, capsys):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    complete(*_command(model, "rte"), "--max_train_samples", "10")
    shown = capsys.readouterr().out
    assert "Training rows used: RTE 10 of 2,490." in shown
    assert "Validation rows measured on: RTE 12 of 277." in shown
    assert "The runs here used only part of the official rows" in shown
    card = " ".join((place / "model" / "README.md").read_text().split())
    assert "one seed, fine-tuned on 10 of 2,490 rows, measured on 12 of 277 rows" in card


def test_a_smaller_file_than_the_official_one_is_a_part_of_the_rows(place, in_process, capsys):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "mnli")
    complete(*_command(model, "mnli"), "--dry-run")
    assert "24 of 392,702" in capsys.readouterr().out
    complete(*_command(model, "mnli"))
    shown = capsys.readouterr().out
    assert "Training rows used: MNLI 24 of 392,702." in shown
    assert "Validation rows measured on: MNLI 24 of 19,647." in shown


def test_runs_of_other_settings_in_the_folder_are_said_not_to_count(place, in_process, capsys):
    model = save(tiny.masked_lm(), place / "model")
    for name in ("rte", "cola"):
        glue_data.write_task(place / "glue", name)
    complete(*_command(model, "rte", seeds=(0, 1)))
    assert "not in these results" not in capsys.readouterr().out
    complete(*_command(model, "cola"))
    assert "not in these results: 2 other finished runs in out; to have them" in capsys.readouterr().out
    complete(*_command(model, "cola", "rte", seeds=(0, 1)))
    assert "not in these results" not in capsys.readouterr().out
    assert _results(place)[0]["tasks"]["rte"]["finished_runs"] == 2


def test_without_matplotlib_there_is_no_plot_and_all_else(place, in_process, monkeypatch, capsys):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    monkeypatch.setattr(fine_tuning, "find_spec", lambda name: None)
    complete(*_command(model, "rte"))
    assert "results.md; for the plot: pip install 'tutorkd[plots]'" in capsys.readouterr().out
    assert _results(place)[0]["tasks"]["rte"]["figures"]


def test_a_card_that_can_t_be_written_is_told_and_the_results_stand(place, in_process, capsys):
    model = save(tiny.masked_lm(), place / "model")
    (place / "model" / "README.md").write_text("---\ntags: [unclosed\n---\n\nText.\n")
    glue_data.write_task(place / "glue", "rte")
    complete(*_command(model, "rte"))
    assert "README.md can't be read" in capsys.readouterr().out
    assert (place / "model" / "README.md").read_text().endswith("Text.\n")
    assert _results(place)[0]["tasks"]["rte"]["figures"]


def test_a_card_is_left_alone_where_asked(place, in_process):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    complete(*_command(model, "rte"), "--write_card", "false")
    assert not (place / "model" / "README.md").exists()


def test_predictions_are_zipped_and_what_the_leaderboard_still_lacks_is_named(place, in_process, capsys):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "mnli", test=6)
    glue_data.write_task(place / "glue", "rte", test=6)
    command = [*_command(model, "mnli", "rte", seeds=(0, 1)), "--predict"]
    complete(*command)
    (path,) = (place / "out" / "submissions").iterdir()
    with ZipFile(path) as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(contents) == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "RTE.tsv"}
    for name, text in contents.items():
        header, *lines = text.splitlines()
        assert header == "index\tprediction"
        assert [line.split("\t")[0] for line in lines] == [str(number) for number in range(6)]
        words = {"entailment", "not_entailment"} if name == "RTE.tsv" else {"entailment", "neutral", "contradiction"}
        assert {line.split("\t")[1] for line in lines} <= words
    shown = capsys.readouterr().out
    absent = "CoLA.tsv, SST-2.tsv, MRPC.tsv, STS-B.tsv, QQP.tsv, QNLI.tsv, WNLI.tsv"
    assert f"the leaderboard wants one zip of all tasks, but {absent} will be missing" in shown
    (written,) = [line for line in shown.splitlines() if line.startswith(f"written to out/submissions/{path.name}: ")]
    assert set(written.split(": ")[1].split(", ")) == set(contents)
    files = {file: file.stat().st_mtime_ns for file in place.glob("out/runs/*/*/predictions/*")}
    assert len(files) == 6
    in_process.clear()
    complete(*command)  # nothing is made again, no process is started for it
    assert in_process == []
    glue_data.write(place / "glue", "rte", "test", {**glue_data.rows(TASKS["rte"], 6, 99), "label": [-1] * 6})
    complete(*command)
    assert in_process == ["rte"]
    changed = {file for file in files if file.stat().st_mtime_ns != files[file]}
    assert {file.parent.parent.name for file in changed} == {"rte"}


def test_a_dry_run_shows_the_runs_and_the_time_and_writes_nothing(place, capsys):
    model = save(tiny.masked_lm(), place / "model")
    for name in ("rte", "stsb"):
        glue_data.write_task(place / "glue", name)
    complete("glue", model, "--tasks", "rte", "stsb", "--data-dir", "glue", "--output_dir", "out", "--dry-run")
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if "/rte" in line or "/stsb" in line]
    assert [row[1:8] for row in rows] == [["24", "of", whole, "18", "5", "90", "0"] for whole in ("5,749", "2,490")]
    assert "learning rates 5e-05, 3e-05, 2e-05\nbatch sizes    32, 16\n" in shown
    assert "runs           180, about" in shown
    assert not (place / "out").exists()


def test_fast_takes_the_first_setting_three_seeds_and_one_of_a_large_task():
    args, _ = arguments.parser().read(["--fast"])
    small, large = (args.runs(TASKS[name], None) for name in ("rte", "qnli"))
    assert [run.seed for run in small] == [0, 1, 2]
    assert [run.seed for run in large] == [0]
    assert {(run.learning_rate, run.per_device_train_batch_size, run.num_train_epochs) for run in small} == {
        (5e-5, 32, 3)
    }
    args, _ = arguments.parser().read(["--seeds", "4", "4", "7", "--large-seeds", "1", "--epochs", "1"])
    assert [run.seed for run in args.runs(TASKS["rte"], 64)][:2] == [4, 7]
    assert len(args.runs(TASKS["rte"], 64)) == 3 * 2 * 2
    assert {run.seed for run in args.runs(TASKS["qqp"], None)} == {1}
    assert {run.max_length for run in args.runs(TASKS["rte"], 64)} == {64}


def test_the_recipe_says_what_the_defaults_are():
    (default, _), (recipe, _) = arguments.parser().read([]), arguments.parser().read(["--config", "glue"])
    assert default == recipe
    assert load_recipe("glue")["tasks"] == USUAL
    assert "wnli" not in USUAL


def test_mistakes_are_told_in_one_line(place, capfd):
    model = save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    good = _command(model, "rte")
    for argv, message in (
        (["glue"], "takes one or more models, paths or Hub names, ahead of its options"),
        (["glue", "--fast"], "takes one or more models"),
        ([*good, "--tasks", "rt"], "there is no task 'rt'; did you mean rte? There are cola, sst2"),
        ([*good, "--tasks", "rte", "cola"], "lacks cola/train.parquet, cola/validation.parquet: add them"),
        ([*good, "--predict"], "lacks rte/test.parquet"),
        ([*good, "--data-dir", "nowhere"], "--data_dir nowhere: there is no such folder"),
        (["glue", "./nowhere", *good[2:]], "the model ./nowhere: there is no such folder"),
        ([*good, "--teacher", "./nowhere"], "the model ./nowhere: there is no such folder"),
        ([*good, "--max-length", "65"], "max_length 65 is longer than the 64 positions"),
        ([*good, "--jobs", "0"], "--jobs must be 1 or more"),
        ([*good, "--seeds", "-1"], "seeds must be whole numbers from 0, not -1"),
        ([*good, "--learning_rates", "0"], "learning_rates must be numbers above 0, not 0"),
        ([*good, "--learning_rates", "nan"], "learning_rates must be a finite number, not nan"),
        ([*good, "--batch_sizes", "0"], "batch_sizes must be numbers above 0, not 0"),
        ([*good, "--output_dir", "model"], "model holds something that tutorkd glue didn't write; choose another"),
        ([*good, "--output_dir", "model", "--dry-run"], "model holds something that tutorkd glue didn't write"),
        ([*good, "--learning-rate", "1"], "unknown option --learning-rate; did you mean --learning-rates?"),
        ([*good, "--unit", "model/rt"], "there is no unit model/rt"),
    ):
        assert message in fail(capfd, *argv)
    glue_data.write(place / "glue", "rte", "train", {**glue_data.rows(TASKS["rte"], 4), "label": [0, 1, 2, 0]})
    assert "row 3 has the label 2; RTE's are 0 entailment, 1 not_entailment" in fail(capfd, *good)
    glue_data.write(place / "glue", "rte", "train", {"premise": ["a"], "hypothesis": ["b"], "label": [0]})
    assert "no column 'sentence1' among premise, hypothesis, label" in fail(capfd, *good)
    glue_data.write_task(place / "glue", "rte")
    (place / "recipe.yaml").write_text("seeds: []\n")
    assert "seeds takes one value or more, not an empty list" in fail(capfd, *good, "--config", "recipe.yaml")
    assert not (place / "out").exists()


def test_tasks_may_be_named_as_papers_write_them():
    args, _ = arguments.parser().read(["--tasks", "RTE", "SST-2", "sst2", "CoLA"])
    assert args.tasks == ["cola", "sst2", "rte"]


def test_a_plan_times_a_checkpoint_in_16_bits_too(place, capsys):
    save(tiny.masked_lm().to(torch.bfloat16), place / "model")
    glue_data.write_task(place / "glue", "rte")
    complete(*_command("model", "rte"), "--dry-run")
    assert "runs           1, about" in capsys.readouterr().out


def test_a_student_learns_from_the_teacher_that_is_fine_tuned_first_once_and_kept(place, in_process, capsys):
    save(tiny.masked_lm(), place / "teacher")
    save(tiny.masked_lm("distilbert", num_hidden_layers=2), place / "student")
    for name in ("rte", "stsb"):
        glue_data.write_task(place / "glue", name)
    command = [*_command("student", "rte", "stsb"), "--teacher", "teacher", "--distill_from", "teacher"]
    complete(*command)
    slugs = {name: find_checkpoint(name).slug for name in ("teacher", "student")}
    runs_of = {name: place / "out" / "runs" / slug / "rte" for name, slug in slugs.items()}
    classifier = AutoModelForSequenceClassification.from_pretrained(runs_of["teacher"] / "classifier")
    assert classifier.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert not (runs_of["student"] / "classifier").exists()
    identities = {
        name: json.loads(next(folder.glob("*/result.json")).read_text())["identity"] for name, folder in runs_of.items()
    }
    assert identities["student"]["distill_from"] == identities["teacher"]
    assert "distill_from" not in identities["teacher"]
    shown = capsys.readouterr().out
    assert shown.count(f"Learned from the labels and the answers of {place.name}/teacher.") == 1

    in_process.clear()
    complete(*command)
    assert in_process == []
    shutil.rmtree(runs_of["teacher"] / "classifier")
    complete(*command)  # what was lost is made again
    assert in_process == ["rte"]
    assert (runs_of["teacher"] / "classifier" / "model.safetensors").is_file()

    in_process.clear()
    complete(*_command("student", "rte"))  # from labels alone: other runs, beside these
    assert in_process == ["rte"]
    assert len(list(runs_of["student"].glob("*/result.json"))) == 2
    in_process.clear()
    complete(*_command("student", "rte"), "--distill_from", str(runs_of["teacher"] / "classifier"))
    assert in_process == ["rte"]


def test_text_without_labels_is_learned_too_but_for_validation_rows(place, in_process, capsys, monkeypatch):
    """16 rows of further text, 4 of them rows of the validation set, beside 24 labelled ones."""
    build, read = runs.build_trainer, []
    monkeypatch.setattr(
        runs,
        "build_trainer",
        lambda model, tokenizer, rows, *rest: read.append(len(rows)) or build(model, tokenizer, rows, *rest),
    )
    save(tiny.masked_lm(num_hidden_layers=2), place / "student")
    save(AutoModelForSequenceClassification.from_config(tiny.config("bert", id2label=RTE, label2id=CODES)), place / "c")
    glue_data.write_task(place / "glue", "rte")
    more, held = (glue_data.rows(TASKS["rte"], 12, seed) for seed in (7, 1))
    columns = TASKS["rte"].columns
    rows = {column: more[column] + held[column][:4] for column in columns}
    (place / "more.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(columns, pair, strict=True))) for pair in zip(*rows.values(), strict=True))
    )
    command = [*_command("student", "rte"), "--distill_from", "c"]
    complete(*command)
    complete(*command, "--unlabelled", "more.jsonl")  # beside it
    assert "the answers of" in (shown := capsys.readouterr().out)
    assert shown.count("also on 12 rows without labels") == 1
    assert in_process == ["rte", "rte"]
    assert read == [24, 36]
    folder = place / "out" / "runs" / find_checkpoint("student").slug / "rte"
    results = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/result.json")}
    (without, taught) = (results[name] for name in sorted(results))
    assert without["identity"]["unlabelled"] is None
    assert (without["rows"]["train"], taught["rows"]["train"]) == (24, 24)
    in_process.clear()
    shutil.copy("more.jsonl", "copy.jsonl")
    complete(*command, "--unlabelled", "copy.jsonl")
    assert in_process == []  # the same rows
    (place / "copy.jsonl").write_text((place / "more.jsonl").read_text().split("\n", 1)[1])
    complete(*command, "--unlabelled", "copy.jsonl")
    assert in_process == ["rte"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--tasks", "rte", "stsb", "--unlabelled", "m.csv", "--distill_from", "c"],
            "--unlabelled is text for one task",
        ),
        (
            ["--unlabelled", "m.csv"],
            "text without labels is learned from a classifier's answers: name it with --distill",
        ),
        (
            ["--unlabelled", "held.csv", "--distill_from", "c"],
            "held.csv: all of its 12 rows are also in the validation set",
        ),
        (["--unlabelled", "m.csv", "--distill_from", "c"], "data m.csv: there is no such file"),
    ],
)
def test_mistakes_about_text_without_labels_are_told_in_a_line(place, capfd, flags, message):
    save(AutoModelForSequenceClassification.from_config(tiny.config("bert", id2label=RTE, label2id=CODES)), place / "c")
    glue_data.write_task(place / "glue", "rte")
    held = pd.DataFrame(glue_data.rows(TASKS["rte"], 12, 1))
    held[list(TASKS["rte"].columns)].to_csv(place / "held.csv", index=False)
    assert message in fail(capfd, *_command("c", "rte"), *flags)
    assert not (place / "out").exists()


def test_a_task_isn_t_learned_from_a_classifier_of_another_or_an_encoder(place, capfd):
    save(tiny.masked_lm(), place / "student")
    for name in ("rte", "cola"):
        glue_data.write_task(place / "glue", name)
    names = {0: "unacceptable", 1: "acceptable"}
    config = tiny.config("bert", id2label=names, label2id={name: code for code, name in names.items()})
    save(AutoModelForSequenceClassification.from_config(config), place / "cola")
    message = fail(capfd, *_command("student", "cola", "rte"), "--distill_from", "cola")
    assert message.startswith(
        "cola can't be learned from: its classes are unacceptable, acceptable, but those of the labels are"
    )
    message = fail(capfd, *_command("student", "rte"), "--distill_from", "student")
    assert message.startswith("the teacher student isn't a fine-tuned classifier")


def test_a_unit_that_another_process_runs_is_left_alone(place, capfd):
    save(tiny.masked_lm(), place / "model")
    glue_data.write_task(place / "glue", "rte")
    slug = find_checkpoint("model").slug
    folder = place / "out" / "runs" / slug / "rte"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert "rte is in use by another process" in fail(capfd, *_command("model", "rte"), "--unit", f"{slug}/rte")
