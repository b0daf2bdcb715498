"""Settings in plain types, to be checked, shown and kept."""

import dataclasses
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any

from tutorkd.errors import UserError

# Trainer's options whose defaults are a command's or a machine's own.
_OWN_DEFAULTS = {"bf16", "eval_strategy"}


def resolved(arguments: Sequence[Any], in_full: Collection[str] = ()) -> dict[str, Any]:
    """What a recipe would say: our options in full, ``Trainer``'s where they aren't its defaults.

    Args:
        arguments: dataclass instances.
        in_full: options of ``Trainer`` that are told at their defaults, too.
    """
    import torch  # which whoever asks for help doesn't wait for
    from transformers import TrainingArguments

    values = {}
    for instance in arguments:
        inherited = instance if isinstance(instance, TrainingArguments) else None
        reference = None
        if inherited:
            # Constructed, since TrainingArguments changes some of its own defaults on the way. For the same device, as
            # accelerate takes that of the arguments that were constructed last for all that this process does.
            reference = type(inherited)(output_dir="", use_cpu=inherited.use_cpu)
            reference.use_cpu = not torch.accelerator.is_available()
        told = {*_OWN_DEFAULTS, *in_full, *own_fields(type(instance))}
        for field in dataclasses.fields(instance):
            value = getattr(instance, field.name)
            if not field.init or (field.name not in told and value == getattr(reference, field.name)):
                continue
            if isinstance(value, Enum):
                value = value.value
            if value is None or isinstance(value, str | int | float | bool | list | dict):
                values[field.name] = value
    return values


def own_fields(cls: type) -> set[str]:
    """Names of the fields that classes of ours declare, not ``TrainingArguments``."""
    ours = {name for base in cls.__mro__ if base.__module__.startswith("tutorkd.") for name in base.__annotations__}
    return {field.name for field in dataclasses.fields(cls)} & ours


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that isn't one.

    Raises:
        UserError: if it isn't above 0.
    """
    if not temperature > 0:
        raise UserError(f"--temperature must be above 0, not {temperature:g}; 1 leaves logits as they are")
