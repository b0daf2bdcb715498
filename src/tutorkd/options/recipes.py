"""Recipes: those that come with the package, in a folder for each command, and the user's own."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tutorkd.errors import UnknownKey, UserError, nearest
from tutorkd.options.recipe_file import read_recipe
from tutorkd.words import one_line

FIRST_STAGE_SECTION = "first_stage"  # of a recipe: what is otherwise in a run that its own goes on from
_RECIPES = resources.files("tutorkd") / "recipes"


def recipe_names(command: str | None = None) -> list[str]:
    """Recipes that come with the package, all or one command's."""
    return sorted(_packaged(command))


def recipe_file(name: str, command: str | None = None) -> Traversable:
    """The file of a recipe that comes with the package.

    Args:
        command: whose recipes are named where there is none of this name; by default all.

    Raises:
        UserError: if there is none of this name, with the nearest.
    """
    files = _packaged()
    if name not in files:
        ways = ["a path", *recipe_names(command)]
        give = f"{ways[0]} or one of {', '.join(ways[1:])}" if ways[1:] else ways[0]
        raise UserError(f"there is no recipe {name}{nearest(name, sorted(files), then=f'give {give}')}")
    return files[name]


def load_recipe(name: str, command: str | None = None) -> dict[str, Any]:
    """A recipe by path or by the name of one that comes with the package, whichever command that is for.

    Args:
        command: for which it is wanted, which messages are about.

    Raises:
        UserError: if there is none, or it can't be read, as ``read_recipe`` says.
    """
    file = Path(name) if Path(name).is_file() else recipe_file(name, command)
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"the recipe {name} can't be read as YAML: {one_line(error)}") from error
    return read_recipe(text, name)


def check_keys(
    recipe: Mapping[str, Any], known: Sequence[str], name: str, elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse a recipe with a key that its command doesn't know.

    Args:
        name: of the recipe, as the user gave it.
        elsewhere: keys that the command has with other options, and what has them.

    Raises:
        UnknownKey: for the first such key, with what has it or the nearest valid one.
    """
    for key in recipe:
        if key not in known:
            unknown = f"unknown key {key!r}{nearest(str(key), known)}"
            told = f"{key} is an option of {elsewhere[key]}" if key in elsewhere else unknown
            raise UnknownKey(f"{name}: {told}", name, recipe)


def _packaged(command: str | None = None) -> dict[str, Traversable]:
    """Names and files. The folder of a command isn't part of the name; one below is, as in ``ablations/rewards``."""
    folders = [folder for folder in _RECIPES.iterdir() if folder.is_dir() and command in (None, folder.name)]
    return {name: file for folder in folders for name, file in _below(folder)}


def _below(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry
