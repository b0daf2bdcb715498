"""What a run is made from, by content: models, labelled rows, text."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from tutorkd.data.sources import LocalFiles, resolve_source
from tutorkd.errors import UserError
from tutorkd.settings import first_difference
from tutorkd.students import PRESETS

# Settings that name something. They are kept to be read; what they stand for is compared, however its name is spelled.
MODELS, FILES, TEXT = ("model", "teacher", "student"), ("train", "validation"), "corpus"
TEXT_DIGEST, TEXT_FILES = f"{TEXT}_sha256", f"{TEXT}_files_sha256"
_MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.model",
)
_DIGITS = 16


def with_contents(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, and for each name of a model or of labelled rows a digest or the Hub's revision of what it stands for.

    Nothing is fetched: a model of the Hub has a revision once it was loaded here.
    """
    found = dict(settings)
    for key in MODELS:
        name = settings.get(key)
        if name and name not in PRESETS:
            if Path(name).exists():
                found[f"{key}_sha256"] = _digest(_model_files(Path(name)))
            elif revision := _revision(name):
                found[f"{key}_revision"] = revision
    for key in FILES:
        if (path := Path(settings.get(key) or "")).is_file():
            found[f"{key}_sha256"] = _digest([path])
    return found


def text_files(corpus: Iterable[str], split: str) -> str:
    """A digest of which files a text is read from, their sizes and times of change; nothing is read."""
    parts = [_text_files(name, split) for name in corpus]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]


def _text_files(name: str, split: str) -> Any:
    try:
        source = resolve_source(name, split)
    except UserError:  # there is none; whoever reads it tells
        return name
    # What a data set of the Hub holds isn't known before it is fetched.
    return source.identity(streaming=False) if isinstance(source, LocalFiles) else name


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the names whose content is told beside them."""
    told = {TEXT} if TEXT_FILES in settings else set()
    told |= {key for key in (*MODELS, *FILES) if f"{key}_sha256" in settings}
    return {key: value for key, value in settings.items() if key not in told}


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two sets of settings differ in words; None if they don't.

    Names of one content aren't a difference, however they are spelled. Of the text its rows count, not its files.
    """
    names = (*MODELS, *FILES, TEXT)
    differ = [key for key in names if there.get(f"{key}_sha256") != now.get(f"{key}_sha256")]
    same = [key for key in names if key not in differ and f"{key}_sha256" in there]
    first, second = (
        {key: value for key, value in each.items() if key not in same and not key.endswith("_sha256")}
        for each in (there, now)
    )
    if found := first_difference(first, second):
        return found
    return f"what {differ[0]} {now.get(differ[0])} holds has changed" if differ else None


def _model_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted({file for pattern in _MODEL_FILES for file in path.glob(pattern) if file.is_file()})


def _digest(files: Iterable[Path]) -> str:
    parts = []
    for file in files:
        stat = file.stat()
        parts.append([file.name, _content(file.absolute(), stat.st_size, stat.st_mtime_ns)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    """The digest of a file that had this size and time of change (ns); it is read once."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _revision(name: str) -> str | None:
    try:
        file = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path of nothing; whoever loads it tells
        return None
    return Path(file).parent.name if isinstance(file, str) else None
