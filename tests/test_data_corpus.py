"""`prepare_corpus`: rows against a packing done by hand, cache, held-out part, weights, streams, errors."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
import tracemalloc
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import ByteLevelBPETokenizer
from torch.utils.data import DataLoader
from transformers import BertTokenizerFast, RobertaTokenizerFast

from tutorkd.data import cache, cached, packing, prepare_corpus, shards, sources, stream
from tutorkd.data.corpus import check_corpus
from tutorkd.data.writer import PackedWriter
from tutorkd.errors import UserError

WORDS = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
TEXTS = [" ".join(WORDS[(i * 7 + j * j) % 100] for j in range(1 + i % 11)) + "." for i in range(60)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> BertTokenizerFast:
    """Word pieces: special tokens are 0 to 4, the words of WORDS 5 to 104, then punctuation."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "[", "]", "sep", "mask"]
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(vocab))
    return BertTokenizerFast.from_pretrained(path.parent, model_max_length=64)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> RobertaTokenizerFast:
    folder = tmp_path_factory.mktemp("roberta")
    model = ByteLevelBPETokenizer()
    model.train_from_iterator(TEXTS, 300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    model.save_model(str(folder))
    return RobertaTokenizerFast.from_pretrained(folder)


@pytest.fixture
def prepare(tmp_path, bert):
    return partial(prepare_corpus, tokenizer=bert, cache_dir=tmp_path / "cache", max_length=16)


def corpus(path: Path, texts: list[str | None] = TEXTS) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def rows_of(dataset) -> list[list[int]]:
    return [row["input_ids"] for row in dataset]


def inside(rows: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(row[1:-1] for row in rows))


def texts_of(dataset, tokenizer) -> list[str]:
    """The documents in packed rows, which a separator parts."""
    text = tokenizer.decode(inside(rows_of(dataset)), clean_up_tokenization_spaces=False)
    return [document.strip().replace(" .", ".") for document in text.split("[SEP]")] if text else []


def packed_by_hand(texts: list[str], tokenizer, max_length: int) -> list[list[int]]:
    tokens: list[int] = []
    for text in texts:
        tokens += [tokenizer.sep_token_id] if tokens else []
        tokens += tokenizer(text, add_special_tokens=False)["input_ids"]
    width = max_length - 2
    return [
        [tokenizer.cls_token_id, *tokens[start : start + width], tokenizer.sep_token_id]
        for start in range(0, len(tokens), width)
    ]


def entries(cache: Path) -> list[str]:
    """What the cache holds besides locks, which are empty files."""
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] if cache.exists() else []


def test_rows_worked_out_by_hand(tmp_path, prepare):
    path = tmp_path / "a.txt"
    path.write_text("ak al am an\n\nao ap aq\nar\n\n   \n\nas at")
    rows = rows_of(prepare([str(path)], max_length=8, heldout=0).train)
    assert rows == [[2, 5, 6, 7, 8, 3, 9, 3], [2, 10, 11, 12, 3, 13, 14, 3]]


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([6], [8]),  # one full row, and no separator that would begin another
        ([6, 1], [8, 4]),  # the separator begins the second row
        ([5, 1], [8, 3]),  # the separator ends the first
        ([5], [7]),  # with nothing to part, there is no separator
        ([11], [8, 7]),
        ([1], [3]),
        ([13], [8, 8, 3]),
    ],
)
def test_no_token_and_no_separator_too_many_at_the_edge_of_a_row(tmp_path, prepare, bert, lengths, rows):
    texts = [" ".join(WORDS[:length]) for length in lengths]
    packed = rows_of(prepare([corpus(tmp_path / "a.jsonl", texts)], max_length=8, heldout=0).train)
    assert [len(row) for row in packed] == rows
    assert packed == packed_by_hand(texts, bert, 8)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rows_hold_the_whole_token_stream_in_order(tmp_path, prepare, request, family, monkeypatch):
    tokenizer = request.getfixturevalue(family)
    monkeypatch.setattr(cached, "_CHARACTERS_PER_BATCH", 300)  # many batches, as of a large corpus
    packed = prepare([corpus(tmp_path / "a.jsonl")], tokenizer=tokenizer, heldout=0)
    assert rows_of(packed.train) == packed_by_hand(TEXTS, tokenizer, 16)
    assert {len(row) for row in rows_of(packed.train)[:-1]} == {16}
    assert packed.documents == len(TEXTS)
    assert packed.tokens == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("largest", "kind", "width"),
    [(109, "uint16", 2), (65_535, "uint16", 2), (65_536, "int32", 4), (70_000, "int32", 4)],
)
def test_an_id_takes_two_bytes_where_the_vocabulary_lets_it(tmp_path, prepare, largest, kind, width, streaming):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    vocabulary = {word: number for number, word in enumerate([*words, *WORDS])} | {"ak": largest}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=64)
    path = corpus(tmp_path / "a.jsonl", [*TEXTS, "ak al"])
    packed = prepare([path], tokenizer=tokenizer, heldout=0.5, streaming=streaming)
    for rows in (packed.train, packed.heldout):
        assert rows.features["input_ids"].feature.dtype == kind
    rows = rows_of(packed.train) + rows_of(packed.heldout)
    assert max(chain.from_iterable(rows)) == largest
    assert texts_of(packed.heldout, tokenizer)[0] in TEXTS
    if not streaming:
        ids = sum(map(len, rows_of(packed.train)))
        assert packed.train.data.column(0).combine_chunks().flatten().nbytes == ids * width


