"""Labelled data from files: classes, their order, and what is refused."""

import bz2
import io
import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import write_rows
from datasets import ClassLabel, Dataset, Features, List, Value

from tutorkd.errors import UserError
from tutorkd.evaluation.labelled import (
    align_labels,
    labels_of,
    load_labelled,
    load_task,
    names_of_labels,
    tell_repeated,
    without,
)


def read(source, text="text", pair=None, label="label"):
    return load_labelled(str(source), "train", text, pair, label)


def test_integers_become_class_numbers_in_order_of_value(tmp_path):
    rows = [{"text": t, "label": n} for t, n in (("a", 10), ("b", 2), ("c", 10), ("d", 7))]
    data = read(write_rows(tmp_path / "d.jsonl", rows))
    assert data.features["label"].names == ["2", "7", "10"]
    assert data["label"][:] == [2, 0, 2, 1]
    assert data["text"][:] == ["a", "b", "c", "d"]


def test_strings_become_class_numbers_in_order_of_name(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("review,mood\nfine,pos\nawful,neg\nfine too,pos\n", encoding="utf-8")
    data = read(path, text="review", label="mood")
    assert data.column_names == ["text", "label"]
    assert data.features["label"].names == ["neg", "pos"]
    assert data["label"][:] == [1, 0, 1]


def test_csv_keeps_words_that_look_like_missing_values(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('text,label\nnull,None\n"NA, he said",nan\n', encoding="utf-8")
    data = read(path)
    assert data["text"][:] == ["null", "NA, he said"]
    assert data.features["label"].names == ["None", "nan"]


def test_declared_classes_keep_their_order_and_are_matched_by_name(tmp_path):
    paths = []
    for names, labels in ((["pos", "neg", "unused"], [0, 1, 1]), (["neg", "pos"], [0, 1, 1])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        paths.append(str(tmp_path / f"{names[0]}.parquet"))
        Dataset.from_dict({"text": ["a", "b", "c"], "label": labels}, features=features).to_parquet(paths[-1])
    train, other = map(read, paths)
    assert train.features["label"].names == ["pos", "neg", "unused"]
    aligned = align_labels(other, train, "other")
    assert aligned.features == train.features
    assert aligned["label"][:] == [1, 0, 0]


def test_integers_match_the_same_digits_in_another_format(tmp_path):
    train = read(write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": "0"}, {"text": "b", "label": "1"}]))
    other = read(write_rows(tmp_path / "v.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}]))
    assert align_labels(other, train, "v")["label"][:] == [1, 0]


def test_second_text_of_a_pair(tmp_path):
    rows = [{"q": "who", "s": "me", "label": 0}, {"q": "what", "s": "that", "label": 1}]
    data = read(write_rows(tmp_path / "d.jsonl", rows), text="q", pair="s")
    assert (data["text"][:], data["text_pair"][:]) == (["who", "what"], ["me", "that"])


def test_labels_that_training_lacks_are_named(tmp_path):
    train = read(write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": x} for x in ("no", "yes")]))
    other = read(write_rows(tmp_path / "v.jsonl", [{"text": "a", "label": x} for x in ("no", "maybe", "y")]))
    with pytest.raises(UserError, match=r"^val\.csv has labels that the training data lack: maybe, y$"):
        align_labels(other, train, "val.csv")


def test_declared_class_without_training_rows_counts_as_lacking(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    train, other = str(tmp_path / "t.parquet"), str(tmp_path / "v.parquet")
    Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features).to_parquet(train)
    Dataset.from_dict({"text": ["x", "y"], "label": [0, 2]}, features=features).to_parquet(other)
    with pytest.raises(UserError, match="training data lack: c"):
        align_labels(read(other), read(train), "v")


def test_csv_fields_are_taken_as_they_are_written(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label\n5,01\n1e3,1\ntrue,true\n2024-01-02,True\n", encoding="utf-8")
    data = read(path)
    assert data["text"][:] == ["5", "1e3", "true", "2024-01-02"]
    assert data.features["label"].int2str(data["label"][:]) == ["01", "1", "true", "True"]


def test_jsonl_texts_that_look_like_dates_are_text(tmp_path):
    rows = [{"text": "2024-01-02", "label": "2024-01-02"}, {"text": "2024-01-03", "label": "2024-01-03"}]
    data = read(write_rows(tmp_path / "d.jsonl", rows))
    assert data["text"][:] == ["2024-01-02", "2024-01-03"]


def test_categories_of_pandas_are_labels(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": pandas.Categorical(["pos", "neg", "pos"])})
    frame.to_parquet(tmp_path / "d.parquet")
    data = read(tmp_path / "d.parquet")
    assert data.features["label"].int2str(data["label"][:]) == ["pos", "neg", "pos"]


def test_one_column_may_be_both_texts_of_a_pair(tmp_path):
    data = read(write_rows(tmp_path / "d.jsonl", [{"t": "a", "label": 0}, {"t": "b", "label": 1}]), text="t", pair="t")
    assert data["text"][:] == data["text_pair"][:] == ["a", "b"]


GOOD = {"text": "fine", "label": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": None}, GOOD], "row 1 has no value in column 'label'"),
        ([GOOD, {"text": None, "label": 0}], "row 2 has no value in column 'text'"),
        ([{"text": None, "label": 0}, {"text": None, "label": 1}], "row 1 has no value in column 'text'"),
        ([GOOD, {"text": "a", "label": -1}], r"row 2 is unlabelled \(-1 in column 'label'\)"),
        ([GOOD, GOOD], "every row has '1' in column 'label'; two classes are needed"),
        (
            [{"text": 5, "label": 0}, {"text": 6, "label": 1}],
            "column 'text' holds int64, not text",
        ),
        (
            [{"text": "a", "label": 0.5}, GOOD],
            "column 'label' holds decimal numbers; labels are whole numbers or names",
        ),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}], "'label' holds decimal numbers; labels are whole"),
        ([GOOD, {"text": "a", "label": "1"}], "line 2: column 'label' holds str, the rows before it int; give all"),
        ([GOOD, {"text": "a", "label": True}], "line 2: column 'label' holds bool, the rows before it int"),
        ([GOOD, {"text": "a", "label": 10**30}], "line 2: column 'label' holds neither text nor a label: int"),
        (
            [{"text": ["a"], "label": 1}, GOOD],
            "line 2: column 'text' holds str, the rows before it list of str; give all",
        ),
        ([{"text": ["a"], "label": 1}], "column 'text' holds List, not text"),
        ([{"text": "a", "label": ["x", 1]}], "line 1: column 'label' holds neither text nor a label: list"),
        ([{"text": "a", "label": ["x"]}], "column 'label' holds list; labels are whole numbers or names"),
        (
            [{"text": "a", "label": "pos"}, {"text": "b", "label": "pos "}],
            r"row 2 has the label 'pos ' and row 1 'pos', which look alike \(they only differ in white space",
        ),
        (
            [{"text": "a", "label": "th\u00e9"}, {"text": "b", "label": "the\u0301"}],
            r"row 2 has the label 'the\\u0301' and row 1 'th\\xe9', which look alike",
        ),
        (
            [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}, {"text": "c", "label": "pos\u200b"}],
            r"row 3 has the label 'pos\\u200b' and row 1 'pos', which look alike",
        ),
        (
            [{"text": "a", "label": '["x", "y"]'}, {"text": "b", "label": "[]"}],
            r"'label' holds lists written as text, such as '\[\"x\", \"y\"\]'; give rows with lists in",
        ),
        ([{"text": "a", "label": "pos"}, {"text": "b", "label": " "}], "row 2 has a blank label in column 'label'"),
        ([{"text": "a", "label": "pos"}, {"text": "b", "label": "-1"}], "row 2 is unlabelled"),
        (
            [{"txt": "a", "label": 0}],
            r"no column 'text' among txt, label; did you mean 'txt'\? Name it with --text_column txt$",
        ),
        ([{"my label": "a", "label": 0}], r"did you mean 'my label'\? Name it with --text_column 'my label'$"),
        (
            [{"text": "a", "class": 0}],
            r"no column 'label' among text, class; did you mean 'class'\? Name it with --label_column class$",
        ),
        ([{"text": "a"}], "no column 'label' among text$"),
    ],
)
def test_bad_rows_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as raised:
        read(write_rows(tmp_path / "d.jsonl", rows))
    assert "\n" not in str(raised.value)
    assert "d.jsonl" in str(raised.value)


def empty_parquet():
    buffer = io.BytesIO()
    Dataset.from_dict({"text": [], "label": []}).to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", b"text,label\n", "is empty: there are no rows"),
        ("d.jsonl", b"", "is empty: there are no rows"),
        ("d.parquet", empty_parquet(), "is empty: there are no rows"),
        ("d.csv", b"", "no column 'text', nor any other: is the file empty"),
        ("d.csv", b"txt;label\na, b;0\n", "no column 'text' among txt, label; did you mean 'txt'"),
        (
            "d.csv",
            b"text|label\na|0\n",
            r"the header 'text\|label' has no separator that can be read; separate fields by commas, semicolons",
        ),
        ("d.csv", b"text,label\n,1\nb,0\n", "row 1 has no value in column 'text'"),
        ("d.csv", b"text,label\na,\nb,0\n", "row 1 has no value in column 'label'"),
        ("d.csv", b"text,label,label\na,0,1\nb,1,0\n", "2 columns are called 'label'; give each a name of its own"),
        ("d.csv", b"text,label\na,0,1\nb,1,0\n", "line 2: 3 fields where the header has 2"),
        ("d.csv", b'text,label\n"a,0\nb,1\n', "row that begins at line 2, as far as line 3, isn't valid CSV"),
        (
            "d.csv",
            b"text,label\na,0.5\nb,1.0\n",
            "column 'label' holds decimal numbers; labels are whole numbers or names",
        ),
        ("d.csv", b"text,label\na,1\nb,-1\n", "row 2 is unlabelled"),
        (
            "d.csv",
            b"text;label\na;2\nb;1,5\n",
            "'label' holds numbers with a comma, such as '1,5'; write a decimal point",
        ),
        ("d.jsonl", b'{"text": "a", "label": 0, "label": 1}\n', "line 1 isn't JSON: the key 'label' stands twice"),
        ("d.jsonl", b'{"text": "\\ud83d", "label": 0}\n', "line 1: column 'text' isn't UTF-8 text"),
        ("d.jsonl", b"[" * 5000, "line 1 isn't JSON: it is nested too deeply"),
        ("d.CSV", b"text,label\n", "is empty: there are no rows"),
        ("d.csv", b"text,label\ncaf\xe9,1\nb,0\n", r"not UTF-8 at byte 14 \(line 2\)"),
        ("d.jsonl", b'{"text": "a", \n', "line 1 isn't JSON"),
        ("d.jsonl.gz", b'{"text": "a"}\n', r"damaged, cut off or not \.gz"),
        ("d.parquet", b"not parquet", "not a readable parquet file"),
        ("d.ods", b"text\tlabel\na\t1\n", r"give one file that ends in \.csv, \.tsv, \.json, \.jsonl, \.parquet"),
    ],
)
def test_bad_files_are_refused_with_one_line_and_no_other_output(tmp_path, capfd, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def parquet(path, names, *columns, metadata=None):
    table = pa.Table.from_arrays([pa.array(column) for column in columns], names=names)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    path = parquet(tmp_path / "d.parquet", ["text", "label", "label"], ["a", "b"], [0, 1], [1, 0])
    with pytest.raises(UserError, match="2 columns are called 'label'"):
        read(path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"info": {"features": {"text": 5}}}', "its columns or their description can't be read"),
        (
            '{"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, '
            '"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}',
            "row 2 has the label 7, but 2 classes are declared",
        ),
    ],
)
def test_parquet_whose_description_is_not_of_its_columns_is_refused(tmp_path, said, message):
    path = parquet(tmp_path / "d.parquet", ["text", "label"], ["a", "b"], [0, 7], metadata={"huggingface": said})
    with pytest.raises(UserError, match=message):
        read(path)


def test_a_compressed_file_is_read_as_the_same_unpacked(tmp_path):
    content = b"text;label\na;1\nb;0\n"
    (tmp_path / "d.csv").write_bytes(content)
    (tmp_path / "d.csv.bz2").write_bytes(bz2.compress(content))
    assert read(tmp_path / "d.csv.bz2")[:] == read(tmp_path / "d.csv")[:]


@pytest.mark.parametrize("source", ["missing.csv", "./missing", "/no/where/train.tsv", "a/b/c"])
def test_missing_file(source):
    with pytest.raises(UserError, match="there is no such file"):
        read(source)


def test_hub_data_set_out_of_reach():
    with pytest.raises(UserError, match="no-such-data:config: there is no such file or folder here; HF_HUB_OFFLINE"):
        read("no-such-organisation/no-such-data:config")


def test_parquet_columns_that_are_not_asked_for_may_hold_anything(tmp_path):
    others = {
        "map": pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * 2, pa.binary(16))),
        "text.length": pa.array([1, 2]),
    }
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    said = json.dumps({"info": {"features": features}})
    table = pa.table({**others, "label": [1, 0], "text": ["a", "b"]}).replace_schema_metadata({"huggingface": said})
    pq.write_table(table, tmp_path / "d.parquet")
    data = read(tmp_path / "d.parquet")
    assert data["text"][:] == ["a", "b"]
    assert data.features["label"].int2str(data["label"][:]) == ["yes", "no"]


