"""The YAML of a recipe, read so that nothing in it is taken for something else without a word."""

import re
from typing import Any

import yaml

from tutorkd.errors import UserError
from tutorkd.words import one_line

MOST_VALUES = 10_000
"""Values that a recipe may hold, those behind an alias counted wherever it stands: few lines can stand for billions."""

_TAG = "tag:yaml.org,2002:"
_KINDS = {_TAG + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
# YAML also takes 010 for 8, 1:30 for 90 and 2024_11 for 202411, though each may be meant as a name.
_NUMBERS = {
    _TAG + "int": re.compile(r"-?(0|[1-9][0-9]{0,18}|[1-9][0-9]{0,2}(_[0-9]{3}){1,5})"),
    _TAG + "float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?"),
}


def read_recipe(text: str, name: str) -> dict[str, Any]:
    """Read a mapping whose keys are text and whose values are text, finite numbers, booleans, nulls, lists, mappings.

    Args:
        name: of the recipe, as messages call it.

    Raises:
        UserError: naming the line where there is one, for what isn't such a mapping, for a key that stands twice, and
            for numbers, dates and tags that YAML would turn into something else than what is written.
    """
    try:
        loader = yaml.SafeLoader(text)
        loader.name = name  # of where a mistake is told to be
        root = loader.get_single_node()
        if root is None:
            return {}
        _check(loader, root, name)
        recipe = loader.construct_document(root)
    except RecursionError as error:
        raise UserError(f"the recipe {name} can't be read as YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: "\UFFFFFFFF" is no character
        raise UserError(f"the recipe {name} can't be read as YAML: {one_line(error)}") from error
    if not isinstance(recipe or {}, dict):
        raise UserError(f"the recipe {name} must be a mapping of keys to values")
    return recipe or {}


def _check(loader: yaml.SafeLoader, root: yaml.Node, name: str) -> None:
    """Check every value, in a loop and before any is made: aliases may lead to billions, or in a circle."""
    waiting, seen = [root], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"the recipe {name} holds more than {MOST_VALUES:,} values, those behind aliases included")
        where = f"{name}, line {node.start_mark.line + 1}"
        _check_value(loader, node, where)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, name)
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _check_value(loader: yaml.SafeLoader, node: yaml.Node, where: str) -> None:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    meant = loader.resolve(type(node), node.value if isinstance(node, yaml.ScalarNode) else None, (plain, not plain))
    if node.tag != meant:
        raise UserError(f"{where}: tags such as !{node.tag.removeprefix(_TAG)} aren't read; leave it out")
    if not isinstance(node, yaml.ScalarNode):
        return
    if node.tag not in _KINDS or (node.tag in _NUMBERS and not _NUMBERS[node.tag].fullmatch(node.value)):
        raise UserError(
            f"{where}: YAML reads {node.value} neither as text nor as a plain number; put text in quotes, and write a "
            "number in decimal digits"
        )
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
        raise UserError(f"{where}: text can't hold the null character or only half of a character")


def _check_keys(node: yaml.MappingNode, name: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            written = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise UserError(f"{name}, line {line}: unknown key {written}: a key must be text")
        if key.value in lines:
            raise UserError(
                f"{name}, line {line}: the key {key.value!r} stands in line {lines[key.value]} too; leave one of them"
            )
        lines[key.value] = line