def test_record_batches_on_disk_do_not_change_the_rows(tmp_path, prepare, bert, monkeypatch):
    monkeypatch.setattr("tutorkd.data.writer.ROWS_PER_BATCH", 3)
    monkeypatch.setattr(cached, "_CHARACTERS_PER_BATCH", 300)
    packed = prepare([corpus(tmp_path / "a.jsonl")], heldout=0)
    assert packed.train.data.column(0).num_chunks > 2
    assert rows_of(packed.train) == packed_by_hand(TEXTS, bert, 16)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_long_document_is_one_document_of_the_same_rows(tmp_path, prepare, request, family, monkeypatch, streaming):
    tokenizer = request.getfixturevalue(family)
    monkeypatch.setattr(packing, "_CHARACTERS_AT_ONCE", 60)
    monkeypatch.setattr(packing, "_OVERLAP", 20)
    monkeypatch.setattr(packing, "_TOKENS_PER_PUSH", 5)
    texts = ["\u200b" * 200, " ".join(TEXTS), "ak", " ".join(TEXTS[::-1])]
    texts = texts if family == "bert" else texts[1:]  # white space of no width is a token for the one alone
    packed = prepare([corpus(tmp_path / "a.jsonl", texts)], tokenizer=tokenizer, heldout=0, streaming=streaming)
    assert sorted(rows_of(packed.train)) == sorted(packed_by_hand(texts[-3:], tokenizer, 16))
    assert packed.documents == (None if streaming else 3)


def test_documents_without_text_are_left_out(tmp_path, prepare, bert):
    texts = [None, "", " \n", "ak al.", None, "\u200b", "am"]
    packed = prepare([corpus(tmp_path / "a.jsonl", texts)], heldout=0)
    assert rows_of(packed.train) == packed_by_hand(["ak al.", "am"], bert, 16)
    assert (packed.documents, packed.tokens) == (2, 4)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_special_tokens_in_the_text_are_text(tmp_path, prepare, bert, num_proc):
    path = corpus(tmp_path / "a.jsonl", ["ak [SEP] [MASK] al", "am"])
    packed = prepare([path], heldout=0, num_proc=num_proc)
    tokens = ["[CLS]", "ak", "[", "sep", "]", "[", "mask", "]", "al", "[SEP]", "am", "[SEP]"]
    assert bert.convert_ids_to_tokens(packed.train[0]["input_ids"]) == tokens


def test_the_tokenizer_stays_as_it_was_and_its_truncation_counts_for_nothing(tmp_path, prepare, bert):
    path = corpus(tmp_path / "a.jsonl")
    first = prepare([path])
    bert.backend_tokenizer.enable_truncation(3)
    bert.backend_tokenizer.enable_padding(length=5)
    try:
        second = prepare([path])
        assert bert.backend_tokenizer.truncation["max_length"] == 3
        assert bert.backend_tokenizer.padding["length"] == 5
        assert second.corpora[0].reused
        other = prepare([path], cache_dir=tmp_path / "other")
    finally:
        bert.backend_tokenizer.no_truncation()
        bert.backend_tokenizer.no_padding()
    assert rows_of(other.train) == rows_of(first.train)