def test_labels_that_only_look_like_those_of_training_are_told_as_such(tmp_path):
    train = read(write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": x} for x in ("th\u00e9", "tea")]))
    other = read(write_rows(tmp_path / "v.jsonl", [{"text": "a", "label": x} for x in ("the\u0301", "tea")]))
    message = r"v has the label 'the\\u0301', the training data 'th\\xe9', which look alike"
    with pytest.raises(UserError, match=message):
        align_labels(other, train, "v")


def test_names_with_commas_or_in_brackets_and_emoji_that_are_joined_stay_classes(tmp_path):
    names = ["1,5 or less", "[a]", "\U0001f468\U0001f469", "\U0001f468\u200d\U0001f469"]
    data = read(write_rows(tmp_path / "d.jsonl", [{"text": "a", "label": name} for name in names]))
    assert sorted(data.features["label"].names) == sorted(names)


def read_task(path):
    return load_task(str(path), "train", "text", None, "label")


def test_lists_of_names_are_classes_of_which_a_row_has_any_number(tmp_path):
    lists = [["b", "a"], [], ["c", "c"]]
    rows = [{"text": t, "label": each} for t, each in zip("xyz", lists, strict=True)]
    as_json = read_task(write_rows(tmp_path / "d.jsonl", rows))
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": lists}), tmp_path / "d.parquet")
    for data in (as_json, read_task(tmp_path / "d.parquet")):
        assert names_of_labels(data) == ["a", "b", "c"]
        assert labels_of(data).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_lists_of_declared_classes_keep_their_order_and_are_matched_by_name(tmp_path):
    paths = []
    for names in (["pos", "neg"], ["neg", "pos"]):
        features = Features({"text": Value("string"), "label": List(ClassLabel(names=names))})
        paths.append(str(tmp_path / f"{names[0]}.parquet"))
        Dataset.from_dict({"text": ["a", "b"], "label": [[0], [0, 1]]}, features=features).to_parquet(paths[-1])
    train, other = map(read_task, paths)
    assert labels_of(train).tolist() == [[1, 0], [1, 1]]
    assert labels_of(align_labels(other, train, "v")).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "text,label\na,0.5\nb,-2\nc,1000.0\n"),
        ("d.csv", "text,label\na,0.5\nb,-2\nc,1e3\n"),
        ("d.csv", "text,label\na,.5\nb,-2.\nc,+1E+03\n"),
        ("d.jsonl", '{"text": "a", "label": 0.5}\n{"text": "b", "label": -2}\n{"text": "c", "label": 1000.0}\n'),
    ],
)
def test_decimal_numbers_are_numbers_to_be_predicted(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    data = read_task(tmp_path / name)
    assert labels_of(data).tolist() == [0.5, -2.0, 1000.0]
    assert names_of_labels(data) == ["score"]


def test_small_numbers_as_pandas_writes_them_are_numbers(tmp_path):
    pandas.DataFrame({"text": ["a", "b", "c"], "label": [0.25, 1e-5, 3.0]}).to_csv(tmp_path / "d.csv")
    assert ",1e-05\n" in (tmp_path / "d.csv").read_text()
    assert labels_of(read_task(tmp_path / "d.csv")).tolist() == pytest.approx([0.25, 1e-5, 3.0])
    with pytest.raises(UserError, match="holds decimal numbers; labels are whole numbers or names"):
        load_labelled(str(tmp_path / "d.csv"), "train", "text", None, "label")


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "-Infinity"])
def test_what_is_no_finite_number_among_numbers_is_refused_and_no_class(tmp_path, number):
    (tmp_path / "d.csv").write_text(f"text,label\na,0.5\nb,{number}\nc,2\n")
    with pytest.raises(UserError, match="row 2 has a number in column 'label' that isn't finite"):
        read_task(tmp_path / "d.csv")


def test_whole_numbers_to_measure_on_are_numbers_where_the_training_rows_have_decimals(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0.5\nb,10\n")
    (tmp_path / "v.csv").write_text("text,label\na,10\nb,2\nc,2\n")
    train, validation = read_task(tmp_path / "train.csv"), read_task(tmp_path / "v.csv")
    aligned = align_labels(validation, train, "v.csv")
    assert labels_of(aligned).tolist() == [10, 2, 2]
    assert aligned.features == train.features
    assert aligned["text"][:] == ["a", "b", "c"]
    (tmp_path / "v.csv").write_text("text,label\na,10\nb,two\n")
    with pytest.raises(UserError, match=r"v.csv has one class a row, but the training data a number a row"):
        align_labels(read_task(tmp_path / "v.csv"), train, "v.csv")


def test_whole_numbers_and_names_among_which_some_look_like_decimals_stay_classes(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na,1\nb,2\n")
    assert names_of_labels(read_task(tmp_path / "d.csv")) == ["1", "2"]
    (tmp_path / "d.csv").write_text("text,label\na,v1\nb,1.5\n")
    assert names_of_labels(read_task(tmp_path / "d.csv")) == ["1.5", "v1"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[], []], "no row has a class in column 'label'"),
        ([["a"], [" "]], "column 'label' holds lists of something other than names or whole numbers"),
        ([[0.5], [1.0]], "column 'label' holds lists of something other than names or whole numbers"),
        ([["a", None], ["b"]], "column 'label' holds lists of something other than names or whole numbers"),
        ([[["a"]], [["b"]]], "column 'label' holds lists of something other than names or whole numbers"),
        ([[{"a": 1}], []], "column 'label' holds lists of something other than names or whole numbers"),
        ([[1, 0, 0], [0, 1, 1]], "column 'label' holds 1 or 0 for each of 3 classes; give each row a list of those"),
        ([["a"], None], "row 2 has no value in column 'label'"),
        ([["a", "b"], ["b\u00ad"]], r"row 2 has the label 'b\\xad' and row 1 'b', which look alike"),
        ([0.5, 0.5], "every row has 0.5 in column 'label'; there is nothing to be learned"),
        ([0.5, float("inf")], "row 2 has a number in column 'label' that isn't finite"),
        ([1e300, 0.5], "row 1 has a number in column 'label' that isn't finite"),
    ],
)
def test_bad_labels_of_other_tasks_are_refused(tmp_path, labels, message):
    pq.write_table(pa.table({"text": ["x", "y"], "label": labels}), tmp_path / "d.parquet")
    with pytest.raises(UserError, match=message):
        read_task(tmp_path / "d.parquet")


