"""Sources: what a name stands for, what each kind of file yields, and what is said when one is bad."""

import bz2
import csv
import gzip
import json
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutorkd.data import readers, sources
from tutorkd.data.documents import PLAIN_TEXT, Layout
from tutorkd.data.readers import read_documents
from tutorkd.data.sources import HubDataset, LocalFiles, resolve_source
from tutorkd.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, column: str = "text") -> list[str | None]:
    return list(read_documents(path, Layout(column)))


def error_of(path: Path, column: str = "text") -> str:
    with pytest.raises(UserError) as caught:
        read(path, column)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_txt_documents_are_parted_by_blank_lines_of_any_kind(tmp_path):
    content = "\ufefffirst line\r\nsecond line\r\n\r\n \t\nthird\n\n\n\nfourth"
    documents = [text for text in read(write(tmp_path / "a.txt", content)) if text]
    assert documents == ["first line\nsecond line\n", "third\n", "fourth"]


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_of_a_txt_each_line_may_be_a_document(tmp_path, ending):
    content = "\ufeffone\r\ntwo words\n\n  \nthree".encode()
    path = write(tmp_path / f"a{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    assert [text for each in read_documents(path, Layout(lines=True)) if (text := each.strip())] == [
        "one",
        "two words",
        "three",
    ]


def test_lines_are_documents_in_the_parts_of_a_large_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("tutorkd.data.shards.BYTES_PER_SHARD", 50)
    texts = [f"line {number}" for number in range(100)]
    path = write(tmp_path / "a.txt", "\n".join(texts))
    source = resolve_source(str(path), layout=Layout(lines=True))
    shards = source.shards()
    assert len(shards) > 5
    assert [text.strip() for shard in shards for text in shard.read()] == texts
    assert source.identity(False) != resolve_source(str(path)).identity(False)


def test_a_tsv_of_one_column_may_have_commas_in_its_text(tmp_path):
    assert list(read_documents(write(tmp_path / "a.tsv", b"text\na, b\nc; d\n"), PLAIN_TEXT)) == ["a, b", "c; d"]


@pytest.mark.parametrize(("ending", "mark"), [("csv", ";"), ("csv", "\t"), ("tsv", "\t"), ("tsv", ","), ("csv", ",")])
def test_what_parts_the_header_parts_the_fields(tmp_path, ending, mark):
    rows = [["n", "text"], ["1", f'"one{mark} two"'], ["2", "three"]]
    path = write(tmp_path / f"a.{ending}", "\n".join(mark.join(row) for row in rows))
    assert read(path) == [f"one{mark} two", "three"]


def test_a_row_that_is_too_long_names_what_parts_its_fields(tmp_path):
    message = error_of(write(tmp_path / "a.csv", "n;text\n1;one; two\n"))
    assert "line 2: 3 fields where the header has 2; put text that holds semicolons in double quotes" in message


def test_a_markdown_file_is_refused_with_what_to_do(tmp_path):
    path = write(tmp_path / "a.md", "# Title\n\ntext")
    with pytest.raises(UserError, match=r"unknown kind of file; .*; to read it as text, name a copy .txt"):
        resolve_source(str(path))


def test_a_long_txt_document_is_cut_at_a_line_end(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_TXT_DOCUMENT", 10)
    documents = [text for text in read(write(tmp_path / "a.txt", "one two\nthree\nfour\n\nfive")) if text]
    assert documents == ["one two\nthree\n", "four\n", "five"]


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "ü\r\n\r\nb"), ("a.jsonl", '{"text": "ü\\n"}\n{"text": "b"}'), ("a.CSV", 'n,text\n1,"ü\nc"\n')],
)
def test_a_compressed_file_is_read_as_the_one_it_was(tmp_path, name, content, codec):
    plain = write(tmp_path / name, content)
    packed = write(tmp_path / f"{name}{codec}", COMPRESS[codec](content.encode()))
    assert read(packed) == read(plain)
    assert list(resolve_source(str(packed)).stream()) == read(plain)


@pytest.mark.parametrize("codec", COMPRESS)
def test_archives_one_after_another_are_one_file(tmp_path, codec):
    parts = [COMPRESS[codec](text.encode() * 100_000) for text in ("one\n", "two\n", "\nthree\n")]
    path = write(tmp_path / f"a.txt{codec}", b"".join(parts))
    lines = "".join(read(path)).split()
    assert lines == ["one"] * 100_000 + ["two"] * 100_000 + ["three"] * 100_000


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-4], lambda data: data[:9], lambda data: b"x" + data, lambda _: b"plain text"]
)
def test_a_damaged_archive_is_told_in_a_line(tmp_path, codec, damage):
    packed = COMPRESS[codec](json.dumps({"text": "some text " * 50}).encode())
    message = error_of(write(tmp_path / f"a.jsonl{codec}", damage(packed)))
    assert re.search(f"damaged, cut off or not {codec}: .*; fetch or compress it again$", message)


