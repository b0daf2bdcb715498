"""Settings in plain types, to be shown, kept and compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from transformers import TrainingArguments

# Trainer's options whose defaults are a command's or a machine's own.
_OWN_DEFAULTS = {"bf16", "eval_strategy"}


def resolved(arguments: Sequence[Any]) -> dict[str, Any]:
    """What a recipe would say: our options in full, ``Trainer``'s where they aren't its defaults.

    Args:
        arguments: dataclass instances.
    """
    values = {}
    for instance in arguments:
        inherited = instance if isinstance(instance, TrainingArguments) else None
        # Constructed, since TrainingArguments changes some of its own defaults on the way.
        reference = type(inherited)(output_dir="") if inherited else None
        ours = _OWN_DEFAULTS | own_fields(type(instance))
        for field in dataclasses.fields(instance):
            value = getattr(instance, field.name)
            if not field.init or (field.name not in ours and value == getattr(reference, field.name)):
                continue
            if isinstance(value, Enum):
                value = value.value
            if value is None or isinstance(value, str | int | float | bool | list | dict):
                values[field.name] = value
    return values


def first_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two sets of settings differ, "key: value there, value now and 2 more"; None if they don't."""
    differ = [key for key in there.keys() | now.keys() if there.get(key) != now.get(key)]
    differ.sort(key=lambda key: (key.endswith("sha256"), key))  # a digest tells a reader least
    if not differ:
        return None
    more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
    return f"{differ[0]}: {there.get(differ[0])} there, {now.get(differ[0])} now{more}"


def own_fields(cls: type) -> set[str]:
    """Names of the fields that classes of ours declare, not ``TrainingArguments``."""
    return {name for base in cls.__mro__ if base.__module__.startswith("tutorkd.") for name in base.__annotations__}
