"""Files of results and of runs of any content: they count as they are, or not at all."""

import json
from contextlib import suppress
from typing import get_type_hints

import glue_data
import pytest
import tiny
import yaml
from fuzz import altered, damaged_json, fuzzed, mutated, or_refused
from hypothesis import given
from hypothesis import strategies as st

from tutorkd.comparison.cell import _training
from tutorkd.comparison.matrix import RESULT_FILE, STUDENT_FOLDER, read_cells
from tutorkd.comparison.measures import CAUSAL_MODELS
from tutorkd.comparison.report import markdown, summarise
from tutorkd.config import PretrainingConfig
from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.evaluation.classification import _record_types
from tutorkd.evaluation.language_report import LanguageResult
from tutorkd.evaluation.records import earlier, take_up
from tutorkd.evaluation.report import EvaluationResult, markdown_table, result_of
from tutorkd.export.exporter import _check_folder
from tutorkd.glue import report, runs, summary
from tutorkd.glue.arguments import GlueArguments
from tutorkd.glue.data import load_task
from tutorkd.glue.tasks import TASKS
from tutorkd.pretraining.adapt_arguments import AdaptArguments
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.run_folder import FINISHED_FILE, RUN_FILE, RunFolder

RESULT = EvaluationResult(
    "student", 10, 40, {"accuracy": 0.5, "macro_f1": 0.5}, 0.1, 8, 8, 1.0, 0.9, 1.1, None, 1, "cpu", 2.0
)
LANGUAGE_FIGURES = {
    **dict.fromkeys(("parameters", "bytes", "documents", "text_bytes", "text_tokens", "own_tokens"), 9),
    **{"generation_bytes": 9, "threads": 1, "name": "student", "device": "cpu", "number_format": "float32"},
    **{"is_teacher": False, "not_compared": None, "tasks": {"task": {"acc": 0.5}}},
}
LOG = [{"loss": 2.0, "step": 2, "tokens_per_second": 5.0}, {"eval_probe_auc": 0.6, "step": 4}]


@pytest.fixture
def cell(tmp_path):
    recipe = {
        "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4},
        "variants": ["mlm"],
        "evaluate": {"train": "a.csv", "validation": "b.csv"},
    }
    cell = read_cells(recipe, "r", tmp_path)[-1]
    (cell.folder / STUDENT_FOLDER).mkdir(parents=True)
    return cell


SETTINGS = {"max_length": 16, "device": "cpu"}
TRAINING = {"steps": 4, "tokens": 40, "seconds": 60.0, "flops": 2e12, "log": LOG}


@fuzzed(40)
@given(data=st.data())
def test_a_damaged_result_of_a_cell_counts_as_none_or_has_its_figures(cell, data):
    settings = cell.settings
    whole = {"settings": settings, "training": TRAINING, "evaluation": RESULT.as_record()}
    (cell.folder / RESULT_FILE).write_bytes(data.draw(damaged_json(whole)))
    found = cell.result
    table = markdown(summarise([cell], {}))
    assert ("not finished" in table) == (found is None)
    assert found is None or _told_apart(found["settings"]) == _told_apart(settings)


@pytest.fixture
def causal_cell(tmp_path):
    recipe = {
        "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4, "objective": "causal"},
        "variants": ["clm"],
        "evaluate": {"text": ["h.txt"]},
    }
    cell = read_cells(recipe, "r", tmp_path)[-1]
    cell.folder.mkdir(parents=True)
    return cell


@fuzzed(40)
@given(data=st.data())
def test_a_damaged_result_of_a_causal_cell_counts_as_none_or_has_its_figures(causal_cell, data):
    evaluation = {**dict.fromkeys(get_type_hints(LanguageResult), 1.5), **LANGUAGE_FIGURES}
    whole = {"settings": causal_cell.settings, "training": TRAINING, "evaluation": evaluation}
    file = causal_cell.folder / RESULT_FILE
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert causal_cell.result
    file.write_bytes(data.draw(damaged_json(whole)))
    table = markdown(summarise([causal_cell], {}), CAUSAL_MODELS)
    assert ("not finished" in table) == (causal_cell.result is None)


@pytest.fixture
def glue_cell(tmp_path):
    recipe = {
        "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4},
        "variants": ["mlm"],
        "evaluate": {"tasks": ["cola", "mrpc"], "seeds": [0, 1]},
    }
    cell = read_cells(recipe, "r", tmp_path)[-1]
    cell.folder.mkdir(parents=True)
    return cell


@fuzzed(40)
@given(data=st.data())
def test_a_damaged_result_of_a_cell_on_glue_counts_as_none_or_has_its_figures(glue_cell, data):
    scores = {name: {figure.name: {"0": 0.5, "1": 0.25} for figure in TASKS[name].figures} for name in ("cola", "mrpc")}
    per_task = {"setting": "s", "train_rows": 9, "validation_rows": 9, "single_answer": 0.5}
    evaluation = {
        **{"scores": scores, "failed_runs": 0, "parameters": 9, "device": "cpu", "threads": 1},
        **{key: dict.fromkeys(scores, value) for key, value in per_task.items()},
    }
    whole = {"settings": glue_cell.settings, "training": TRAINING, "evaluation": evaluation}
    file = glue_cell.folder / RESULT_FILE
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert glue_cell.result
    file.write_bytes(data.draw(damaged_json(whole)))
    table = markdown(summarise([glue_cell], {}), glue_cell.measures)
    assert ("not finished" in table) == (glue_cell.result is None)


