"""Labelled files and GLUE's folders of any content: the right texts and classes, or one line on what is wrong."""

import csv
import io
import json

import glue_data
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import altered, fuzzed, mutated, or_refused, parted_by, texts
from hypothesis import given
from hypothesis import strategies as st

from tutorkd.evaluation import prediction
from tutorkd.evaluation.labelled import labels_of, load_labelled, names_of_labels, problem_of_labels
from tutorkd.evaluation.labelled import load_task as load_any
from tutorkd.glue.data import load_task, load_tests
from tutorkd.glue.tasks import TASKS

names = st.sampled_from(
    ["neg", "pos", "0", "1", "2", "10", "-1", "-2", "01", "0.5", "true", "nan", "pos ", " ", "", "é"]
)
plain_names = st.sampled_from(["neg", "pos", "NA", "null", "true", "1", "01", "1e3", "é"])


def table(texts, names):
    return st.lists(st.tuples(texts, names), min_size=1, max_size=6)


def as_csv(rows):
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("text", "label"), *rows])
    return file.getvalue().encode()


def as_jsonl(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()


def as_parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), file)
    return file.getvalue()


@pytest.fixture
def load(tmp_path):
    def load(name, content):
        """Texts and class names by row, or None where the file was refused in one line that names it."""
        (tmp_path / name).write_bytes(content)
        rows = or_refused(name, load_labelled, str(tmp_path / name), "train", "text", None, "label")
        return rows and (rows["text"][:], rows.features["label"].int2str(rows["label"][:]))

    return load


@fuzzed(40)
@given(rows=table(texts.filter(bool), plain_names).filter(lambda rows: len({label for _, label in rows}) > 1))
def test_the_same_rows_in_csv_jsonl_and_parquet_give_the_same_texts_and_classes(load, rows):
    expected = [text for text, _ in rows], [label for _, label in rows]
    assert load("a.jsonl", as_jsonl(rows)) == expected
    assert load("a.parquet", as_parquet(rows)) == expected
    # in csv as everywhere a line end is a plain newline
    assert load("a.csv", as_csv(rows)) == ([text.replace("\r\n", "\n") for text in expected[0]], expected[1])


@fuzzed(40)
@given(content=mutated(table(texts, names).map(as_csv)))
def test_any_csv_gives_what_pandas_reads_or_is_refused(load, content):
    found = load("a.csv", content)
    if found is not None:
        mark = parted_by(content, "text", "label")
        frame = pandas.read_csv(
            io.BytesIO(content), sep=mark, dtype=str, keep_default_na=False, engine="python", index_col=False
        )
        assert [text.replace("\r\n", "\n") for text in frame["text"]] == [
            text.replace("\r\n", "\n") for text in found[0]
        ]
        assert list(frame["label"]) == found[1]


@fuzzed(40)
@given(content=mutated(table(texts, names | st.integers(-1, 3)).map(as_jsonl)))
def test_any_jsonl_gives_what_json_reads_or_is_refused(load, content):
    found = load("a.jsonl", content)
    if found is not None:
        rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        assert ([row["text"] for row in rows], [str(row["label"]) for row in rows]) == found


@fuzzed(40)
@given(content=mutated(table(texts, names).map(as_parquet)))
def test_any_parquet_gives_what_arrow_reads_or_is_refused(load, content):
    found = load("a.parquet", content)
    if found is not None:
        rows = pq.read_table(io.BytesIO(content))
        assert (rows["text"].to_pylist(), rows["label"].to_pylist()) == found


lists = st.lists(st.sampled_from(["a", "b", "", " ", "é"]), max_size=3) | st.lists(st.integers(-1, 3), max_size=3)
decimals = st.floats(allow_nan=True) | st.integers(-3, 3) | st.none()


