"""Text files of any content: what is read is what other readers read, and all else is refused in one line."""

import bz2
import csv
import gzip
import io
import itertools
import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import fuzzed, mutated, or_refused, parted_by, texts, values
from hypothesis import given
from hypothesis import strategies as st

from tutorkd.data.documents import PLAIN_TEXT, Layout
from tutorkd.data.readers import read_documents
from tutorkd.errors import UserError

rows = st.lists(st.tuples(texts, values), max_size=6)
line_ends = st.sampled_from(["\n", "\r\n"])


@st.composite
def jsonl_files(draw):
    objects = [{"text": text, "meta": meta} for text, meta in draw(rows)]
    ascii_alone, end = draw(st.booleans()), draw(line_ends)
    return end.join(json.dumps(row, ensure_ascii=ascii_alone) for row in objects).encode()


@st.composite
def csv_files(draw):
    file = io.StringIO()
    end = draw(line_ends)
    # before Python 3.13 a line end of another kind is left without quotes
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])) if end == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(file, quoting=quoting, lineterminator=end)
    writer.writerows([("id", "text"), *enumerate(text for text, _ in draw(rows))])
    return file.getvalue().encode()


@st.composite
def txt_files(draw):
    return draw(line_ends).join(draw(st.lists(texts | st.just(""), max_size=8))).encode()


@st.composite
def parquet_files(draw):
    column = [text for text, _ in draw(rows)]
    kind = draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]))
    table = pa.table({"id": list(range(len(column))), "text": pa.array(column, pa.string()).cast(kind)})
    file = io.BytesIO()
    checksums = draw(st.booleans())
    pq.write_table(table, file, compression=draw(st.sampled_from(["snappy", "none"])), write_page_checksum=checksums)
    return file.getvalue()


@st.composite
def nested_jsonl_files(draw):
    inner = st.none() | st.fixed_dictionaries({}, optional={"text": st.none() | texts, "n": values})
    objects = [{"data": {"text": "a"}}, *draw(st.lists(st.fixed_dictionaries({}, optional={"data": inner})))]
    return "\n".join(map(json.dumps, objects)).encode()


@pytest.fixture
def read(tmp_path):
    def read(name, content, column="text"):
        (tmp_path / name).write_bytes(content)
        return list(read_documents(tmp_path / name, Layout(column)))

    return read


def by_json(content):
    """The texts of objects on lines, each with the key once."""
    found = []
    for line in content.decode("utf-8-sig").split("\n"):
        if line.strip():
            pairs = json.loads(line, object_pairs_hook=list)
            mine = [value for key, value in pairs if key == "text"]
            assert len(mine) < 2
            found += mine or [None]
    return found


def by_csv(content):
    """The texts of a CSV file, with a plain newline for each line end."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    header, *found = csv.reader(lines, delimiter=parted_by(content, "text"), strict=True)
    (column,) = (number for number, name in enumerate(header) if name == "text")
    assert all(len(row) in (0, len(header)) for row in found)
    return [row[column].replace("\r\n", "\n") for row in found if row]


def by_lines(content):
    """Paragraphs of a text, with a plain newline for each line end."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline=None)
    return ["".join(part) for inked, part in itertools.groupby(lines, lambda line: bool(line.strip())) if inked]


@fuzzed(50)
@given(content=jsonl_files())
def test_valid_jsonl_is_read_as_json_reads_it(read, content):
    assert read("a.jsonl", content) == by_json(content)


@fuzzed(60)
@given(content=mutated(jsonl_files()))
def test_any_jsonl_is_read_rightly_or_refused(read, content):
    found = or_refused("a.jsonl", read, "a.jsonl", content)
    assert found is None or found == by_json(content)


@fuzzed(60)
@given(content=nested_jsonl_files(), damaged=mutated(nested_jsonl_files()))
def test_any_jsonl_with_the_text_inside_an_object_is_read_rightly_or_refused(read, content, damaged):
    def by_lines_of_json(content):
        found = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        return [(row.get("data") or {}).get("text") for row in found]

    assert read("a.jsonl", content, "data.text") == by_lines_of_json(content)
    found = or_refused("a.jsonl", read, "a.jsonl", damaged, "data.text")
    assert found is None or found == by_lines_of_json(damaged)


@fuzzed(50)
@given(content=csv_files())
def test_valid_csv_is_read_as_pandas_reads_it(read, content):
    frame = pandas.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, engine="python")
    assert read("a.csv", content) == [text.replace("\r\n", "\n") for text in frame["text"]]


@fuzzed(60)
@given(content=mutated(csv_files()))
def test_any_csv_is_read_rightly_or_refused(read, content):
    found = or_refused("a.csv", read, "a.csv", content)
    assert found is None or [text.replace("\r\n", "\n") for text in found] == by_csv(content)


@fuzzed(60)
@given(content=mutated(txt_files()))
def test_any_txt_is_read_rightly_or_refused_for_its_encoding(read, content):
    found = or_refused("a.txt", read, "a.txt", content)
    if found is None and 0 not in content:  # which may be UTF-16
        with pytest.raises(UnicodeDecodeError):
            content.decode()
    elif found is not None:
        assert [text for text in found if text] == by_lines(content)


@fuzzed(60)
@given(content=parquet_files())
def test_valid_parquet_is_read_as_arrow_reads_it(read, content):
    assert read("a.parquet", content) == pq.read_table(io.BytesIO(content), columns=["text"])["text"].to_pylist()


@fuzzed(80)
@given(content=mutated(parquet_files()))
def test_any_parquet_is_read_as_arrow_reads_it_or_refused(read, content):
    found = or_refused("a.parquet", read, "a.parquet", content)
    assert found is None or found == pq.read_table(io.BytesIO(content), columns=["text"])["text"].to_pylist()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@fuzzed(60)
@given(data=st.data())
def test_any_file_in_parts_is_read_as_the_whole_or_refused_alike(tmp_path, name, data):
    def outcome(spans):
        try:
            return [text for span in spans for text in read_documents(tmp_path / name, PLAIN_TEXT, span) if text]
        except UserError as error:
            return str(error)

    content = data.draw(mutated(txt_files() if name == "a.txt" else jsonl_files()))
    (tmp_path / name).write_bytes(content)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=5)))
    spans = [range(*borders) for borders in itertools.pairwise([0, *cuts, len(content)])]
    assert outcome(spans) == outcome([None])


ARCHIVES = {
    ".gz": (gzip.compress, gzip.decompress),
    ".bz2": (bz2.compress, bz2.decompress),
    ".zst": (
        lambda content: pa.Codec("zstd").compress(content, asbytes=True),
        lambda content: pa.input_stream(pa.BufferReader(content), compression="zstd").read(),
    ),
}


@pytest.mark.parametrize("ending", ARCHIVES)
@fuzzed(40)
@given(data=st.data())
def test_any_archive_is_read_rightly_or_refused(read, ending, data):
    kind, files, other = data.draw(
        st.sampled_from([("a.txt", txt_files(), by_lines), ("a.jsonl", jsonl_files(), by_json)])
    )
    compress, decompress = ARCHIVES[ending]
    content = data.draw(mutated(files.map(compress)))
    found = or_refused(kind + ending, read, kind + ending, content)
    if found is not None:
        found = [text for text in found if text] if kind == "a.txt" else found
        assert found == other(decompress(content))