def test_held_out_documents_are_a_share_drawn_from_the_seed(tmp_path, prepare, bert):
    path = corpus(tmp_path / "a.jsonl")
    parts = [prepare([path], heldout=0.1, seed=seed) for seed in (1, 1, 2)]
    held = [texts_of(part.heldout, bert) for part in parts]
    assert Counter(texts_of(parts[0].train, bert) + held[0]) == Counter(TEXTS)
    assert held[0] == held[1] != held[2]
    assert [len(texts) for texts in held] == [6, 6, 6]
    assert parts[0].corpora[0].heldout_documents == 6
    assert parts[0].corpora[0].heldout_rows == len(parts[0].heldout)
    assert parts[0].corpora[0].train_rows == len(parts[0].train)


@pytest.mark.parametrize(("count", "share", "held"), [(1, 0.5, 0), (2, 0.01, 1), (3, 0.99, 2), (60, 0, 0)])
def test_held_out_documents_of_a_small_corpus(tmp_path, prepare, bert, count, share, held):
    packed = prepare([corpus(tmp_path / "a.jsonl", TEXTS[:count])], heldout=share)
    assert len(texts_of(packed.heldout, bert)) == held
    assert len(texts_of(packed.train, bert)) == count - held
    assert packed.heldout.features == packed.train.features


def test_more_processes_than_documents(tmp_path, prepare, bert):
    packed = prepare([corpus(tmp_path / "a.jsonl", ["ak", None])], num_proc=8, heldout=0)
    assert rows_of(packed.train) == packed_by_hand(["ak"], bert, 16)


