import csv
import json
import random
import shutil
import signal

import pytest
import tiny
import torch
from transformers import AutoModel

import tutorkd
from tutorkd.cli.main import main
from tutorkd.comparison import command as comparing
from tutorkd.comparison.budget import in_steps
from tutorkd.comparison.matrix import read_cells
from tutorkd.cost import measure_step
from tutorkd.evaluation.arguments import EvaluateArguments
from tutorkd.evaluation.classification import evaluate_models
from tutorkd.options.recipes import load_recipe, recipe_names
from tutorkd.processes import Stopped

RECIPE = """
common: {max_steps: 4, max_length: 24, per_device_train_batch_size: 4, logging_steps: 2, eval_steps: 4, save_steps: 4,
  num_proc: 1}
variants: [VARIANTS]
seeds: [0]
evaluate: {max_length: 24, num_train_epochs: 1}
references: REFERENCES
"""
BROKEN = "{name: broken, method: minilm-v2, relation_heads: 7}"


@pytest.fixture
def matrix(tmp_path, teacher_folder, corpus_file):
    """Makes the command line of a recipe, part of which may be left out, and more added."""
    draw = random.Random(0)
    for name, count in (("train", 24), ("validation", 12)):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            rows.writerows([" ".join(draw.choices(tiny.WORDS, k=12)), i % 2] for i in range(count))

    def command(variants, references=False, without="", more=""):
        recipe = tmp_path / "recipe.yaml"
        text = RECIPE.replace(without, "").replace("VARIANTS", variants).replace("REFERENCES", str(references).lower())
        recipe.write_text(text + more, encoding="utf-8")
        data = ["--train", str(tmp_path / "train.csv"), "--validation", str(tmp_path / "validation.csv")]
        model = ["--teacher", str(teacher_folder), "--corpus", str(corpus_file)]
        return ["compare", str(recipe), "--output_dir", str(tmp_path / "out"), *model, *data]

    return command


@pytest.fixture
def in_process(in_process, monkeypatch):
    """Nothing is drawn."""
    monkeypatch.setattr("tutorkd.comparison.plots.draw", lambda *arguments: [])
    return in_process


def _without_times(result):
    training = [{k: v for k, v in entry.items() if "second" not in k and "runtime" not in k} for entry in
                result["training"]["log"]]  # fmt: skip
    return result["settings"], training, result["evaluation"]["accuracy"], result["training"]["flops"]


def test_cells_run_in_processes_and_a_failing_one_is_reported(matrix, tmp_path, capsys):
    assert main([*matrix(f"mlm, {BROKEN}"), "--jobs", "2"]) == 1
    out = tmp_path / "out"
    summary = json.loads((out / "results.json").read_text())
    good, broken = summary["cells"]
    assert 0 <= good["figures"]["accuracy"] <= 1
    assert "7 relation heads" in broken["error"]
    assert "7 relation heads" in (out / "results.md").read_text()
    assert "7 relation heads" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {
        *("cells", "recipe.yaml", "report.html", "results.json", "results.md"),
        *("score-cost.png", "score-cost.svg", "training.png", "training.svg"),
    }


def test_a_matrix_goes_on_where_it_was(matrix, in_process, tmp_path):
    command = matrix("tutor-kd, mlm", references=True)
    assert main(command) == 0
    cells = tmp_path / "out" / "cells"
    names = ["teacher-seed0", "not-distilled-thin-seed0", "tutor-kd-thin-seed0", "mlm-thin-seed0"]
    assert in_process == names
    before = json.loads((cells / "mlm-thin-seed0" / "result.json").read_text())
    table = (tmp_path / "out" / "results.md").read_text()
    assert table.count("\n| ") == 5
    weights = (cells / "tutor-kd-thin-seed0" / "student" / "model.safetensors").stat().st_mtime_ns

    in_process.clear()
    shutil.rmtree(cells / "mlm-thin-seed0")
    assert main(command) == 0
    assert in_process == ["mlm-thin-seed0"]
    assert _without_times(json.loads((cells / "mlm-thin-seed0" / "result.json").read_text())) == _without_times(before)
    assert (cells / "tutor-kd-thin-seed0" / "student" / "model.safetensors").stat().st_mtime_ns == weights

    in_process.clear()
    (cells / "tutor-kd-thin-seed0" / "result.json").unlink()  # evaluated anew, not distilled anew
    assert main([*command, "--cell", "tutor-kd-thin-seed0"]) == 0
    assert in_process == []
    assert (cells / "tutor-kd-thin-seed0" / "result.json").exists()
    assert (cells / "tutor-kd-thin-seed0" / "student" / "model.safetensors").stat().st_mtime_ns == weights


