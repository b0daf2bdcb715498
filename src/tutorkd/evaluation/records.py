"""Results of models in an output folder, one file for each, which a later run goes on from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from tutorkd.errors import Interrupted, UserError
from tutorkd.evaluation.checkpoint import Checkpoint, find_checkpoint
from tutorkd.files import RESULTS, RESULTS_TABLE, stored_result
from tutorkd.identity import difference
from tutorkd.runtime import usable_device

Result = TypeVar("Result")
_FILE = "result.json"
_RECORD = {"settings": dict[str, Any], "weights": dict[str, Any], "result": dict[str, Any]}  # of any kind of models
_SUMMARY = {"settings": dict[str, Any], "results": list[Any]}
_MACHINE = ("device", "threads")
_OF_KINDS = {"train": "encoders on labelled text", "prompts": "causal language models"}  # by a setting of theirs alone


@contextmanager
def going_on(restart: bool) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM say what the command does when it is given again.

    Args:
        restart: whether it was told to throw away what stands there.

    Raises:
        Interrupted: after either.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        same = "the same command without --restart" if restart else "the same command"
        raise Interrupted.by(stop, f"stopped; {same} continues with what isn't finished") from None


def machine() -> dict[str, Any]:
    """What times depend on; on another machine models are measured anew."""
    return {"device": usable_device().type, "threads": torch.get_num_threads()}


def named_checkpoints(models: Sequence[str], names: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints of models, each under the name that it is given, or else under that which it was found by.

    Raises:
        UserError: if one can't be found or stands there twice, or there are names, but not one for each.
    """
    if names and len(names) != len(models):
        raise UserError(f"--names has {len(names)} names for {len(models)} models: give one for each, or none")
    found = [find_checkpoint(model) for model in models]
    sources = [checkpoint.identity["source"] for checkpoint in found]
    if repeated := [model for model, source in zip(models, sources, strict=True) if sources.count(source) > 1]:
        raise UserError(f"--models has {repeated[-1]} twice: give each model once")
    return [replace(checkpoint, name=name) for checkpoint, name in zip(found, names, strict=True)] if names else found


def result_names(checkpoints: Sequence[Checkpoint], given: Sequence[str]) -> list[str]:
    """The name of each checkpoint's results, which is that of their folder too.

    It is the last part of the checkpoint's path or Hub name, with as many of the parts before it as keep those apart
    that would have one name.

    Args:
        given: names to take in this place, of the first checkpoints; by default none.

    Raises:
        UserError: if two that are given are one, or one can't be a folder's.
    """
    sources = [checkpoint.identity["source"] for checkpoint in checkpoints]
    for name in given:
        if name != _folder_name(name):
            raise UserError(f"--names {name!r} can't be a folder's name: take letters, digits, '.', '_' and '-'")
        if given.count(name) > 1:
            raise UserError(f"--names has {name} twice: give each model a name of its own")
    return _last_parts(sources, given)


def shown_names(names: Sequence[str]) -> list[str]:
    """Names for a table: of paths and Hub names the last part, as ``result_names`` takes it, others as they are."""
    sources = {
        name: str(Path(name).resolve()) if Path(name).exists() else name
        for name in names
        if "/" in name or Path(name).exists()
    }
    shown = dict(zip(sources, _last_parts(list(sources.values()), []), strict=True))
    return [shown.get(name, name) for name in names]


def _last_parts(sources: Sequence[str], given: Sequence[str]) -> list[str]:
    parts = {source: [part for part in Path(source).parts if part != Path(source).anchor] for source in sources}
    taken = dict.fromkeys(sources, 1)

    def names() -> list[str]:
        return [*given, *(_folder_name("-".join(parts[source][-taken[source] :])) for source in sources[len(given) :])]

    while True:
        owners: dict[str, set[str]] = {}
        for name, source in zip(names(), sources, strict=True):
            owners.setdefault(name.casefold(), set()).add(source)
        longer = {
            source
            for alike in owners.values()
            if len(alike) > 1
            for source in alike
            if source in sources[len(given) :] and taken[source] < len(parts[source])
        }
        if not longer:
            return names()
        for source in longer:
            taken[source] += 1


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def record_of(output: Path, name: str, seed: int | None = None) -> Path:
    """The file of a model's result, of one of several seeds where there are several."""
    return output / name / ("" if seed is None else f"seed{seed}") / _FILE


