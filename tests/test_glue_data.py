"""Rows in the Hub's layout: what is read, and what is refused."""

import datasets
import glue_data
import pytest
import tiny
from datasets import ClassLabel, Dataset

from tutorkd.errors import UserError
from tutorkd.evaluation.finetune import tokenize
from tutorkd.glue.data import check_there, load_task, load_tests
from tutorkd.glue.tasks import TASKS


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_read_with_its_columns_and_the_hub_s_class_codes(name, tmp_path):
    task = TASKS[name]
    data = load_task(task, glue_data.write_task(tmp_path, name), None)
    wanted = glue_data.rows(task, 24)
    assert data.train["label"][:] == wanted["label"]
    assert data.train["text"][:] == wanted[task.columns[0]]
    if len(task.columns) == 2:
        assert data.train["text_pair"][:] == wanted[task.columns[1]]
    if not task.regression:
        assert data.train.features["label"].names == list(task.classes)
    assert list(data.validation) == task.validation_splits
    assert [len(rows) for rows in data.validation.values()] == [12] * len(task.validation_splits)


def test_classes_have_the_hub_s_order():
    assert TASKS["mnli"].classes == ("entailment", "neutral", "contradiction")
    assert TASKS["rte"].classes == TASKS["qnli"].classes == ("entailment", "not_entailment")
    assert TASKS["wnli"].classes == ("not_entailment", "entailment")


def test_files_may_have_the_hub_s_names(tmp_path):
    folder = glue_data.write_task(tmp_path, "rte")
    whole = load_task(TASKS["rte"], folder, None)
    train = tmp_path / "rte" / "train.parquet"
    half = Dataset.from_parquet(str(train))
    for number, rows in enumerate((half.select(range(10)), half.select(range(10, 24)))):
        rows.to_parquet(tmp_path / "rte" / f"train-0000{number}-of-00002.parquet")
    train.unlink()
    check_there(["rte"], folder, predict=False)
    assert load_task(TASKS["rte"], folder, None).digest == whole.digest


def test_all_that_is_missing_is_named_at_once_with_what_to_do(tmp_path):
    folder = glue_data.write_task(tmp_path, "rte")
    glue_data.write_task(tmp_path, "mnli")
    (tmp_path / "mnli" / "validation_mismatched.parquet").unlink()
    with pytest.raises(UserError) as error:
        check_there(["cola", "mnli", "rte"], folder, predict=False)
    message = str(error.value)
    assert "lacks cola/train.parquet, cola/validation.parquet, mnli/validation_mismatched.parquet: add them" in message
    assert message.endswith("or take those that are there: --tasks rte")
    with pytest.raises(UserError, match=r"lacks rte/test.parquet"):
        check_there(["rte"], folder, predict=True)
    with pytest.raises(UserError, match="there is no such folder"):
        check_there(["rte"], str(tmp_path / "nowhere"), predict=False)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rte", {"label": [0, 1, -1]}, "row 3 is unlabelled"),
        ("rte", {"label": [0, 1, 2]}, "row 3 has the label 2; RTE's are 0 entailment, 1 not_entailment"),
        ("stsb", {"label": [0.0, 2.5, -1.0]}, "row 3 is unlabelled"),
        ("stsb", {"label": [0.0, 2.5, 5.1]}, r"row 3 has the label 5\.0?9*\d*; STS-B's go from 0 to 5"),
        ("rte", {"label": ["entailment"] * 3}, "not the Hub's label codes"),
        ("rte", {"label": [0, None, 1]}, "row 2 has no value in column 'label'"),
        ("rte", {"sentence1": ["a", None, "c"]}, "row 2 has no value in column 'sentence1'"),
        ("rte", {"sentence1": [1, 2, 3]}, "holds int64, not text"),
        ("rte", {"sentence1": None}, "no column 'sentence1' among sentence2, label; did you mean 'sentence2'"),
        ("rte", {"label": None}, "no column 'label'"),
    ],
)
def test_rows_that_can_t_be_meant_are_refused(name, change, message, tmp_path):
    glue_data.write_task(tmp_path, name)
    columns = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": [0, 1, 0], **change}
    Dataset.from_dict({key: values for key, values in columns.items() if values}).to_parquet(
        tmp_path / name / "validation.parquet"
    )
    with pytest.raises(UserError, match=message):
        load_task(TASKS[name], str(tmp_path), None)