def test_results_name_the_versions_and_the_machine_of_each_cell(matrix, in_process, tmp_path):
    assert main(matrix("mlm", references=True)) == 0
    for cell in json.loads((tmp_path / "out" / "results.json").read_text())["cells"]:
        assert cell["machine"]["torch"] == torch.__version__
        assert cell["machine"]["bfloat16"] in ("native", "not native")
        assert cell["machine"]["tutorkd"] == tutorkd.__version__


def test_the_recipe_beside_the_results_is_the_one_that_was_run_flags_included(matrix, in_process, tmp_path):
    out = tmp_path / "out"
    assert main(matrix("mlm")) == 0
    in_process.clear()
    assert main(["compare", str(out / "recipe.yaml"), "--output_dir", str(out)]) == 0
    assert in_process == []


def test_a_cell_s_cost_is_that_of_its_steps(matrix, in_process, tmp_path, monkeypatch):
    command = matrix("kd")
    costs = []
    monkeypatch.setattr("tutorkd.comparison.bench.measure_step", lambda *a: costs.append(measure_step(*a)) or costs[-1])
    assert main(command) == 0
    training = json.loads((tmp_path / "out" / "cells" / "kd-thin-seed0" / "result.json").read_text())["training"]
    assert (training["steps"], training["tokens"]) == (4, 4 * 4 * 24)
    assert training["flops"] == 4 * costs[0].flops > 0
    assert training["seconds"] > 0


@pytest.fixture
def of_operations(matrix):
    """The command line of a recipe with a budget in operations."""
    return lambda variants, flops: matrix(variants, without="max_steps: 4, ", more=f"flops: {flops}\n")


def test_a_method_whose_step_costs_less_has_more_steps_of_a_budget_in_operations(of_operations, in_process, tmp_path):
    out = tmp_path / "out"
    assert main([*of_operations("tutor-kd, mlm", "1.0e8")]) == 0
    summary = json.loads((out / "results.json").read_text())
    tutor, plain = (cell["figures"] for cell in summary["cells"])
    for found in (tutor, plain):
        step = found["training_flops"] / found["training_steps"]
        assert found["training_steps"] == 1.0e8 // step >= 2
    assert plain["training_steps"] > 1.5 * tutor["training_steps"]
    lines = (out / "results.md").read_text().splitlines()
    rows = [[word.strip() for word in line.split("|")] for line in (lines[0], *lines[2:4])]
    steps = rows[0].index("steps")
    assert {row[steps] for row in rows[1:]} == {str(int(found["training_steps"])) for found in (tutor, plain)}
    in_process.clear()
    assert main([*of_operations("tutor-kd, mlm", "1.0e8")]) == 0
    assert in_process == []


@pytest.fixture
def of_points(matrix):
    """The command line of a recipe that measures students on their way."""
    return lambda variants, points: matrix(variants, without=", save_steps: 4", more=f"points: {points}\n")


