"""Which command a recipe was made for."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutorkd.errors import UserError
from tutorkd.methods import METHODS


def check_belongs(recipe: Mapping[str, Any], name: str, command: str, known: Sequence[str]) -> None:
    """Refuse a recipe that another command understands and this one doesn't.

    Args:
        name: of the recipe, as the user gave it.
        command: that reads it.
        known: keys that it knows.

    Raises:
        UserError: with the command line that runs the recipe.
    """
    if set(recipe) <= set(known):
        return
    for other, keys in _keys(recipe).items():
        if other != command and set(recipe) <= set(keys):
            run = {"compare": f"compare {name}", "glue": f"glue MODEL --config {name}"}.get(
                other, f"{other} --config {name}"
            )
            raise UserError(f"the recipe {name} is for tutorkd {other}, not for {command}; run it with: tutorkd {run}")


def _keys(recipe: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """What the recipes of each command may say."""
    from tutorkd.cli import adapt, demo, distill, evaluate, glue  # which import this
    from tutorkd.comparison.matrix import SECTIONS

    method = str(recipe.get("method"))
    return {
        "distill": distill.parser(method if method in METHODS else "tutor-kd").keys,
        "adapt": adapt.parser().keys,
        "evaluate": evaluate.parser().keys,
        "glue": glue.parser().keys,
        "compare": SECTIONS,
        "demo": list(demo.COMMANDS),
    }