def test_a_small_corpus_starts_no_process(tmp_path, prepare, monkeypatch):
    seen = []

    def tokenize_batch(encoder, texts, plain=cached.tokenize_batch):
        seen.append(os.getpid())
        return plain(encoder, texts)

    monkeypatch.setattr(cached, "tokenize_batch", tokenize_batch)
    prepare([corpus(tmp_path / "a.jsonl")])
    assert seen == [os.getpid()]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_an_interruption_stays_one_and_leaves_nothing_that_counts(tmp_path, prepare, monkeypatch, num_proc):
    parent = os.getpid()
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 1000)

    def interrupt(encoder, texts):
        with suppress(FileExistsError):  # one signal, whichever process comes first
            (tmp_path / "sent").mkdir()
            time.sleep(0.2)  # until the parent waits for results
            os.kill(parent, signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(cached, "tokenize_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus(tmp_path / "a.jsonl")], num_proc=num_proc)
    assert [name[-8:] for name in entries(tmp_path / "cache")] == [".partial"]


def test_a_second_call_reads_no_text(tmp_path, prepare):
    path = Path(corpus(tmp_path / "a.jsonl"))
    first = prepare([str(path)])
    stat = path.stat()
    path.write_bytes(b"\xff" * stat.st_size)  # reading this would fail
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = prepare([str(path)])
    assert (first.corpora[0].reused, second.corpora[0].reused) == (False, True)
    assert second.corpora[0].cache_path == first.corpora[0].cache_path
    assert rows_of(second.train) == rows_of(first.train)
    assert (second.documents, second.tokens) == (first.documents, first.tokens)
    assert second.train.cache_files  # mapped from the file, not in memory


def test_text_that_changed_is_read_again(tmp_path, prepare, bert):
    path = tmp_path / "a.jsonl"
    corpus(path, ["ak al"])
    prepare([str(path)])
    changed = path.stat().st_mtime_ns
    corpus(path, ["am an"])
    os.utime(path, ns=(changed, changed + 1))
    packed = prepare([str(path)])
    assert rows_of(packed.train) == packed_by_hand(["am an"], bert, 16)


def test_each_setting_and_the_tokenizer_have_rows_of_their_own(tmp_path, prepare, roberta):
    path = corpus(tmp_path / "a.jsonl")
    variants = [{}, {"max_length": 12}, {"heldout": 0.3}, {"seed": 7}, {"tokenizer": roberta}]
    paths = [prepare([path], **variant).corpora[0].cache_path for variant in variants]
    assert len(set(paths)) == len(variants)
    with pytest.raises(UserError, match="no column 'body'"):
        prepare([path], text_column="body")


def test_another_corpus_or_weight_leaves_the_rows_of_the_first(tmp_path, prepare):
    one, two = corpus(tmp_path / "1.jsonl"), corpus(tmp_path / "2.jsonl", TEXTS[:20])
    prepare([one])
    assert [part.reused for part in prepare([two, one]).corpora] == [False, True]
    assert [part.reused for part in prepare([two, one], weights=[1, 2]).corpora] == [True, True]


def test_the_cache_is_where_the_environment_says(tmp_path, prepare, monkeypatch):
    monkeypatch.setenv("TUTORKD_CACHE", str(tmp_path / "elsewhere"))
    packed = prepare([corpus(tmp_path / "a.jsonl")], cache_dir=None)
    assert packed.corpora[0].cache_path.parent == tmp_path / "elsewhere"


def test_corpora_without_weights_follow_one_another(tmp_path, prepare):
    paths = [corpus(tmp_path / "1.jsonl", TEXTS[:30]), corpus(tmp_path / "2.jsonl", TEXTS[30:])]
    one, two, both = prepare(paths[:1]), prepare(paths[1:]), prepare(paths)
    assert rows_of(both.train) == rows_of(one.train) + rows_of(two.train)
    assert rows_of(both.heldout) == rows_of(one.heldout) + rows_of(two.heldout)
    assert both.tokens == one.tokens + two.tokens
    assert [part.source for part in both.corpora] == paths


def test_weights_are_shares_of_the_rows(tmp_path, prepare):
    # as many rows of either, none of which is in both
    paths = [
        corpus(tmp_path / "1.jsonl", ["ak al am " * 900]),
        corpus(tmp_path / "2.jsonl", ["ao ap aq " * 900]),
    ]
    packed = prepare(paths, weights=[3, 1])
    first = {5, 6, 7}
    share = np.mean([row[1] in first for row in rows_of(packed.train)])
    each = packed.corpora[0].train_rows
    assert each == packed.corpora[1].train_rows == -(-2700 // 14)
    assert share == 0.75
    assert len(packed.train) == 4 * each  # until the rarer has been drawn once
    assert Counter(row[1] for row in rows_of(packed.train) if row[1] not in first).total() == each
    assert rows_of(packed.train) == rows_of(prepare(paths, weights=[0.3, 0.1]).train)


def repeated_by_hand(rows: list[list[int]], count: int) -> list[list[int]]:
    return [rows[i % len(rows)] for i in range(count)]


@pytest.mark.parametrize("batch", [1, 7, 8192])
def test_mixed_rows_are_those_of_each_corpus_over_and_over(tmp_path, prepare, monkeypatch, batch):
    monkeypatch.setattr("tutorkd.data.corpus.ROWS_PER_BATCH", batch)
    paths = [corpus(tmp_path / "1.jsonl", TEXTS[:7]), corpus(tmp_path / "2.jsonl", TEXTS[7:])]
    few, many = (rows_of(prepare([path], heldout=0).train) for path in paths)
    rows = rows_of(prepare(paths, heldout=0, weights=[2, 1]).train)
    assert rows == repeated_by_hand(few, 2 * len(many)) + many
    rows = rows_of(prepare(paths, heldout=0, weights=[1, 50]).train)
    assert rows == few + repeated_by_hand(many, 50 * len(few))


def test_a_mix_keeps_no_list_of_its_rows(tmp_path, prepare):
    paths = [corpus(tmp_path / "1.jsonl", TEXTS[:2]), corpus(tmp_path / "2.jsonl")]
    prepare(paths, heldout=0)
    few = prepare(paths[:1], heldout=0).corpora[0].train_rows
    rows = 5_000_000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    train = prepare(paths, heldout=0, weights=[1, rows / few]).train
    grown = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(train) == few + rows
    assert grown < rows  # bytes, where a list of the rows would take eight times as many
    assert train[len(train) - 1]["input_ids"] == train[few + (rows - 1) % (len(train) - few)]["input_ids"]


def test_weights_that_would_repeat_a_corpus_without_end_are_refused(tmp_path, prepare):
    paths = [corpus(tmp_path / "1.jsonl"), corpus(tmp_path / "2.jsonl")]
    fails(prepare, r"weights 1e-09, 1: .* rows; give the corpus", paths, weights=[1e-9, 1])


def fails(prepare, said: str, *args, **kwargs) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"max_length": 7}, "max_length 7 is too short"),
        ({"max_length": 65}, "max_length 65 is more than the 64 tokens"),
        ({"heldout": 1.0}, "heldout 1.0"),
        ({"heldout": -0.1}, "heldout -0.1"),
        ({"heldout": float("nan")}, "heldout nan"),
        ({"num_proc": 0}, "num_proc 0"),
        ({"weights": [1.0, 2.0]}, "2 weights for 1 corpora"),
        ({"weights": [0.0]}, "weights 0.0: each must be"),
        ({"weights": [float("inf")]}, "weights inf"),
        ({"sources": []}, "no corpus"),
    ],
)
def test_settings_out_of_range(tmp_path, prepare, streaming, kwargs, said):
    fails(prepare, said, **{"sources": [corpus(tmp_path / "a.jsonl")], "streaming": streaming} | kwargs)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("texts", [[], [None, " "]])
