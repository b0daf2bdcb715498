"""What it takes to tokenise and pack a text: tokens a second, memory, disk, and a second start.

    python benchmarks/corpus.py --gigabytes 2
    python benchmarks/corpus.py --folder my_text/ --tokenizer google-bert/bert-base-uncased

Makes a text from a seed, or takes a folder, lets `prepare_corpus` make its rows in a process of its own, watched from
outside, and prints a table. What it writes is removed at the end.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tutorkd import prepare_corpus
from tutorkd.data.documents import Layout
from tutorkd.data.packing import Encoder, nonblank
from tutorkd.data.sources import resolve_source
from tutorkd.runtime import describe
from tutorkd.tables import aligned

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # a letter is as frequent as its place says, and so is a word
WORDS, VOCABULARY = 60_000, 30_000
BYTES_PER_FILE = 1 << 30
CHARACTERS_ALONE = 4 << 20  # of the text, which the tokenizer alone is timed on
LOOK = 0.2  # seconds between two looks at memory and disk
FORK = get_context("fork")


def harmonic(count: int) -> np.ndarray:
    """Shares of so many things, the n-th being 1/n as frequent as the first."""
    shares = 1 / np.arange(1, count + 1)
    return shares / shares.sum()


def documents(seed: int) -> Iterator[str]:
    """Texts of 50 to 799 words without end."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 11, WORDS)
    letters = "".join(generator.choice(list(LETTERS), lengths.sum(), p=harmonic(len(LETTERS))))
    ends = lengths.cumsum()
    words = np.array([letters[end - length : end] for end, length in zip(ends, lengths, strict=True)], object)
    upto = harmonic(WORDS).cumsum()
    while True:
        drawn = words[np.searchsorted(upto[:-1], generator.random(1 << 20))]
        ends = generator.integers(50, 800, len(drawn) // 800).cumsum()
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            yield " ".join(drawn[begin:end]) + "."


def write_text(folder: Path, size: int, seed: int) -> None:
    """Fill a folder with files of about a gibibyte, of so many bytes in all."""
    texts = documents(seed)
    written = 0
    for number in range(-(-size // BYTES_PER_FILE)):
        end = min(size, written + BYTES_PER_FILE)
        with (folder / f"{number:04}.jsonl").open("w", encoding="utf-8") as file:
            while written < end:
                written += file.write(json.dumps({"text": next(texts)}) + "\n")


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Word pieces as BERT's, learned from some text."""
    backend = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=[*SPECIAL.values()], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in SPECIAL.items()}
    )


def beginning(folder: Path, column: str) -> list[str]:
    """Documents from the beginning of a text."""
    texts, left = [], CHARACTERS_ALONE
    for text in nonblank(resolve_source(str(folder), layout=Layout(column)).stream()):
        texts.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return texts


def alone(tokenizer: PreTrainedTokenizerBase, texts: list[str], processes: int) -> float:
    """Tokens a second of the tokenizer by itself in so many processes at once, all of them together."""
    with ProcessPoolExecutor(processes, FORK) as pool:
        return sum(pool.map(rate, [tokenizer] * processes, [texts] * processes))


def rate(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Tokens a second of the tokenizer by itself in this process, document by document."""
    backend = tokenizer.backend_tokenizer
    start = time.perf_counter()
    tokens = sum(len(backend.encode(text, add_special_tokens=False)) for text in texts)
    return tokens / (time.perf_counter() - start)


def prepare(names: tuple[str, str, str, str], processes: int, told: Connection) -> None:
    """Make the rows; tell tokens, whether they were there, seconds, and those of all processes in the tokenizer."""
    folder, tokenizer, column, cache = names
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    spent = FORK.Value("d")  # which its own processes share

    def timed(self: Encoder, text: str, start: int, plain: Callable = Encoder._encode) -> Encoding:
        began = time.perf_counter()
        try:
            return plain(self, text, start)
        finally:
            with spent.get_lock():
                spent.value += time.perf_counter() - began

    began = time.perf_counter()
    with patch.object(Encoder, "_encode", timed):
        packed = prepare_corpus(folder, loaded, text_column=column, num_proc=processes, cache_dir=cache)
    told.send((packed.tokens, packed.corpora[0].reused, time.perf_counter() - began, spent.value))


def size(folder: Path) -> int:
    """Bytes that the files of a folder take on disk."""
    taken = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # between the listing and the look
            taken += file.stat().st_blocks * 512
    return taken


def memory(process: psutil.Process) -> int:
    """Bytes in memory of the largest among a process and those that it started."""
    largest = 0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                largest = max(largest, each.memory_info().rss)
    return largest


def watched(names: tuple[str, str, str, str], processes: int) -> tuple[tuple, int, int]:
    """What `prepare` tells from a process of its own, and the most memory and disk that were taken meanwhile."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=prepare, args=(names, processes, theirs))
    process.start()
    theirs.close()
    most_memory = most_disk = 0
    while not ours.poll(LOOK):
        most_memory = max(most_memory, memory(psutil.Process(process.pid)))
        most_disk = max(most_disk, size(Path(names[3])))
    told = ours.recv()
    process.join()
    return told, most_memory, most_disk


def measure(folder: Path, tokenizer: PreTrainedTokenizerBase, column: str, processes: int, scratch: Path) -> str:
    """The table for one text."""
    texts = beginning(folder, column)
    cache = scratch / "cache"
    cache.mkdir()
    tokenizer.save_pretrained(scratch / "tokenizer")
    names = str(folder), str(scratch / "tokenizer"), column, str(cache)
    before = alone(tokenizer, texts, processes)
    (tokens, reused, seconds, spent), most_memory, most_disk = watched(names, processes)
    after = alone(tokenizer, texts, processes)
    kept = size(cache)
    again, *_ = watched(names, processes)
    assert (reused, again[1]) == (False, True)
    bytes_of_text = sum(file.stat().st_size for file in resolve_source(str(folder)).files)
    rows = [
        ("text", f"{bytes_of_text / 1e9:,.2f} GB, {tokens:,} tokens"),
        ("time, with so many processes", f"{seconds:,.0f} s, {processes}"),
        ("tokens/s", f"{tokens / seconds:,.0f}"),
        ("the tokenizer alone in as many, before and after: tokens/s", f"{before:,.0f}, {after:,.0f}"),
        ("of their mean", f"{tokens / seconds / ((before + after) / 2):.0%}"),
        ("of the processes' time, in the tokenizer", f"{spent / seconds / processes:.0%}"),
        ("most memory of a process", f"{most_memory / 1e9:.2f} GB"),
        ("disk: most, at the end", f"{most_disk / 1e9:.3f} GB, {kept / 1e9:.3f} GB"),
        ("second start", f"{again[2]:.2f} s"),
    ]
    return aligned(("figure", "value"), rows, words=1)


def main() -> None:
    """Make or take the text, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.2, help="size of the text that is made, in 10**9 bytes")
    parser.add_argument("--seed", type=int, default=0, help="of that text")
    parser.add_argument("--folder", type=Path, help="text to take instead")
    parser.add_argument("--text_column", default="text", help="its column")
    parser.add_argument(
        "--tokenizer", help="name or folder; by default word pieces learned from the beginning of the text"
    )
    parser.add_argument("--processes", type=int, default=len(psutil.Process().cpu_affinity()))
    parser.add_argument("--scratch", type=Path, help="where text and rows go meanwhile; by default a temporary folder")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = args.folder or Path(scratch) / "text"
        if args.folder is None:
            folder.mkdir()
            write_text(folder, int(args.gigabytes * 1e9), args.seed)
        if args.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        else:
            tokenizer = make_tokenizer(beginning(folder, args.text_column))
        print(f"processor: {describe()['processor']}, {args.processes} processes")
        print(measure(folder, tokenizer, args.text_column, args.processes, Path(scratch)))


if __name__ == "__main__":
    main()
