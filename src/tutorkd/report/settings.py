"""The settings of a run beside the defaults of its command, and the line that runs it again."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tutorkd.options.parser import OptionParser
from tutorkd.report.section import Part, Setting, table
from tutorkd.runtime import prefers_bfloat16

_FOLDER = "output_dir"
_HEADINGS = ("setting", "value", "default")


def beside_defaults(settings: Mapping[str, Any], parser: OptionParser) -> tuple[list[Setting], list[Setting]]:
    """The options among ``settings`` that aren't at their defaults here, and those that are."""
    changed: list[Setting] = []
    kept: list[Setting] = []
    for key in parser.keys:
        if key in settings and key != _FOLDER:
            default = _default(parser, key)
            setting = Setting(key, words(settings[key]), words(default))
            (kept if settings[key] == default else changed).append(setting)
    return changed, kept


def parts(settings: Mapping[str, Any], parser: OptionParser) -> list[Part]:
    """Changed settings, then, folded, those at their defaults and what else is noted of what the run was made from."""
    changed, kept = beside_defaults(settings, parser)
    known = set(parser.keys)
    noted = [(key, words(value)) for key, value in settings.items() if key not in known]
    return [
        Part(
            "Settings that aren't the defaults",
            headings=_HEADINGS,
            rows=changed,
            note="" if changed else "All settings are the defaults.",
        ),
        *table(f"Settings at their defaults ({len(kept)})", _HEADINGS[:2], [each[:2] for each in kept], folded=True),
        *table("What it was made from", ("noted", "value"), noted, folded=True),
    ]


def words(value: Any) -> str:
    """A setting to be read."""
    if value is None or value in ("", []):
        return "not set"
    return ", ".join(map(_flag, value)) if isinstance(value, list) else _flag(value)


def command(start: Sequence[str], settings: Mapping[str, Any], parser: OptionParser) -> str:
    """A line for the shell: ``start``, then a flag for each setting that `changed` gives."""
    flags: list[str] = []
    for key, value in changed(settings, parser).items():
        flags += [f"--{key}", *map(_flag, value if isinstance(value, list) else [value])]
    return shlex.join([*start, *flags])


def changed(settings: Mapping[str, Any], parser: OptionParser) -> dict[str, Any]:
    """The options among ``settings`` that have a value which isn't their default everywhere: that of bf16 hangs on the
    machine, and a run is to be repeated on others too.
    """
    return {
        key: value
        for key, value in settings.items()
        if key in parser.keys and value is not None and (key == "bf16" or value != _default(parser, key))
    }


def _default(parser: OptionParser, key: str) -> Any:
    """A default here: of bf16, where it isn't set, what this machine does then, as folders note it."""
    default = parser.get_default(key)
    return prefers_bfloat16() if key == "bf16" and default is None else default


def again(command: str, note: str = "") -> Part:
    """The part that says how to repeat a run."""
    where = "Paths that don't begin with / are read from the folder in which it was run."
    return Part("Run it again", command=command, note=f"{note} {where}".lstrip())


def _flag(value: Any) -> str:
    """A value as one gives it to a flag; of a model that was noted with its revision or size, its name."""
    if isinstance(value, Mapping) and "source" in value:
        return str(value["source"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def facts(found: Iterable[tuple[str, Any]]) -> list[list[str]]:
    """Rows of a table of names and what they are; those that aren't known are left out."""
    return [[name, str(value)] for name, value in found if value is not None]