def test_students_are_kept_and_measured_on_their_way(of_points, in_process, tmp_path):
    out = tmp_path / "out"
    assert main(of_points("mlm", 2)) == 0
    cell = out / "cells" / "mlm-thin-seed0"
    result = json.loads((cell / "result.json").read_text())
    (there,) = result["on_the_way"].values()
    assert there["flops"] == result["training"]["flops"] / 2
    data = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    args = EvaluateArguments(**data, output_dir=str(tmp_path / "alone"), max_length=24, num_train_epochs=1, seed=0)
    (alone,) = evaluate_models([str(cell / "student" / "checkpoint-2")], args)
    assert list(result["on_the_way"]) == ["2"]
    assert {name: there["evaluation"][name] for name in alone.scores} == alone.scores
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    (point,) = row["curve"]
    assert (point["step"], point["flops"], point["n"]) == (2, there["flops"], 1)
    assert point["mean"] == alone.accuracy
    assert "so a student trained with only that many steps in all may be better" in (out / "results.md").read_text()
    in_process.clear()
    assert main(of_points("mlm", 2)) == 0
    assert in_process == []


def test_points_that_a_student_was_trained_without_are_told(matrix, of_points, tmp_path, capsys):
    assert main([*matrix("mlm"), "--cell", "mlm-thin-seed0"]) == 0
    assert main([*of_points("mlm", 2), "--cell", "mlm-thin-seed0"]) == 2
    assert (
        "checkpoint-2 isn't there, because the student was trained without these points; --restart"
        in capsys.readouterr().err
    )
    assert main([*of_points("mlm", 2), "--cell", "mlm-thin-seed0", "--restart"]) == 0


def test_a_budget_in_operations_gives_all_seeds_the_same_steps(of_operations, tmp_path, teacher_folder, corpus_file):
    of_operations("kd", "1.0e12")  # so many steps that one masked token more or less would show
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    recipe["common"] |= {"teacher": str(teacher_folder), "corpus": [str(corpus_file)], "max_length": 64}
    recipe |= {"seeds": [0, 1, 2, 3], "evaluate": {"train": "t.csv", "validation": "v.csv"}}
    cells = read_cells(recipe, "r", tmp_path / "out")
    alone = [in_steps([cell]) for cell in cells]  # as their own processes count
    assert {cell.distill.config.max_steps for (cell,), _ in alone} == {in_steps(cells)[0][0].distill.config.max_steps}


def test_variants_that_a_budget_in_operations_doesn_t_pay_for_are_told(of_operations, in_process, tmp_path, capsys):
    assert main([*of_operations(f"mlm, {BROKEN}", "10"), "--dry-run"]) == 1
    shown = capsys.readouterr().out
    assert "mlm-thin-seed0 can't run: flops 10 are too few for one step, which takes " in shown
    assert "broken-thin-seed0 can't run: 7 relation heads" in shown
    assert main([*of_operations("mlm", "10"), "--cell", "mlm-thin-seed0"]) == 2
    assert "flops 10 are too few for one step" in capsys.readouterr().err
    assert main(of_operations(f"mlm, {BROKEN}", "2.0e7")) == 1
    assert in_process == ["mlm-thin-seed0"]
    assert "7 relation heads" in (tmp_path / "out" / "results.md").read_text()


def test_the_time_of_a_run_shorter_than_a_line_of_the_log_is_told(matrix, in_process, tmp_path):
    command = matrix("kd")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("logging_steps: 2", "logging_steps: 50"))
    assert main(command) == 0
    training = json.loads((tmp_path / "out" / "cells" / "kd-thin-seed0" / "result.json").read_text())["training"]
    assert [entry["step"] for entry in training["log"] if "loss" in entry] == [4]
    assert training["seconds"] > 0


def test_a_finished_cell_is_known_however_its_paths_are_spelled(matrix, in_process, tmp_path, monkeypatch):
    command = matrix("mlm", references=True)
    assert main(command) == 0
    in_process.clear()
    monkeypatch.chdir(tmp_path)
    assert main([word.replace(f"{tmp_path}/train", "train").replace("/corpus", "/./corpus") for word in command]) == 0
    assert in_process == []


def test_labelled_rows_that_were_replaced_make_a_cell_unfinished(matrix, in_process, tmp_path):
    command = matrix("mlm")
    assert main(command) == 0
    assert main(command) == 0
    assert in_process == ["mlm-thin-seed0"]
    train = tmp_path / "train.csv"
    train.write_text(train.read_text() + "w1 w2,0\n")
    assert main(command) == 0
    assert in_process == ["mlm-thin-seed0", "mlm-thin-seed0"]