@fuzzed(60)
@given(content=mutated(st.one_of(table(texts, lists), table(texts, decimals)).map(as_jsonl)))
def test_any_lists_of_classes_and_numbers_are_those_that_json_reads_or_are_refused(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found = or_refused("a.jsonl", load_any, str(path), "train", "text", None, "label")
    if found is None:
        return
    rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    assert found["text"][:] == [row["text"] for row in rows]
    labels, names = [row["label"] for row in rows], names_of_labels(found)
    if problem_of_labels(found) == "regression":
        assert labels_of(found) == pytest.approx(np.float32(labels))
    elif problem_of_labels(found) == "multi_label_classification":
        assert labels_of(found).tolist() == [[int(name in map(str, label)) for name in names] for label in labels]
    else:
        assert [names[code] for code in labels_of(found)] == list(map(str, labels))


words = st.lists(texts | st.just("w1"), max_size=3)
word_labels = st.lists(st.sampled_from(["O", "B-X", "I-X", ""]), max_size=3) | st.lists(st.integers(-1, 2), max_size=3)


@fuzzed(60)
@given(
    rows=table(words, word_labels) | table(words.filter(bool), st.none()),
    ending=st.sampled_from(["jsonl", "parquet"]),
    data=st.data(),
)
def test_any_words_and_their_labels_are_those_of_the_file_or_are_refused(tmp_path, rows, ending, data):
    draw = st.lists(st.sampled_from(["O", "B-X"]), min_size=9)
    rows = [(of_row, data.draw(draw)[: len(of_row)] if labels is None else labels) for of_row, labels in rows]
    if ending == "parquet" and len({type(label) for _, labels in rows for label in labels}) > 1:
        return  # which no column of Arrow holds
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data.draw(mutated(st.just({"jsonl": as_jsonl, "parquet": as_parquet}[ending](rows)))))
    found = or_refused(path.name, load_any, str(path), "train", "text", None, "label")
    if found is None or problem_of_labels(found) != "token_classification":
        return
    if ending == "jsonl":
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
        there = [json.loads(line) for line in lines if line.strip()]
    else:
        there = pq.read_table(path).to_pylist()
    assert found["text"][:] == [row["text"] for row in there]
    named = [[names_of_labels(found)[code] for code in codes] for codes in found["label"]]
    assert named == [list(map(str, row["label"])) for row in there]