def record_files(output: Path) -> list[Path]:
    """The files of all results in a folder."""
    return sorted([*output.glob(f"*/{_FILE}"), *output.glob(f"*/seed*/{_FILE}")])


def check_owner(record: Path, checkpoint: Checkpoint) -> None:
    """Refuse to put a model's result in the place of another's.

    Raises:
        UserError: if the record there is of another model.
    """
    content = stored_result(record, {"weights": {"source": str}})
    if content is not None and content["weights"]["source"] != checkpoint.identity["source"]:
        raise UserError(
            f"{record.parent} holds the result of {content['weights']['source']}, not of {checkpoint.name}: give "
            "each model a name of its own with --names, or --restart to throw the results away"
        )


def result_folders(
    checkpoints: Sequence[Checkpoint], given: Sequence[str], output: Path, restart: bool
) -> dict[str, str]:
    """The folder of each checkpoint's result in ``output``, by its slug.

    Args:
        given: as ``result_names`` takes them.
        restart: whether what stands there will be thrown away.

    Raises:
        UserError: what ``result_names`` and, unless it is thrown away, ``check_owner`` raise.
    """
    folders = {}
    for checkpoint, name in zip(checkpoints, result_names(checkpoints, given), strict=True):
        if not restart:
            check_owner(record_of(output, name), checkpoint)
        folders[checkpoint.slug] = name
    return folders


def take_up(output: Path, settings: Mapping[str, Any], restart: bool) -> None:
    """Refuse a folder that holds results of other settings, data or kinds of models, or throw these away.

    Raises:
        UserError: naming what differs.
    """
    check_summary(output, _SUMMARY, "evaluate")
    if restart:
        (output / RESULTS_TABLE).unlink(missing_ok=True)
    for path in [*record_files(output), output / RESULTS]:
        content = stored_result(path, _SUMMARY if path.name == RESULTS else _RECORD)
        if content is None or not content["settings"]:  # damaged, or nothing of ours
            continue
        if restart:
            path.unlink()
            continue
        there, now = (
            {key: value for key, value in each.items() if key not in _MACHINE}
            for each in (content["settings"], settings)
        )
        if found := _difference(there, now):
            raise UserError(
                f"{output} holds another run ({found}); choose another --output_dir, or --restart to throw "
                "its results away"
            )


def check_summary(output: Path, types: Mapping[str, Any], command: str) -> None:
    """Refuse to put a command's results in the place of another command's.

    Args:
        types: of what the command's ``results.json`` holds, as ``stored_result`` takes them.

    Raises:
        UserError: if there is a ``results.json`` that isn't of it.
    """
    file = output / RESULTS
    if file.is_file() and stored_result(file, types) is None:
        raise UserError(f"{file} wasn't written by tutorkd {command}, or is damaged: choose another --output_dir")


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The kinds of models, where they aren't the same, or else how settings differ; None if they don't."""
    kinds = [
        next((kind for setting, kind in _OF_KINDS.items() if setting in settings), "embeddings of text")
        for settings in (there, now)
    ]
    return difference(there, now) if kinds[0] == kinds[1] else f"of {kinds[0]} there, of {kinds[1]} now"


def earlier(
    record: Path, types: Mapping[str, Any], settings: Mapping[str, Any], checkpoint: Checkpoint
) -> dict[str, Any] | None:
    """The record of an earlier run, if it had the same settings, machine and weights."""
    content = stored_result(record, types)
    if content is None or content["weights"] != checkpoint.identity or difference(content["settings"], settings):
        return None
    return content


def earlier_result(
    kind: type[Result], record: Path, settings: Mapping[str, Any], checkpoint: Checkpoint
) -> Result | None:
    """The result of an earlier run, if it had the same settings, machine and weights; under today's name.

    Args:
        kind: a dataclass with a name.
    """
    types = get_type_hints(kind)
    content = earlier(record, {**_RECORD, "result": types}, settings, checkpoint)
    if content is None:
        return None
    return kind(**{**{key: content["result"][key] for key in types}, "name": checkpoint.name})