def test_other_settings_in_one_folder_are_refused_unless_restarted(matrix, in_process, tmp_path, capsys):
    command = matrix("mlm")
    assert main(command) == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 4", "max_steps: 5"))
    assert main(command) == 2
    assert "max_steps: 4 there, 5 now" in capsys.readouterr().err
    assert "max_steps: 4" in (tmp_path / "out" / "recipe.yaml").read_text()  # still that of the results beside it

    assert main([*command, "--restart", "--dry-run"]) == 0
    assert "finished" not in capsys.readouterr().out
    assert main([*command, "--restart"]) == 0
    state = tmp_path / "out" / "cells" / "mlm-thin-seed0" / "student" / "trainer_state.json"
    assert json.loads(state.read_text())["global_step"] == 5


def test_a_dry_run_shows_the_cells_and_writes_nothing(matrix, tmp_path, capsys):
    command = [*matrix(f"tutor-kd, {BROKEN}", references=True), "--dry-run"]
    assert main(command) == 1  # one can't run
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "seed0 " in line and "can't run:" not in line]
    assert [row.split()[0] for row in rows] == [
        *("teacher-seed0", "not-distilled-thin-seed0", "tutor-kd-thin-seed0", "broken-thin-seed0"),
    ]
    assert len({len(row.rstrip()) for row in rows}) == 1
    assert rows[3].rstrip().endswith("can't run")
    assert "4 cells, about" in shown
    assert not (tmp_path / "out").exists()
    assert main([*matrix("tutor-kd"), "--dry-run"]) == 0


def test_a_cell_that_can_t_run_isn_t_started_and_the_others_are(matrix, in_process, tmp_path, capsys):
    assert main(matrix(f"mlm, {BROKEN}")) == 1
    assert in_process == ["mlm-thin-seed0"]
    assert "failed   broken-thin-seed0 before it began: 7 relation heads" in capsys.readouterr().out
    good, broken = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert "accuracy" in good["figures"]
    assert "7 relation heads" in broken["error"]


@pytest.mark.parametrize("flag", ["--restart", "--dry-run", "--jobs=1"])
@pytest.mark.parametrize("data", ["--train", "--validation"])
def test_labelled_data_that_aren_t_there_are_told_before_anything_is_done(
    matrix, in_process, tmp_path, capsys, flag, data
):
    command = matrix("mlm")
    assert main(command) == 0
    before = sorted((tmp_path / "out").rglob("*"))
    in_process.clear()
    (tmp_path / "out" / "cells" / "mlm-thin-seed0" / "result.json").unlink()
    assert main([*command, data, str(tmp_path / "none.csv"), flag]) == 2
    assert "none.csv: there is no such file" in capsys.readouterr().err
    assert not in_process
    assert {path.name for path in before} - {path.name for path in (tmp_path / "out").rglob("*")} == set()


def test_a_comparison_that_is_stopped_tells_what_is_finished_and_what_is_missing(
    matrix, in_process, tmp_path, monkeypatch, capsys
):
    here = comparing.run_processes

    def stopped(cells, command, jobs):
        here(cells[:1], command, jobs)
        raise Stopped("stopped; the same command goes on where it was", signal.SIGTERM, {cells[1].name: "out of luck"})

    monkeypatch.setattr(comparing, "run_processes", stopped)
    command = matrix("mlm, kd, distilbert, {name: hot, method: kd, temperature: 4}")
    assert main(command) == 143
    out = tmp_path / "out"
    first, failed, missing, _ = json.loads((out / "results.json").read_text())["cells"]
    assert 0 <= first["figures"]["accuracy"] <= 1
    assert (failed["error"], missing["error"]) == ("out of luck", "not finished")
    table = (out / "results.md").read_text()
    told = "Missing, 3 of 4 cells: kd-thin-seed0 (out of luck); distilbert-thin-seed0, hot-thin-seed0 (not finished)."
    assert told in table
    shown = capsys.readouterr()
    assert table in shown.out
    assert shown.out.endswith("results.json, results.md\n")  # nothing was drawn
    assert shown.err.splitlines()[-1] == "tutorkd: stopped; the same command goes on where it was"

    monkeypatch.setattr(comparing, "run_processes", here)
    assert main(command) == 0
    assert in_process == ["mlm-thin-seed0", "kd-thin-seed0", "distilbert-thin-seed0", "hot-thin-seed0"]
    assert "Missing" not in (out / "results.md").read_text()


