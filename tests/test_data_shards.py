"""A corpus in shards: the same rows whoever makes which, after any kill, and each shard once."""

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from itertools import accumulate, chain, pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tutorkd.data import cached, prepare_corpus, readers, shards, sources
from tutorkd.data.documents import PLAIN_TEXT
from tutorkd.data.readers import read_documents
from tutorkd.data.shards import cut_files
from tutorkd.errors import UserError

TEXTS = tiny.documents(200)
SIZE = 2000  # of a shard; the text has fifteen times as much
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", SIZE)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def prepare(name, cache="cache", **settings):
        return prepare_corpus(name, tokenizer, max_length=16, cache_dir=tmp_path / cache, **settings)

    return prepare


def write(path: Path, texts=TEXTS) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=7)
    elif path.suffix == ".txt":
        path.write_text("\n\n".join(texts))
    elif path.suffix == ".csv":
        path.write_text("\n".join(["text", *texts]))
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def rows_of(packed) -> tuple[list, list]:
    return packed.train["input_ids"][:], packed.heldout["input_ids"][:]


def documents_of(rows: list[list[int]]) -> list[list[int]]:
    """The documents in packed rows: ids between separators."""
    ids = list(chain.from_iterable(row[1:-1] for row in rows))
    ends = [-1, *(place for place, each in enumerate(ids) if each == 3), len(ids)]
    return [ids[begin + 1 : end] for begin, end in pairwise(ends)]


# Which shards


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_shards_hold_each_document_once_and_in_order(tmp_path, name):
    files = [
        write(tmp_path / f"{number}{name}", TEXTS[first : first + 50]) for number, first in enumerate([0, 50, 100])
    ]
    cut = cut_files(files, PLAIN_TEXT)
    assert len(cut) == 3 if name == "a.csv" else len(cut) > 6
    assert [text.strip() for shard in cut for text in shard.read() if text] == TEXTS[:150]