def test_validation_rows_of_another_kind_are_refused(tmp_path):
    train = read_task(write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": n} for n in (0.5, 1.5)]))
    other = read_task(write_rows(tmp_path / "v.jsonl", [{"text": "a", "label": n} for n in "ab"]))
    with pytest.raises(UserError, match="v has one class a row, but the training data a number a row"):
        align_labels(other, train, "v")


def test_rows_that_differ_from_others_in_space_and_form_of_accents_alone_are_left_out():
    rows = Dataset.from_dict({"text": ["the\u0301  noir", "th\u00e9", "lait"]})
    others = Dataset.from_dict({"text": ["th\u00e9 noir", "the\u0301"]})
    assert without(rows, others)["text"][:] == ["lait"]


def test_rows_to_measure_on_that_are_also_trained_on_are_counted(capsys):
    train = Dataset.from_dict({"text": ["a  b", "c"], "text_pair": ["d", "e"], "label": [0, 1]})
    tell_repeated(train.select([1, 0, 0]), train.select([0]))
    said = "rows to measure on: 2 of 3 are also rows to train on, so that scores may be too high\n"
    assert capsys.readouterr().err == said
    tell_repeated(Dataset.from_dict({"text": ["c"], "text_pair": ["d"], "label": [0]}), train)
    assert capsys.readouterr().err == ""