def test_a_corpus_without_text(tmp_path, prepare, streaming, texts):
    fails(prepare, "holds no text", [corpus(tmp_path / "a.jsonl", texts)], streaming=streaming)
    assert entries(tmp_path / "cache") == []


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_file_leaves_nothing_in_the_cache(tmp_path, prepare, streaming):
    path = tmp_path / "a.jsonl"
    path.write_text(Path(corpus(path)).read_text() + "{")
    fails(prepare, "line 61 isn't JSON", [str(path)], streaming=streaming)
    assert entries(tmp_path / "cache") == []


def test_a_tokenizer_that_cannot_frame_rows(tmp_path, prepare, bert, roberta):
    plain = type(roberta).from_pretrained(roberta.name_or_path)
    plain.sep_token = None
    fails(prepare, "has no sep_token", [corpus(tmp_path / "a.jsonl")], tokenizer=plain)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, prepare, monkeypatch):
    class OnFullDisk(PackedWriter):
        def __init__(self, file, *args):
            super().__init__(pa.OSFile("/dev/full", "wb"), *args)

    monkeypatch.setattr(cached, "PackedWriter", OnFullDisk)
    fails(prepare, f"disk full while writing the corpus cache in {tmp_path}", [corpus(tmp_path / "a.jsonl")])
    assert entries(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written(tmp_path, prepare):
    (tmp_path / "file").write_text("")
    fails(
        prepare,
        "cannot prepare the corpus cache",
        [corpus(tmp_path / "a.jsonl")],
        cache_dir=tmp_path / "file",
    )


def test_a_killed_run_leaves_nothing_that_counts(tmp_path, prepare, bert, monkeypatch):
    path = corpus(tmp_path / "a.jsonl")

    def killed_midway(path, encoder, settings, train, heldout, progress):
        train._file.write(b"half")
        train._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(cached, "_pack", killed_midway)
        process = multiprocessing.get_context("fork").Process(target=prepare, args=([path],))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(entries(tmp_path / "cache")) == 1
    packed = prepare([path])
    assert not packed.corpora[0].reused
    assert rows_of(packed.train) == rows_of(prepare([path], cache_dir=tmp_path / "other").train)
    assert entries(tmp_path / "cache") == [packed.corpora[0].cache_path.name]


def test_of_runs_at_once_one_makes_the_rows(tmp_path, prepare, bert):
    path = corpus(tmp_path / "a.jsonl")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()

    def run() -> None:
        barrier.wait()
        packed = prepare([path], heldout=0)
        results.put((packed.corpora[0].reused, rows_of(packed.train)))

    processes = [context.Process(target=run) for _ in range(3)]
    for process in processes:
        process.start()
    got = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(reused for reused, _ in got) == [False, True, True]
    assert all(rows == packed_by_hand(TEXTS, bert, 16) for _, rows in got)


def test_a_hub_data_set_is_kept_by_its_fingerprint(tmp_path, prepare, bert, monkeypatch):
    hub = datasets.Dataset.from_dict({"body": TEXTS, "n": range(60)})
    monkeypatch.setattr(sources, "load_from_hub", lambda *args, **kwargs: hub)
    first = prepare(["org/name"], text_column="body", heldout=0)
    assert rows_of(first.train) == packed_by_hand(TEXTS, bert, 16)
    assert prepare(["org/name"], text_column="body", heldout=0).corpora[0].reused
    hub = hub.select(range(30))
    other = prepare(["org/name"], text_column="body", heldout=0)
    assert rows_of(other.train) == packed_by_hand(TEXTS[:30], bert, 16)


def test_streamed_rows_are_those_of_the_documents_after_the_held_out_ones(tmp_path, prepare, bert):
    packed = prepare([corpus(tmp_path / "a.jsonl", [None, *TEXTS])], heldout=0.1, streaming=True)
    assert rows_of(packed.heldout) == packed_by_hand(TEXTS[:6], bert, 16)
    assert sorted(rows_of(packed.train)) == sorted(packed_by_hand(TEXTS[6:], bert, 16))
    assert packed.train.features == packed.heldout.features
    assert (packed.documents, packed.tokens, packed.corpora[0].heldout_documents) == (None, None, 6)
    assert entries(tmp_path / "cache") == []


def test_a_long_stream_gives_its_head_to_the_held_out_part(tmp_path, prepare, bert, monkeypatch):
    monkeypatch.setattr(stream, "STREAM_HELDOUT_DOCUMENTS", 5)
    path = corpus(tmp_path / "a.jsonl")
    assert rows_of(prepare([path], streaming=True).heldout) == packed_by_hand(TEXTS[:5], bert, 16)
    assert len(prepare([path], streaming=True, heldout=0).heldout) == 0


def test_a_stream_is_shuffled_anew_each_epoch_from_the_seed(tmp_path, prepare):
    path = corpus(tmp_path / "a.jsonl")

    def epochs(seed: int) -> list[list[list[int]]]:
        train = prepare([path], streaming=True, seed=seed).train
        orders = []
        for epoch in (0, 1):
            train.set_epoch(epoch)
            orders.append(rows_of(train))
        return orders

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    assert sorted(first[0]) == sorted(first[1]) == sorted(other[0])


@pytest.mark.parametrize("origin", ["local", "hub"])
def test_data_loader_workers_give_each_streamed_row_once(tmp_path, prepare, bert, monkeypatch, origin):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")  # with which threads would hang in the workers
    if origin == "hub":
        hub = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(num_shards=3)
        monkeypatch.setattr(sources, "load_from_hub", lambda *args, **kwargs: hub)
    path = corpus(tmp_path / "a.jsonl") if origin == "local" else "org/name"
    train = prepare([path], heldout=0, streaming=True).train
    rows = chain.from_iterable(DataLoader(train, 4, num_workers=2, collate_fn=rows_of, timeout=20))
    assert sorted(rows) == sorted(packed_by_hand(TEXTS, bert, 16))


def test_streams_are_mixed_as_files_are(tmp_path, prepare):
    paths = [
        corpus(tmp_path / "1.jsonl", ["ak al am " * 900]),
        corpus(tmp_path / "2.jsonl", ["ao ap aq " * 900]),
    ]
    rows = rows_of(prepare(paths, streaming=True).train)
    assert len(rows) == 2 * -(-2700 // 14)
    mixed = rows_of(prepare(paths, weights=[3, 1], streaming=True).train)
    assert np.mean([row[1] in {5, 6, 7} for row in mixed]) == pytest.approx(0.75, abs=0.05)


# The digest of the rows


@pytest.mark.parametrize("streaming", [False, True])
def test_a_digest_follows_the_rows(tmp_path, prepare, streaming):
    path = Path(corpus(tmp_path / "a.jsonl"))
    first = prepare([str(path)], streaming=streaming).digest
    assert re.fullmatch("[0-9a-f]{20}", first)
    assert prepare([str(path)], streaming=streaming).digest == first  # out of the cache
    assert prepare([str(path)], streaming=streaming, cache_dir=tmp_path / "another").digest == first
    others = [{"max_length": 12}, {"heldout": 0.5}]
    digests = [prepare([str(path)], streaming=streaming, **other).digest for other in others]
    corpus(path, TEXTS[::-1])
    digests.append(prepare([str(path)], streaming=streaming).digest)
    assert len({first, *digests}) == 4


def test_a_digest_is_of_the_content_wherever_the_file_lies(tmp_path, prepare):
    one, two = corpus(tmp_path / "1.jsonl"), corpus(tmp_path / "2.jsonl")
    assert prepare([one]).digest == prepare([two]).digest
    one, two = corpus(tmp_path / "1.jsonl", ["ak al", "am"]), corpus(tmp_path / "2.jsonl", ["am", "ak al"])
    assert prepare([one], heldout=0).digest != prepare([two], heldout=0).digest


def test_a_digest_tells_a_held_out_document_from_one_trained_on(tmp_path, prepare):
    path = corpus(tmp_path / "a.jsonl", ["ak al am", "an ao ap"])
    parts = {seed: prepare([path], heldout=0.5, seed=seed) for seed in range(6)}
    held = {seed: rows_of(part.heldout)[0][1] for seed, part in parts.items()}
    assert len(set(held.values())) == 2
    assert len({(held[seed], part.digest) for seed, part in parts.items()}) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_the_digest_of_a_mix_follows_order_and_weights_and_of_streams_the_seed(tmp_path, prepare, streaming):
    paths = [corpus(tmp_path / "1.jsonl", TEXTS[:30]), corpus(tmp_path / "2.jsonl", TEXTS[30:])]

    def digest(paths=paths, **kwargs):
        return prepare(paths, heldout=0, streaming=streaming, **kwargs).digest

    variants = [{}, {"paths": paths[::-1]}, {"weights": [3, 1]}, {"weights": [1, 3]}]
    assert len({digest(**variant) for variant in variants}) == len(variants)
    assert (digest(weights=[3, 1], seed=7) == digest(weights=[3, 1])) is not streaming
    assert digest(weights=[3, 1]) == digest(weights=[0.3, 0.1])
    assert digest(paths=paths[:1], weights=[3]) == digest(paths=paths[:1])  # one corpus has nothing to be mixed with


@pytest.mark.parametrize("streaming", [False, True])
def test_a_path_may_be_spelled_in_any_way(tmp_path, prepare, monkeypatch, streaming):
    (tmp_path / "deutsch").mkdir()
    corpus(tmp_path / "deutsch" / "a.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "deutsch")
    monkeypatch.chdir(tmp_path)
    names = ["deutsch", "deutsch/", "./deutsch", "deutsch/../deutsch", "deutsch/*.jsonl", "link", f"{tmp_path}/deutsch"]
    parts = [prepare([name], streaming=streaming) for name in names]
    assert len({part.digest for part in parts}) == 1
    assert len({part.corpora[0].cache_path for part in parts}) == 1
    assert [part.corpora[0].source for part in parts] == names


# How a corpus is named


def test_one_name_is_one_corpus_and_may_be_a_path(tmp_path, prepare, bert):
    path = corpus(tmp_path / "a.jsonl")
    parts = [prepare(sources, heldout=0) for sources in (path, Path(path), [Path(path)], (path,))]
    assert all(rows_of(part.train) == packed_by_hand(TEXTS, bert, 16) for part in parts)
    assert all([counts.source for counts in part.corpora] == [path] for part in parts)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": TEXTS})), "a DatasetDict"),
        ([{"text": "ak"}], "a dict"),
        ([datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()], "a IterableDataset"),
        ({"text": TEXTS}, "a dict"),
        ([None], "None"),
        (None, "None"),
    ],
)
def test_text_in_the_place_of_a_name_is_refused(prepare, given, kind):
    fails(prepare, rf"a corpus is the name .* or a datasets.Dataset, not {kind}; .* write other data to a file", given)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_text_gives_the_rows_that_a_file_of_it_does(tmp_path, prepare, streaming):
    rows = datasets.Dataset.from_dict({"n": range(60), "body": TEXTS})
    given = {"text_column": "body", "heldout": 0.1, "streaming": streaming}
    rows.to_parquet(tmp_path / "a.parquet")
    expected, found = (prepare(source, **given) for source in (tmp_path / "a.parquet", rows))
    assert rows_of(found.train) == rows_of(expected.train)
    assert rows_of(found.heldout) == rows_of(expected.heldout)
    assert found.corpora[0].source == "a Dataset of 60 rows"


def test_a_dataset_is_kept_by_its_content(prepare, bert):
    def rows(texts=TEXTS):
        return datasets.Dataset.from_dict({"text": texts})

    assert rows_of(prepare([rows()], heldout=0).train) == packed_by_hand(TEXTS, bert, 16)
    assert prepare(rows(), heldout=0).corpora[0].reused
    other = prepare(rows().select(range(30, 60)), heldout=0)
    assert rows_of(other.train) == packed_by_hand(TEXTS[30:], bert, 16)
    fails(prepare, "a Dataset of 60 rows: no column 'body' among text", rows(), text_column="body")
    numbers = datasets.Dataset.from_dict({"n": [1, 2]})
    fails(prepare, "a Dataset of 2 rows: column 'n' holds .*, not text", numbers, text_column="n")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_without_rows_holds_no_text(prepare, streaming):
    empty = datasets.Dataset.from_dict({"text": TEXTS}).select([])
    fails(prepare, "'a Dataset of 0 rows' holds no text", empty, streaming=streaming)


def test_a_dataset_with_a_transform_is_refused(prepare):
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    given = rows.with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    fails(prepare, "a Dataset's transform isn't applied .* use map", given)
    assert prepare(rows.with_format("torch"))


# Tokens that the tokenizer doesn't know


@pytest.mark.parametrize("streaming", [False, True])
def test_the_share_of_unknown_tokens_is_counted(tmp_path, prepare, streaming):
    path = corpus(tmp_path / "a.jsonl", ["ak al am an", "ao zz zz aq"])
    first, second = (prepare([path], streaming=streaming, heldout=0.5) for _ in range(2))  # made, and from the cache
    assert first.corpora[0].unknown_share == second.corpora[0].unknown_share == 2 / 8
    assert prepare([corpus(tmp_path / "b.jsonl")], streaming=streaming).corpora[0].unknown_share == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_text_that_is_mostly_unknown_is_refused(tmp_path, prepare, streaming):
    half = corpus(tmp_path / "half.jsonl", ["ak al", "zz zz"])
    assert prepare([half], streaming=streaming).corpora[0].unknown_share == 0.5
    more = corpus(tmp_path / "more.jsonl", ["ak al", "zz zz zz"])
    cache = entries(tmp_path / "cache")
    fails(
        prepare, r"more.jsonl': the tokenizer doesn't know 60% of its tokens; take a model", [more], streaming=streaming
    )
    assert entries(tmp_path / "cache") == cache


def test_a_look_at_the_beginning_refuses_text_that_is_mostly_unknown(tmp_path, bert, monkeypatch):
    monkeypatch.setattr("tutorkd.data.encoders._BEGINNING", 12)

    def check(texts):
        settings = {"max_length": 16, "text_column": "text", "weights": None, "heldout": 0, "split": "train"}
        settings |= {"revision": None, "data_files": None}
        check_corpus([corpus(tmp_path / "a.jsonl", texts)], bert, **settings, num_proc=None)

    check(["ak", "al am an ao ap", "zz zz zz zz zz zz zz zz"])  # the unknown words come later
    with pytest.raises(UserError, match="doesn't know 75% of its tokens"):
        check(["ak zz zz zz al am an ao ap", *TEXTS])


def test_a_tokenizer_without_an_unknown_token_of_its_own_counts_none(tmp_path, prepare, roberta):
    plain = type(roberta).from_pretrained(roberta.name_or_path, unk_token="</s>")
    assert plain.unk_token_id == plain.sep_token_id
    packed = prepare([corpus(tmp_path / "a.jsonl")], tokenizer=plain)
    assert packed.corpora[0].unknown_share == 0


@pytest.mark.parametrize("name", ["train.arrow", "heldout.arrow", "corpus.json"])
@pytest.mark.parametrize("change", ["cut", "removed"])
def test_kept_rows_that_are_damaged_are_told_in_a_line_and_made_again_without_their_folder(
    tmp_path, prepare, name, change
):
    source = corpus(tmp_path / "a.jsonl")
    packed = prepare([source], heldout=0.2)
    folder, rows = packed.corpora[0].cache_path, rows_of(packed.train)
    file = folder / name
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    fails(prepare, f"what is kept in {folder} is damaged", [source], heldout=0.2)
    shutil.rmtree(folder)
    assert rows_of(prepare([source], heldout=0.2).train) == rows


def test_rows_are_on_the_disk_before_they_get_their_place(tmp_path, monkeypatch):
    """Else a power failure could leave a folder of that name with less in it."""
    flushed: list[str] = []
    monkeypatch.setattr(cache, "flush", lambda path: flushed.append(path.name))

    def build(new, scratch):
        (new / "rows").write_text("rows")

    cache.build_once(tmp_path / "kept" / "key", build)
    assert flushed == ["rows", "new", "kept"]
