"""Results of models in an output folder, one file for each, which a later run goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.files import stored_result
from tutorkd.identity import difference

_FILE = "result.json"
_MACHINE = ("device", "threads")


def machine() -> dict[str, Any]:
    """What times depend on; on another machine models are measured anew."""
    accelerator = torch.accelerator.current_accelerator()
    return {"device": accelerator.type if accelerator else "cpu", "threads": torch.get_num_threads()}


def record_of(output: Path, checkpoint: Checkpoint) -> Path:
    """The file of a model's result."""
    return output / checkpoint.slug / _FILE


def take_up(output: Path, types: Mapping[str, Any], settings: Mapping[str, Any], restart: bool) -> None:
    """Refuse a folder that holds results of other settings or data, or throw these away.

    Args:
        types: of what a record holds, as ``stored_result`` takes them; what has others isn't ours.

    Raises:
        UserError: naming what differs.
    """
    for path in sorted(output.glob(f"*/{_FILE}")):
        content = stored_result(path, types)
        if content is None:
            continue
        if restart:
            path.unlink()
            continue
        there, now = (
            {key: value for key, value in each.items() if key not in _MACHINE}
            for each in (content["settings"], settings)
        )
        if found := difference(there, now):
            raise UserError(
                f"{output} holds another run ({found}); choose another --output_dir, or --restart to throw "
                "its results away"
            )


def earlier(
    record: Path, types: Mapping[str, Any], settings: Mapping[str, Any], checkpoint: Checkpoint
) -> dict[str, Any] | None:
    """The record of an earlier run, if it had the same settings, machine and weights."""
    content = stored_result(record, types)
    if content is None or content["weights"] != checkpoint.identity or difference(content["settings"], settings):
        return None
    return content
