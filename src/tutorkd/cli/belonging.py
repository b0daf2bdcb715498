"""Which command a recipe was made for."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutorkd.cli.demo import STAGES
from tutorkd.comparison.matrix import SECTIONS
from tutorkd.errors import UnknownKey
from tutorkd.evaluation import arguments as evaluation
from tutorkd.glue import arguments as glue
from tutorkd.methods import METHODS
from tutorkd.pretraining import adaptation, distillation


def told(error: UnknownKey, command: str) -> str:
    """What is said of a recipe with a key that its command doesn't know.

    That is the error's own message, unless another command knows all keys: then the line that runs the recipe.
    """
    for other, keys in _keys(error.recipe).items():
        if other != command and set(error.recipe) <= set(keys):
            run = {"compare": f"compare {error.name}", "glue": f"glue MODEL --config {error.name}"}.get(
                other, f"{other} --config {error.name}"
            )
            return f"the recipe {error.name} is for tutorkd {other}, not for {command}; run it with: tutorkd {run}"
    return str(error)


def _keys(recipe: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """What the recipes of each command may say."""
    method = str(recipe.get("method"))
    return {
        "distill": distillation.parser(method if method in METHODS else "tutor-kd").keys,
        "adapt": adaptation.parser().keys,
        "evaluate": evaluation.parser().keys,
        "glue": glue.parser().keys,
        "compare": SECTIONS,
        "demo": STAGES,
    }