def test_a_split_without_rows_is_refused(tmp_path):
    glue_data.write_task(tmp_path, "rte", validation=0)
    with pytest.raises(UserError, match=r"rte.validation.parquet is empty"):
        load_task(TASKS["rte"], str(tmp_path), None)


def test_similarities_given_as_classes_and_classes_in_another_order_are_refused(tmp_path):
    for name, classes, message in (
        ("stsb", ["0", "1"], "STS-B's labels are similarities"),
        ("rte", ["not_entailment", "entailment"], "its classes are not_entailment, entailment; RTE's are entailment"),
    ):
        glue_data.write_task(tmp_path, name)
        rows = Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]})
        rows = rows.cast_column("label", ClassLabel(names=classes))
        rows.to_parquet(tmp_path / name / "train.parquet")
        with pytest.raises(UserError, match=message):
            load_task(TASKS[name], str(tmp_path), None)


def test_test_rows_come_without_what_stands_for_labels(tmp_path):
    folder = glue_data.write_task(tmp_path, "mnli", test=5)
    tests = load_tests(TASKS["mnli"], folder)
    assert list(tests) == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    for index, rows in tests.values():
        assert index == list(range(5))
        assert rows.column_names == ["text", "text_pair"]
    columns = glue_data.rows(TASKS["mnli"], 3) | {"idx": [0, 1, 1]}
    glue_data.write(tmp_path, "ax", "test", columns)
    with pytest.raises(UserError, match="has a number twice"):
        load_tests(TASKS["mnli"], folder)


def test_of_several_files_the_one_with_the_wrong_row_is_named(tmp_path):
    folder = glue_data.write_task(tmp_path, "rte")
    (tmp_path / "rte" / "train.parquet").unlink()
    for number, labels in enumerate(([0, 1], [1, 2])):
        columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": labels, "idx": [0, 1]}
        glue_data.write(tmp_path, "rte", f"train-0000{number}-of-00002", columns)
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet: row 2 has the label 2"):
        load_task(TASKS["rte"], folder, None)


def test_numbers_of_test_rows_that_are_no_numbers_are_refused(tmp_path):
    folder = glue_data.write_task(tmp_path, "rte", test=3)
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [-1, -1], "idx": [[0], [1]]}
    Dataset.from_dict(columns).to_parquet(tmp_path / "rte" / "test.parquet")
    with pytest.raises(UserError, match=r"'idx' holds .*, not the numbers of the rows"):
        load_tests(TASKS["rte"], folder)


def test_a_subset_of_the_training_rows_is_one_and_the_same(tmp_path):
    folder = glue_data.write_task(tmp_path, "sst2")
    first, again, whole = (load_task(TASKS["sst2"], folder, rows) for rows in (10, 10, None))
    assert (len(first.train), len(whole.train)) == (10, 24)
    assert first.train["text"][:] == again.train["text"][:] != whole.train["text"][:10]
    assert set(first.train["text"]) <= set(whole.train["text"])
    assert first.digest == again.digest != whole.digest


def test_a_pair_that_is_cut_keeps_both_texts():
    tokenizer = tiny.tokenizer()
    rows = Dataset.from_dict({"text": [" ".join(["w1"] * 60)], "text_pair": ["w2 w3"], "label": [0.5]})
    (ids,) = tokenize(rows, tokenizer, 16)["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    assert len(words) == 16
    assert words == ["[CLS]", *["w1"] * 11, "[SEP]", "w2", "w3", "[SEP]"]


def test_the_hub_is_asked_for_the_configuration_and_split(tmp_path, monkeypatch):
    asked = []

    def load(name, split):
        asked.append((name, split))
        return Dataset.from_dict(glue_data.rows(TASKS["rte"], 4))

    monkeypatch.setattr("tutorkd.data.columns.load_from_hub", load)
    load_task(TASKS["rte"], None, None)
    assert asked == [("nyu-mll/glue:rte", "train"), ("nyu-mll/glue:rte", "validation")]


def test_without_the_hub_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="or give the files with --data_dir"):
        load_task(TASKS["rte"], None, None)