def test_small_files_share_a_shard_and_row_groups_are_read_in_one_go(tmp_path):
    files = [write(tmp_path / f"{number:03}.jsonl", [text]) for number, text in enumerate(TEXTS)]
    cut = cut_files(files, PLAIN_TEXT)
    assert len(cut) == pytest.approx(sum(file.stat().st_size for file in files) / SIZE, rel=0.2)
    parts = [cut.read.args[0] for cut in cut_files([write(tmp_path / "a.parquet")], PLAIN_TEXT)]
    assert [len(each) for each in parts] == [1] * len(parts)
    assert list(chain.from_iterable(span for ((_, span),) in parts)) == list(range(-(-200 // 7)))


def test_text_without_blank_lines_ends_a_document_at_the_first_line_behind_a_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_TXT_DOCUMENT", 100)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number:4}\n" for number in range(1000)))
    cut = cut_files([path], PLAIN_TEXT)
    found = [[text for text in shard.read() if text] for shard in cut]
    assert "".join(chain.from_iterable(found)) == path.read_text()
    # 10 bytes a line
    assert [int(texts[0][5:9]) for texts in found] == list(range(0, 1000, SIZE // 10))


def test_a_line_longer_than_a_shard_is_read_once(tmp_path):
    texts = ["ak", "al " * 5000, "am"]
    cut = cut_files([write(tmp_path / "a.jsonl", texts)], PLAIN_TEXT)
    assert len(cut) > 3
    assert list(chain.from_iterable(shard.read() for shard in cut)) == texts


@pytest.mark.parametrize(
    ("name", "bad", "said"),
    [
        ("a.jsonl", b'{"text": 1}\n', "line 151: column 'text' holds int"),
        ("a.jsonl", b"{\n", "line 151 isn't JSON"),
        ("a.txt", b"\xff\n", "not UTF-8 at byte {} (line 301)"),
    ],
)
def test_a_place_is_told_as_of_the_whole_file(tmp_path, prepare, name, bad, said):
    path = write(tmp_path / name, TEXTS[:150])
    end = b"\n\n" if name == "a.txt" else b""
    before = path.read_bytes() + end
    path.write_bytes(before + bad + end + write(tmp_path / f"rest{name}", TEXTS[150:]).read_bytes())
    with pytest.raises(UserError) as whole:
        list(read_documents(path, PLAIN_TEXT))
    assert said.format(len(before)) in str(whole.value)
    for processes in (1, 2):
        with pytest.raises(UserError) as caught:
            prepare(path, num_proc=processes)
        assert str(caught.value) == str(whole.value)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


def test_a_later_shard_may_begin_with_an_object_without_text(tmp_path, prepare):
    path = tmp_path / "a.jsonl"
    rows = [{"text": TEXTS[0]}, *[{"other": text} for text in TEXTS], {"text": TEXTS[1]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert prepare(path).documents == 2


# Which rows


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_the_number_of_processes_changes_nothing(tmp_path, prepare, name):
    path = write(tmp_path / name)
    one, three = (prepare(path, cache=f"{processes}", num_proc=processes, heldout=0.2) for processes in (1, 3))
    assert rows_of(one) == rows_of(three)
    assert one.digest == three.digest
    assert one.corpora[0].heldout_documents == 40


def test_rows_run_on_over_the_borders_of_shards(tmp_path, prepare, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    cut = prepare(path, heldout=0)
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 1 << 30)
    whole = prepare(path, heldout=0, cache="whole")
    assert rows_of(cut) == rows_of(whole)
    assert cut.digest == whole.digest
    assert {len(row) for row in cut.train["input_ids"][:-1]} == {16}


def test_held_out_documents_are_a_share_of_the_text_up_to_the_end_of_any_shard(tmp_path, prepare, tokenizer):
    texts = [f"w{number % 95} w{number // 95}" for number in range(2000)]
    path = write(tmp_path / "a.jsonl", texts)
    packed = prepare(path, heldout=0.1)
    ids = tokenizer(texts)["input_ids"]
    places = [ids.index([2, *document, 3]) for document in documents_of(packed.heldout["input_ids"])]
    assert len(places) == packed.corpora[0].heldout_documents == 200
    assert places == sorted(set(places))
    ends = list(accumulate(len(list(shard.read())) for shard in cut_files([path], PLAIN_TEXT)))
    assert len(ends) > 15
    assert [sum(place < end for place in places) for end in ends] == [round(0.1 * end) for end in ends]
    trained = documents_of(packed.train["input_ids"])
    assert trained == [each[1:-1] for place, each in enumerate(ids) if place not in set(places)]


@pytest.mark.parametrize("column", ["text", "data.text", "data.in.text", "a.b"])
def test_rows_of_a_data_set_of_the_hub_are_those_of_a_file(tmp_path, prepare, monkeypatch, column):
    texts = [*TEXTS[:90], None, *TEXTS[90:]]
    nested = [None if text is None else {"text": text, "in": {"text": text}} for text in texts]
    rows = datasets.Dataset.from_dict({"n": range(201), "text": texts, "a.b": texts, "data": nested})
    monkeypatch.setattr(sources, "load_from_hub", lambda *_, streaming=False, **__: loaded(streaming))

    def loaded(streaming):
        return rows.to_iterable_dataset() if streaming else rows

    hub = prepare("org/name", text_column=column, heldout=0, num_proc=2)
    assert rows_of(hub) == rows_of(prepare(write(tmp_path / "a.jsonl"), heldout=0))
    streamed = prepare("org/name", text_column=column, heldout=0, streaming=True)
    assert sorted(streamed.train["input_ids"]) == sorted(hub.train["input_ids"])
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"org/name: no column 'data.txt' among n, text, .*data.text.*did you mean"):
            prepare("org/name", text_column="data.txt", streaming=streaming)


@pytest.mark.parametrize("processes", [1, 2])
def test_text_that_changes_while_it_is_read_is_refused_and_leaves_nothing(tmp_path, prepare, monkeypatch, processes):
    path = write(tmp_path / "a.jsonl")

    def tokenize(parts, encoder, scratch, number, plain=cached._tokenize):
        os.utime(path, (number, number))
        plain(parts, encoder, scratch, number)

    monkeypatch.setattr(cached, "_tokenize", tokenize)
    with pytest.raises(UserError, match=r"a.jsonl' changed while it was read; try again once its files stay"):
        prepare(path, num_proc=processes)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


# Killed, and at once


def _gone(pids: list[int]) -> bool:
    """Whether processes end, which must be soon."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not [pid for pid in pids if _alive(pid)]:
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def killed(tmp_path, prepare, monkeypatch):
    """Make a process that prepares a corpus end by SIGKILL once three shards are in the rows; give its workers."""

    def killed(path):
        def pack(*args, plain=cached._pack):
            if args[-1].shards == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(*args)

        def tokenize(parts, encoder, scratch, number, plain=cached._tokenize):
            (tmp_path / f"worker-{os.getpid()}").touch()
            if number > 6:
                time.sleep(60)  # under way when the kill comes
            plain(parts, encoder, scratch, number)

        with monkeypatch.context() as patched:
            patched.setattr(cached, "_pack", pack)
            patched.setattr(cached, "_tokenize", tokenize)
            process = FORK.Process(target=prepare, args=(path,), kwargs={"num_proc": 2})
            process.start()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        return [int(file.name.removeprefix("worker-")) for file in tmp_path.glob("worker-*")]

    return killed


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks there for processes")
def test_processes_end_with_the_one_that_they_work_for(tmp_path, killed):
    workers = killed(write(tmp_path / "a.jsonl"))
    assert len(workers) == 2
    assert _gone(workers)


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_kill_finished_shards_are_not_made_again_and_the_rows_are_the_same(
    tmp_path, prepare, killed, monkeypatch, processes
):
    path = write(tmp_path / "a.jsonl")
    undisturbed = prepare(path, cache="other")
    killed(path)
    (scratch,) = (tmp_path / "cache").glob(".*.partial/scratch")
    (scratch / ".9.1").touch()  # as a process that was killed in the midst of a shard leaves

    def read(parts, *others, plain=shards._read_parts):
        assert not (scratch / ".9.1").exists()
        ((_, span),) = parts
        (tmp_path / f"read-{span.start // SIZE}").touch()
        return plain(parts, *others)

    monkeypatch.setattr(shards, "_read_parts", read)
    packed = prepare(path, num_proc=processes)
    count = len(cut_files([path], PLAIN_TEXT))
    assert {int(file.name.removeprefix("read-")) for file in tmp_path.glob("read-*")} == set(range(7, count))
    assert not packed.corpora[0].reused
    assert rows_of(packed) == rows_of(undisturbed)
    assert (packed.digest, packed.tokens) == (undisturbed.digest, undisturbed.tokens)
    assert packed.corpora[0].unknown_share == undisturbed.corpora[0].unknown_share
    left = [entry.name for entry in (tmp_path / "cache").iterdir() if not entry.name.endswith(".lock")]
    assert left == [packed.corpora[0].cache_path.name]


def test_of_processes_that_start_at_once_one_makes_the_rows_and_if_killed_another_goes_on(
    tmp_path, prepare, monkeypatch
):
    path = write(tmp_path / "a.jsonl")
    undisturbed = rows_of(prepare(path, cache="other"))
    told, barrier = FORK.Queue(), FORK.Barrier(4)

    def pack(*args, plain=cached._pack):
        if args[-1].shards == 3:
            with suppress(FileExistsError):  # in the first process that comes here, which holds the lock
                (tmp_path / "killed").mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
        plain(*args)

    def run() -> None:
        barrier.wait()
        packed = prepare(path, num_proc=2)
        told.put((packed.corpora[0].reused, rows_of(packed)))

    monkeypatch.setattr(cached, "_pack", pack)
    processes = [FORK.Process(target=run) for _ in range(4)]
    for process in processes:
        process.start()
    found = [told.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [-signal.SIGKILL, 0, 0, 0]
    assert sorted(reused for reused, _ in found) == [False, True, True]
    assert all(rows == undisturbed for _, rows in found)


def test_a_worker_that_was_killed_is_told_in_a_line_and_its_shard_is_left(tmp_path, prepare, monkeypatch):
    path = write(tmp_path / "a.jsonl")

    def tokenize(parts, encoder, scratch, number, plain=cached._tokenize):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(parts, encoder, scratch, number)

    with monkeypatch.context() as patched:
        patched.setattr(cached, "_tokenize", tokenize)
        with pytest.raises(UserError, match=r"a process that tokenised it was killed, .*the same command continues"):
            prepare(path, num_proc=2)
    assert rows_of(prepare(path)) == rows_of(prepare(path, cache="other"))