def _told_apart(settings):
    """What of a cell's settings makes it another: a text by its digest, an option that isn't set like one unknown."""
    sections = {
        section: {key: value for key, value in settings[section].items() if value is not None and key != "corpus"}
        for section in ("distill", "evaluate")
    }
    return settings["kind"], sections


@fuzzed(40)
@given(content=damaged_json({"global_step": 4, "log_history": LOG, "log_levels": {}}))
def test_the_log_of_a_student_is_read_or_its_file_is_named(cell, content):
    (cell.folder / STUDENT_FOLDER / FINISHED_FILE).write_bytes(content)
    with suppress(StopIteration):  # what is measured once the log is taken
        or_refused(FINISHED_FILE, _training, cell)


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    def measure(*arguments):
        raise StopIteration

    monkeypatch.setattr("tutorkd.comparison.cell.step_cost", measure)


RECORD_TYPES = _record_types("single_label_classification")
WEIGHTS = {"source": "/s", "bytes": 40, "modified_ns": 5}


@fuzzed(40)
@given(
    content=damaged_json({"settings": SETTINGS, "weights": WEIGHTS, "classifier": False, "result": RESULT.as_record()}),
)
def test_a_damaged_record_of_an_evaluation_is_refused_or_run_again_or_has_its_figures(tmp_path, content):
    checkpoint = Checkpoint("student", "/s", 40, WEIGHTS)
    record = tmp_path / "student" / "result.json"
    record.parent.mkdir(exist_ok=True)
    record.write_bytes(content)
    or_refused("choose another --output_dir", take_up, tmp_path, SETTINGS, False)
    content = earlier(record, RECORD_TYPES, SETTINGS, checkpoint)
    if content is not None:
        assert "student" in markdown_table([result_of(content["result"], "single_label_classification")])


@pytest.fixture
def unit(tmp_path):
    folder = tmp_path / "model"
    tiny.config("bert").save_pretrained(folder)
    data = load_task(TASKS["mrpc"], glue_data.write_task(tmp_path / "data", "mrpc"), None)
    args = GlueArguments(learning_rates=[1e-4], batch_sizes=[8], epochs=[1], seeds=[0])
    checkpoint = Checkpoint("model", str(folder), 1, {"source": str(folder)})
    return runs.Unit(checkpoint, TASKS["mrpc"], data, tmp_path / "runs", args.runs(TASKS["mrpc"], None))


@fuzzed(40)
@given(data=st.data())
def test_a_damaged_result_of_glue_counts_as_none_or_has_its_figures(unit, data):
    (run,) = unit.runs
    scores = {figure.name: 0.5 for figure in unit.task.figures}
    about = {"parameters": 10, "train_seconds": 2.0, "device": "cpu", "threads": 1}
    run.folder.mkdir(parents=True, exist_ok=True)
    whole = {"identity": run.identity, "scores": scores, **about}
    (run.folder / runs.RESULT_FILE).write_bytes(data.draw(damaged_json(whole)))
    found = summary.summarise([unit], None, {})
    assert (found["models"][0]["tasks"]["mrpc"]["finished_runs"] == 0) == (run.result is None)
    assert report.markdown(json.loads(json.dumps(found)))


@fuzzed(40)
@given(content=damaged_json({"model": "student", "inputs": ["input_ids"], "threads": 1}))
def test_a_damaged_record_of_an_export_is_taken_for_nothing_of_ours(tmp_path, content):
    (tmp_path / "onnx").mkdir(exist_ok=True)
    (tmp_path / "onnx" / "export.json").write_bytes(content)
    or_refused(
        "choose another --output_dir", _check_folder, tmp_path, Checkpoint("s", "/s", 1, {"source": "/s"}), False
    )


ARGUMENTS = [AdaptArguments(model="m"), CorpusArguments(corpus=["c.txt"]), PretrainingConfig("run", use_cpu=True)]
RUN = {
    "model": "m",
    "corpus": ["c.txt"],
    "max_length": 128,
    "processes": 1,
    "per_device_train_batch_size": 32,
    "corpus_sha256": "0",
    "corpus_files_sha256": "0",
}


@fuzzed(40)
@given(
    content=altered(RUN).map(lambda value: yaml.safe_dump(value).encode("utf-8", "surrogatepass"))
    | mutated(st.just(yaml.safe_dump(RUN).encode()))
)
def test_a_damaged_run_file_is_the_same_run_or_refused(tmp_path, content):
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / RUN_FILE).write_bytes(content)
    or_refused(str(tmp_path / "run"), RunFolder, tmp_path / "run", ARGUMENTS, False)