def test_an_output_folder_that_can_t_be_made(matrix, tmp_path, capsys):
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert main(matrix("mlm")) == 2
    assert "out can't be made: File exists; choose another --output_dir" in capsys.readouterr().err


def test_mistakes_are_told_in_one_line(matrix, tmp_path, capsys, monkeypatch):
    command = matrix("mlm")
    for changed, message in (
        (["compare"], "takes one recipe"),
        ([*command, "--jbos", "2"], "unknown option --jbos; did you mean --jobs"),
        ([*command, "--jobs", "0"], "--jobs must be 1 or more"),
        ([*command, "--cell", "kd"], "there is no cell kd; there are mlm-thin-seed0"),
        (["compare", "compare-dem"], "there is no recipe compare-dem; did you mean compare-demo"),
        (["compare", "compare-demo"], "compare-demo: no teacher"),
    ):
        assert main(changed) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_are_no_plots_and_all_else(matrix, in_process, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "find_spec", lambda name: None)
    assert main(matrix("mlm")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "results.json, results.md; for plots: pip install 'tutorkd[plots]', and the same command again" in shown
    assert (tmp_path / "out" / "results.json").is_file()


def test_a_cell_that_another_process_runs_is_left_alone(matrix, tmp_path, capsys):
    from filelock import FileLock

    folder = tmp_path / "out" / "cells" / "mlm-thin-seed0"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert main([*matrix("mlm"), "--cell", "mlm-thin-seed0"]) == 2
    assert "mlm-thin-seed0 is in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipe_names("compare"))
def test_the_packaged_recipes_are_matrices(name, tmp_path):
    recipe = load_recipe(name)
    recipe["common"] |= {"teacher": "t", "corpus": ["c"]}
    causal = recipe["common"].get("objective") == "causal"
    if "tasks" not in recipe["evaluate"]:
        recipe["evaluate"] |= {"text": ["a.txt"]} if causal else {"train": "a.csv", "validation": "b.csv"}
    cells = read_cells(recipe, name, tmp_path)
    references = {"undistilled", "teacher"} if recipe["references"] else set()
    assert {cell.kind for cell in cells} == {"distilled", *references}
    methods = {cell.distill.args.method for cell in cells}
    assert len(methods) == (7 if name.startswith("compare-") else 4 if name == "causal-demo" else 1)
    assert {cell.distill.objective.name for cell in cells} == {"causal" if causal else "masked"}


def test_an_undistilled_student_that_is_narrower_is_what_training_starts_from(matrix, tmp_path, in_process):
    sizes = {"student_hidden_size": 16, "student_intermediate_size": 24}
    narrow = f"students: [{{name: narrow, {', '.join(f'{key}: {value}' for key, value in sizes.items())}}}]\n"
    name = "not-distilled-narrow-seed0"
    command = matrix("mlm", references=True, more=narrow)
    assert main([*command, "--cell", name]) == 0
    options = [each for key, value in sizes.items() for each in (f"--{key}", str(value))]
    common = "max_steps 4, max_length 24, per_device_train_batch_size 4, eval_steps 4, num_proc 1, seed 0, data_seed 0"
    options += [word for pair in common.split(", ") for word in ("--" + pair).split()]
    model = command[command.index("--teacher") : command.index("--train")]
    alone = str(tmp_path / "alone")
    assert main(["distill", *model, *options, "--method=mlm", "--save_initial_student", "--output_dir", alone]) == 0
    found, expected = (
        AutoModel.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "out" / "cells" / name / "student", tmp_path / "alone" / "initial_student")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found if "pooler" not in key)
