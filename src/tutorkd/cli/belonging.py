"""Which command a recipe was made for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tutorkd.cli.demo_arguments import STAGES
from tutorkd.comparison.arguments import SECTIONS
from tutorkd.errors import UnknownKey
from tutorkd.evaluation import arguments as evaluation
from tutorkd.evaluation import task_arguments
from tutorkd.glue import arguments as glue
from tutorkd.pretraining import adapt_arguments, distill_arguments


def told(error: UnknownKey, command: str) -> str:
    """What is said of a recipe with a key that its command doesn't know.

    That is the error's own message, unless another command knows more of its keys than this one, and most of them:
    then the line that runs the recipe.
    """
    known = [(len(error.recipe.keys() & {*keys}), other) for other, keys in _keys(error.recipe)]
    own = max((number for number, other in known if other == command), default=0)
    most, other = max(known, key=lambda each: each[0])
    if most > max(own, len(error.recipe) // 2):
        run = {"compare": f"compare {error.name}", "glue": f"glue MODEL --config {error.name}"}.get(
            other, f"{other} --config {error.name}"
        )
        return f"the recipe {error.name} is for tutorkd {other}, not for {command}; run it with: tutorkd {run}"
    return str(error)


def _keys(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each command, and what a recipe for it may say; one that distils any kind of models."""
    for parser in distill_arguments.parsers(str(recipe.get("method"))):
        yield "distill", parser.recipe_keys
    yield "adapt", adapt_arguments.parser().keys
    yield "evaluate", evaluation.parser().keys
    yield "glue", glue.parser().keys
    yield "distill-task", task_arguments.parser().recipe_keys
    yield "compare", SECTIONS
    yield "demo", STAGES