def test_a_place_in_a_compressed_file_is_told_as_of_the_plain_one(tmp_path):
    content = b'{"text": "a"}\n{"text": "b"\n'
    assert "line 2 isn't JSON" in error_of(write(tmp_path / "a.jsonl.gz", gzip.compress(content)))
    assert "cannot be read: No such file" in error_of(tmp_path / "gone.jsonl.gz")


def test_jsonl_rows_may_differ_but_for_the_text(tmp_path):
    rows = [{"text": "a", "meta": 1}, {"meta": {"x": "y"}, "text": "b\n\nc"}, {"text": None}, {"meta": []}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == ["a", "b\n\nc", None, None]


def test_json_is_read_as_one_object_a_line(tmp_path):
    assert read(write(tmp_path / "a.json", '{"body": "x"}\n{"body": "y"}'), "body") == ["x", "y"]


def test_csv_keeps_quoted_commas_newlines_and_long_fields(tmp_path):
    texts = ["plain", 'with, comma and "quotes"', "two\nlines", "x" * 200_000, ""]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *enumerate(texts)])
    assert read(tmp_path / "a.csv") == texts


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_of_every_arrow_type(tmp_path, kind):
    texts = ["a", None, "ü"] * 50
    pq.write_table(pa.table({"n": range(150), "text": pa.array(texts).cast(kind)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == texts


def test_a_row_group_is_read_in_pieces(tmp_path):
    texts = [os.urandom(5000).hex() for _ in range(5000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=len(texts), compression="none")
    before = peak = pa.total_allocated_bytes()
    documents = []
    for document in read_documents(tmp_path / "a.parquet", PLAIN_TEXT):
        documents.append(hash(document))
        peak = max(peak, pa.total_allocated_bytes())
    assert documents == list(map(hash, texts))
    assert peak - before < (tmp_path / "a.parquet").stat().st_size / 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_bytes_that_are_not_utf8_are_told_by_place(tmp_path, name):
    head = {"a.txt": "ü\r\n", "a.jsonl": '{"text": "ü"}\r\n', "a.csv": "text,ü\r\n"}[name].encode()
    message = error_of(write(tmp_path / name, head + "é".encode("latin-1") + b"t\xe9\n"))
    assert f"not UTF-8 at byte {len(head)} (line 2)" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", "hey\r\nyou"), ("a.jsonl", '{"text": "hey"}\n'), ("a.csv", "text\na")]
)
def test_utf16_is_told_as_such_also_where_its_bytes_are_valid_utf8(tmp_path, name, text, encoding):
    message = error_of(write(tmp_path / name, text.encode(encoding)))
    assert message.endswith(f"{name}: not UTF-8 at byte 0, but UTF-16; convert the file to UTF-8")


def test_a_nul_among_letters_is_no_other_encoding(tmp_path):
    assert next(read_documents(write(tmp_path / "a.txt", b"a\0b\n"), PLAIN_TEXT)) == "a\0b\n"


def test_parquet_that_is_not_utf8_is_told_by_row(tmp_path):
    values = pa.array([b"ok"] * 130 + [b"ab\xff"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    assert "not UTF-8 at byte 2 of row 130" in error_of(tmp_path / "a.parquet")


def test_half_a_surrogate_pair_is_not_text(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "ok"}\n{"text": "\\ud83d"}\n')
    assert "line 2" in error_of(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{"txt": "a", "label": 1}\n'), ("a.csv", "txt,label\na,1\n"), ("a.parquet", None)],
)
def test_a_missing_column_names_those_there_are_and_the_nearest(tmp_path, name, content):
    path = tmp_path / name
    if content is None:
        pq.write_table(pa.table({"txt": ["a"], "label": [1]}), path)
    else:
        write(path, content)
    message = error_of(path)
    assert "no column 'text' among txt, label" in message
    assert "did you mean 'txt'?" in message


def nested_file(path: Path, rows: list) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    return write(path, "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_column_inside_another_is_named_with_a_dot(tmp_path, name):
    rows = [
        {"data": {"text": "a", "in": {"text": "b"}}, "id.x": "e", "text": "c"},
        {"data": {"text": None, "in": {"text": "d"}}, "id.x": "f", "text": None},
        {"data": {"text": "g", "in": None}, "id.x": None, "text": None},
        {"data": None, "id.x": None, "text": None},
    ]
    path = nested_file(tmp_path / name, rows * 60)  # of Parquet, more than one batch
    assert read(path, "data.text") == ["a", None, "g", None] * 60
    assert read(path, "data.in.text") == ["b", "d", None, None] * 60
    assert read(path, "text") == ["c", None, None, None] * 60
    assert read(path, "id.x") == ["e", "f", None, None] * 60  # a dot in a name of its own


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_column_that_is_not_inside_another_is_told_with_those_that_are(tmp_path, name):
    path = nested_file(tmp_path / name, [{"n": 1, "data": {"txt": "a", "in": {"text": "b"}, "x.y": "c"}}])
    assert "no column 'text' among n, data, data.txt, data.in; did you mean 'data.txt'? Name it with" in error_of(path)
    assert "no column 'data.text' among n, data, data.txt, data.in, data.in.text; did" in error_of(path, "data.text")
    assert "no column 'data.x.y' among" in error_of(path, "data.x.y")
    assert "no column 'n.text' among" in error_of(path, "n.text")
    assert "'data.in' holds" in error_of(path, "data.in")
    path = nested_file(tmp_path / name, [{"data.text": "a", "data": {"text": "b"}}])
    assert "2 columns are called 'data.text'" in error_of(path, "data.text")


def test_an_object_that_is_none_or_has_a_key_twice_is_told_by_line(tmp_path):
    first = '{"data": {"text": "a"}}\n'
    path = write(tmp_path / "a.jsonl", first + '{"data": ["b"]}')
    assert "line 2: column 'data.text': there is no 'text' in a list; an object is" in error_of(path, "data.text")
    path = write(tmp_path / "b.jsonl", first + '{"data": {"text": "b", "text": "c"}}')
    assert "line 2 isn't JSON: the key 'text' stands twice" in error_of(path, "data.text")


def test_a_column_that_is_not_text(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert "'text' holds int64, not text" in error_of(tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": ["b"]}\n')
    assert "line 2: column 'text' holds list, not text" in error_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "line 3 isn't JSON"),
        ("a.jsonl", '[{"text": "a"}]\n', "line 1 isn't a JSON object"),
        ("a.csv", "id,text\n1,two, three\n", "line 2: 3 fields where the header has 2"),
        ("a.csv", 'id,text\n1,"never closed\n', "row that begins at line 2 isn't valid CSV"),
        ("b.csv", 'id,text\n1,a\n2,"never\nclosed\n3,b\n', "begins at line 3, as far as line 5, isn't valid CSV"),
        ("c.csv", "id,text\r1,a\r2,b\r", "isn't valid CSV"),
        ("d.csv", "text,id,text\na,1,b\n", "2 columns are called 'text'; give each a name of its own"),
        ("b.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', "line 2 isn't JSON: the key 'text' stands twice"),
        (
            "c.jsonl",
            '{"text": "a", "n": ' + "[" * 5000 + "]" * 5000 + "}",
            "line 1 isn't JSON: it is nested too deeply",
        ),
        ("d.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}", "line 1 isn't JSON: a number has too many digits"),
        ("a.parquet", "this is not parquet", "not a readable parquet file"),
        ("b.parquet", "", "not a readable parquet file"),
    ],
)
def test_a_malformed_file_is_told_by_place(tmp_path, name, content, said):
    assert said in error_of(write(tmp_path / name, content))


def test_a_key_that_stands_twice_elsewhere_is_no_matter(tmp_path):
    assert read(write(tmp_path / "a.jsonl", '{"text": "a", "n": 1, "n": 2, "m": {"n": 1, "n": 2}}\n')) == ["a"]


def test_a_csv_field_that_takes_the_rest_of_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_CSV_FIELD", 1000)
    path = write(tmp_path / "a.csv", 'id,text\n1,"never closed\n' + "2,words\n" * 1000)
    message = error_of(path)
    assert "row that begins at line 2" in message
    assert "field larger than field limit" in message


def test_carriage_returns_alone_end_lines_of_txt(tmp_path):
    texts = read(write(tmp_path / "a.txt", "one\rtwo\r\rthree\r\n\rfour\r\r\nfive\n"))
    assert [text for text in texts if text] == ["one\ntwo\n", "three\n", "four\n", "five\n"]


def test_carriage_returns_alone_end_lines_that_are_documents(tmp_path):
    path = write(tmp_path / "a.txt", "one\rtwo\r\rthree\r\nfour\n")
    found = [text.strip() for text in read_documents(path, Layout(lines=True))]
    assert [text for text in found if text] == ["one", "two", "three", "four"]


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    assert "2 columns are called 'text'" in error_of(tmp_path / "a.parquet")


def test_a_parquet_column_is_not_taken_for_one_whose_name_begins_alike(tmp_path):
    pq.write_table(pa.table({"text.en": ["wrong"], "text": ["right"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["right"]


def test_a_damaged_parquet_page_is_found_by_its_checksum(tmp_path):
    texts = ["abcdefgh" * 20]
    path = tmp_path / "a.parquet"
    table = pa.table({"text": texts})
    pq.write_table(
        table, path, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )
    content = path.read_bytes()
    at = content.index(texts[0].encode()) + 100
    path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    assert "checksum" in error_of(path).lower()


def test_names_out_of_a_file_cannot_break_or_flood_the_message(tmp_path):
    names = ",".join(f"column{number}" for number in range(5000))
    message = error_of(write(tmp_path / "a.csv", f'"two\nlines\x1b[31m",{names}\n'))
    assert r"among two\nlines\x1b[31m, column0" in message
    assert "and 4981 more" in message
    assert len(message) < 1000


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot be read: No such file" in error_of(tmp_path / "gone.txt")


def test_a_folder_gives_its_readable_files_in_order_at_any_depth(tmp_path):
    for name in ("b.txt", "a/z.jsonl", "a/y.csv", "notes.md", ".git/c.txt", ".hidden.txt"):
        write(tmp_path / name, "x")
    source = resolve_source(str(tmp_path))
    assert isinstance(source, LocalFiles)
    assert source.files == (tmp_path / "a/y.csv", tmp_path / "a/z.jsonl", tmp_path / "b.txt")


def test_a_link_keeps_the_extension_of_its_own_name(tmp_path):
    write(tmp_path / "blobs/0a1b", "x")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/a.txt").symlink_to(tmp_path / "blobs/0a1b")
    (source,) = [resolve_source(str(tmp_path / "snapshot"))]
    assert list(source.stream()) == ["x"]


def test_a_glob_gives_the_matching_files(tmp_path):
    for name in ("x/1.txt", "x/2.txt", "y/3.txt", "y/3.csv", "x/4.md"):
        write(tmp_path / name, "x")
    assert len(resolve_source(f"{tmp_path}/x/*").files) == 2
    assert len(resolve_source(f"{tmp_path}/**/*.txt").files) == 3
    assert len(resolve_source(f"{tmp_path}/y/3.[ct]*").files) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("{}/gone.parquet", "{}/gone", "./gone", "~/gone/gone", "gone/gone/gone", "gone.jsonl", "GONE.TXT"),
        *("gone/", "owner/gone/", "gone\\\\", "owner\\\\gone", "gone.txt.gz", "owner/gone.zip", "gone with spaces"),
    ],
)
def test_a_local_name_without_a_file_is_not_looked_for_on_the_hub(tmp_path, name):
    with pytest.raises(UserError, match="no such file or folder"):
        resolve_source(name.format(tmp_path))


@pytest.mark.parametrize("name", ["{}", "{}/**"])
def test_what_is_left_out_of_a_folder_or_glob_is_told(tmp_path, name):
    for file in ("a.txt", "b.parquet.gz", "c/d.parquet.GZ", "c/e.zip", "e.zst", "README", "notes.md"):
        write(tmp_path / file, "x")
    source = resolve_source(name.format(tmp_path))
    assert [file.name for file in source.files] == ["a.txt"]
    kinds = source.notice.partition(": ")[2].partition(";")[0].split(", ")
    assert sorted(kinds) == ["1 .md", "1 .zip", "1 .zst", "1 without an extension", "2 .parquet.gz"]
    assert source.notice.startswith("left out 6 files of kinds that aren't read: 2 .parquet.gz")
    assert source.notice.endswith("; unpack .parquet.gz, .zip, .zst to have them read")


def test_nothing_is_told_of_a_folder_that_is_read_whole(tmp_path):
    for file in ("a.txt", "b.JSONL", "c.csv.gz", "d.JSON.Zst", ".git/config", ".hidden"):
        write(tmp_path / file, "x")
    assert resolve_source(str(tmp_path)).notice is None


def test_packed_text_alone_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no file with one of .*left out 1 file of .*1 \.xz; unpack \.xz"):
        resolve_source(str(write(tmp_path / "texts/a.txt.xz", "x").parent))
    with pytest.raises(UserError, match=r"a\.txt\.xz: unpack it"):
        resolve_source(str(tmp_path / "texts/a.txt.xz"))


@pytest.mark.parametrize("name", ["{}/*.txt", "{}"])
def test_a_glob_or_folder_without_a_readable_file(tmp_path, name):
    write(tmp_path / "notes.md", "x")
    with pytest.raises(UserError, match=re.escape(f"{name.format(tmp_path)}: no file with one of")):
        resolve_source(name.format(tmp_path))


def test_other_names_that_stand_for_nothing(tmp_path):
    with pytest.raises(UserError, match="unknown kind of file"):
        resolve_source(str(write(tmp_path / "notes.md", "x")))
    with pytest.raises(UserError, match="empty name"):
        resolve_source("")


def test_other_names_are_hub_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_source("wikimedia/wikipedia:20231101.en", "train[:1%]") == HubDataset(
        "wikimedia/wikipedia:20231101.en", "train[:1%]"
    )
    assert resolve_source("imdb") == HubDataset("imdb", "train")
    assert resolve_source("owner/a.b-c_d") == HubDataset("owner/a.b-c_d", "train")
    write(tmp_path / "imdb/a.txt", "x")
    assert isinstance(resolve_source("imdb"), LocalFiles)


def test_a_check_asks_the_hub_nothing_unless_it_is_offline(monkeypatch):
    calls = []

    def load(name, split, **asked):
        calls.append(name)
        return datasets.Dataset.from_dict({"body": ["a"]})

    monkeypatch.setattr(sources, "load_from_hub", load)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    resolve_source("org/name").check()
    assert calls == []
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    resolve_source("org/name", layout=Layout("body")).check()
    with pytest.raises(UserError, match="org/name: no column 'text'"):
        resolve_source("org/name").check()


def test_a_stream_is_told_apart_by_its_revision_and_files(monkeypatch):
    asked = []

    def load(name, split, **kwargs):
        asked.append(kwargs)
        return datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr(sources, "load_from_hub", load)
    settings = [(None, None), ("v1", None), (None, "a*"), ("v1", "a*")]
    found = [resolve_source("org/name", "train", *each).identity(streaming=True) for each in settings]
    assert len(set(map(str, found))) == len(settings)
    assert asked == [{"streaming": True, "revision": each, "data_files": files} for each, files in settings]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("column", "said"),
    [("text", "no column 'text' among body, n; did you mean"), ("n", "column 'n' holds .*int.*, not text")],
)
def test_a_hub_data_set_without_that_text(tmp_path, monkeypatch, streaming, column, said):
    rows = datasets.Dataset.from_dict({"body": ["a"], "n": [1]})
    loaded = rows.to_iterable_dataset() if streaming else rows
    monkeypatch.setattr(sources, "load_from_hub", lambda *_, **__: loaded)
    source = resolve_source("org/name", layout=Layout(column))
    with pytest.raises(UserError, match=f"org/name: {said}"):
        list(source.stream()) if streaming else source.shards()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", [("de", "en"), ("both.de", "both.en"), ("both.de", "en")])
def test_a_hub_data_set_gives_pairs_of_two_columns(monkeypatch, streaming, names):
    texts = [{"en": f"text {i}", "de": f"Text {i}"} for i in range(150)]
    rows = datasets.Dataset.from_list([{**text, "both": text} for text in texts])
    monkeypatch.setattr(sources, "load_from_hub", lambda *_, **__: rows.to_iterable_dataset() if streaming else rows)
    source = resolve_source("org/name", layout=Layout(names[0], beside=names[1]))
    found = source.stream() if streaming else (pair for shard in source.shards() for pair in shard.read())
    assert list(found) == [(text["de"], text["en"]) for text in texts]


def test_a_stream_that_breaks_off_is_told_in_one_line(monkeypatch):
    def rows():
        yield from ({"text": f"document {i}"} for i in range(100))
        raise OSError("Consistency check failed: file should be of size 9\nbut has size 4")

    monkeypatch.setattr(sources, "load_from_hub", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    documents = resolve_source("org/name").stream()
    assert next(documents) == "document 0"
    with pytest.raises(UserError) as caught:
        list(documents)
    assert str(caught.value) == "data org/name can't be read: the download broke off: run this again"