@fuzzed(40)
@given(content=mutated(table(texts, decimals.map(str)).map(as_csv)))
def test_numbers_in_any_csv_are_those_that_pandas_reads_or_are_refused(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    found = or_refused("a.csv", load_any, str(path), "train", "text", None, "label")
    if found is not None and problem_of_labels(found) == "regression":
        mark = parted_by(content, "text", "label")
        frame = pandas.read_csv(
            io.BytesIO(content), sep=mark, dtype=str, keep_default_na=False, engine="python", index_col=False
        )
        assert labels_of(found) == pytest.approx(np.float32(frame["label"].astype(float)))


@fuzzed(40)
@given(content=mutated(table(texts, names).map(as_csv)), data=st.data())
def test_any_file_gives_predict_a_row_for_each_of_its_own_or_is_refused(tmp_path, content, data):
    ending, content = data.draw(
        st.sampled_from([(".csv", content)])
        | mutated(table(texts | st.none(), names).map(as_jsonl)).map(lambda found: (".jsonl", found))
        | mutated(table(texts | st.none(), names).map(as_parquet)).map(lambda found: (".parquet", found))
        | mutated(table(words | st.none(), names).map(as_jsonl)).map(lambda found: (".jsonl", found))
        | mutated(table(words | st.none(), names).map(as_parquet)).map(lambda found: (".parquet", found))
    )
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    of_words = data.draw(st.booleans())
    found = or_refused(path.name, lambda: [row.texts[0] for row in prediction.rows_of(path, ["text"], of_words)])
    if found is None:
        return
    if ending == ".jsonl":
        lines = content.decode("utf-8-sig").split("\n")
        assert found == [json.loads(line).get("text") for line in lines if line.strip()]
    elif ending == ".parquet":
        assert found == pq.read_table(io.BytesIO(content), columns=["text"])["text"].to_pylist()


ARROW = [pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.float16(), pa.float64(), pa.bool_(), pa.null()]
ARROW += [
    pa.date32(),
    pa.list_(pa.int64()),
    pa.dictionary(pa.int8(), pa.string()),
    pa.string_view(),
    pa.decimal128(5, 2),
]
VALUES = {pa.string(): "a", pa.bool_(): True, pa.null(): None, pa.date32(): 7, pa.list_(pa.int64()): [1]}


@st.composite
def glue_columns(draw, names):
    """Columns of a split with any types, names twice, or missing."""
    columns = [name for name in names if draw(st.integers(0, 9))] + draw(st.lists(st.sampled_from(names), max_size=1))
    usual = {name: pa.string() for name in names} | {"label": pa.int64(), "idx": pa.int32()}
    rows = draw(st.integers(0, 4))
    arrays = []
    for name in columns:
        kind = usual[name] if draw(st.integers(0, 5)) else draw(st.sampled_from(ARROW))
        column = st.integers(-1, 6) if kind == usual["label"] else st.just(VALUES.get(kind, 1))
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            column = texts
        if pa.types.is_dictionary(kind):
            column = st.sampled_from(["a", "b"])
        if pa.types.is_binary(kind):
            column = st.binary(max_size=3)
        found = draw(
            st.lists(column | st.none() if draw(st.integers(0, 5)) == 0 else column, min_size=rows, max_size=rows)
        )
        arrays.append(pa.array(list(range(rows)) if kind == usual["idx"] else found, kind))
    return pa.Table.from_arrays(arrays, names=columns)


HUGGINGFACE = {"info": {"features": {"label": {"names": ["0", "1"], "_type": "ClassLabel"}}}}


@pytest.fixture
def folder(tmp_path):
    glue_data.write_task(tmp_path, "rte", train=4, validation=4, test=4)
    glue_data.write_task(tmp_path, "stsb", train=4, validation=4, test=4)
    return tmp_path


def load_or_refused(folder, name, file):
    """The rows by split, or None where the file was refused in one line that names it."""
    if file == "test":
        return or_refused(f"{file}.parquet", load_tests, TASKS[name], str(folder))
    rows = or_refused(f"{file}.parquet", load_task, TASKS[name], str(folder), None)
    return rows and {"train": rows.train, **rows.validation}


@fuzzed(40)
@given(
    name=st.sampled_from(["rte", "stsb"]),
    file=st.sampled_from(["train", "validation", "test"]),
    table=glue_columns(["sentence1", "sentence2", "label", "idx"]),
    features=st.none() | altered(HUGGINGFACE),
)
def test_any_columns_of_glue_give_their_own_values_or_are_refused(folder, name, file, table, features):
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    whole = (folder / name / f"{file}.parquet").read_bytes()
    pq.write_table(table, folder / name / f"{file}.parquet")
    try:
        found = load_or_refused(folder, name, file)
    finally:
        (folder / name / f"{file}.parquet").write_bytes(whole)
    if found is None:
        return
    rows = found["STS-B.tsv" if name == "stsb" else "RTE.tsv"][1] if file == "test" else found[file]
    assert rows["text"][:] == table["sentence1"].to_pylist()
    assert rows["text_pair"][:] == table["sentence2"].to_pylist()
    if file != "test":
        assert rows["label"][:] == pytest.approx([float(label) for label in table["label"].to_pylist()])


@fuzzed(40)
@given(data=st.data())
def test_any_parquet_file_of_glue_gives_what_arrow_reads_or_is_refused(folder, data):
    path = folder / "rte" / "train.parquet"
    whole = path.read_bytes()
    content = data.draw(mutated(st.just(whole)))
    path.write_bytes(content)
    try:
        found = load_or_refused(folder, "rte", "train")
    finally:
        path.write_bytes(whole)
    if found is not None:
        rows = pq.read_table(io.BytesIO(content))
        assert found["train"]["text"][:] == rows["sentence1"].to_pylist()
        assert found["train"]["label"][:] == rows["label"].to_pylist()
