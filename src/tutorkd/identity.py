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
from tutorkd.students import PRESETS

# Settings that name something. They are kept to be read; what they stand for is compared, however its name is spelled.
MODELS = ("model", "config_name", "tokenizer_name", "teacher", "mlm_teacher", "student", "student_tokenizer")
FILES = ("train", "validation", "sts", "paraphrases", "retrieval")
FOLDERS = ("data_dir",)  # of Parquet files, in a folder for each task
HELDOUT, TEXT = "text", "corpus"
TEXT_DIGEST, TEXT_FILES, HELDOUT_FILES = f"{TEXT}_sha256", f"{TEXT}_files_sha256", f"{HELDOUT}_files_sha256"
_MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab*",
    "merges.txt",
    "*.model",
    # Of sentence-transformers: what follows the encoder, and how it is used.
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("[0-9]_*/config.json", "[0-9]_*/*.safetensors", "[0-9]_*/pytorch_model.bin"),
)
_DIGITS = 16


def with_contents(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, and for each name of a model, labelled rows, a folder of them or held-out text a digest or the Hub's
    revision of what it stands for.

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
    for key in FOLDERS:
        if (folder := settings.get(key)) and Path(folder).is_dir():
            found[f"{key}_sha256"] = _digest(sorted(Path(folder).glob("*/*.parquet")))
    if text := settings.get(HELDOUT):
        found[HELDOUT_FILES] = text_files(text, "validation")
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


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two sets of settings differ, "key: value there, value now and 2 more"; None if they don't.

    Names of one content aren't a difference, however they are spelled. Of a text its rows count where both sets tell
    them, else its files. A setting that isn't there is None.
    """
    digests = {name: f"{name}_sha256" for name in (*MODELS, *FILES, *FOLDERS)}
    digests[HELDOUT] = HELDOUT_FILES
    digests[TEXT] = TEXT_DIGEST if TEXT_DIGEST in there and TEXT_DIGEST in now else TEXT_FILES
    changed = [name for name, key in digests.items() if there.get(key) != now.get(key)]
    settled = {name for name, key in digests.items() if name not in changed and key in there}
    settled |= {*digests.values(), TEXT_DIGEST, TEXT_FILES}
    differ = [key for key in (there.keys() | now.keys()) - settled if there.get(key) != now.get(key)]
    differ.sort(key=lambda key: (key.endswith("sha256"), key))  # a digest tells a reader least
    if differ:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        return f"{differ[0]}: {there.get(differ[0])} there, {now.get(differ[0])} now{more}"
    return f"the contents of {changed[0]} {now.get(changed[0])} have changed" if changed else None


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
