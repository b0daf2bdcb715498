"""Scores in a model card, in the form that the Hub shows: ``model-index``."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard import metadata_load, metadata_save
from huggingface_hub.repocard_data import eval_results_to_model_index

from tutorkd.errors import UserError
from tutorkd.files import replacing
from tutorkd.glue.report import figure_title, rows_judged, rows_used
from tutorkd.glue.tasks import HUB_NAME, TASKS
from tutorkd.words import one_line

_METRIC_TYPES = {
    "matthews": "matthews_correlation",
    "f1": "f1",
    "accuracy": "accuracy",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
_KEY = "model-index"


def write_scores(folder: Path, model: Mapping[str, Any]) -> Path:
    """Put the medians of a model into the head of its README.md, which is made where there is none.

    Results of other tasks and data that stand there stay, and so does every other key and all text.

    Args:
        model: one of the ``models`` that ``summarise`` gives, of a local folder.

    Raises:
        UserError: if the card can't be read or written; it is as it was.
    """
    card = folder / "README.md"
    try:
        with replacing(card) as partial:
            if card.exists():
                shutil.copyfile(card, partial)
            data = (metadata_load(partial) if card.exists() else None) or {}
            data[_KEY] = _merged(data.get(_KEY), results(model), folder.name)
            metadata_save(partial, data)
            if card.exists():
                shutil.copymode(card, partial)
    except OSError as error:
        raise UserError(f"the card {card} can't be written: {error.strerror}") from error
    except Exception as error:  # YAML's errors and the Hub client's share no base class
        raise UserError(f"the head of the card {card} can't be read: {one_line(error)}") from error
    return card


def results(model: Mapping[str, Any]) -> list[EvalResult]:
    """A result for each figure: the median over seeds, and in words of how many, and of which rows."""
    found = []
    for name, task in model["tasks"].items():
        for figure in TASKS[name].figures if task["figures"] else ():
            spread = task["figures"][figure.name]
            words = f"{figure_title(TASKS[name], figure.name)}, median of {spread['n']} seeds"
            if spread["n"] == 1:
                words = f"{figure_title(TASKS[name], figure.name)}, one seed"
            if title := task.get("distilled_from"):
                words += f", learned from the answers of {title} too"
            if part := rows_used(task):
                words += f", fine-tuned on {part} rows"
            if part := rows_judged(task):
                words += f", measured on {part} rows"
            found.append(
                EvalResult(
                    task_type="text-classification",
                    task_name="Text Classification",
                    dataset_type=HUB_NAME,
                    dataset_name=f"GLUE {TASKS[name].title}",
                    dataset_config=name,
                    dataset_split=figure.split,
                    metric_type=_METRIC_TYPES[figure.metric],
                    metric_value=round(spread["median"], 4),
                    metric_name=words,
                )
            )
    return found


def _merged(before: Any, new: list[EvalResult], name: str) -> list[dict[str, Any]]:
    """The index with new results; those before them of the same task and rows are replaced."""
    (made,) = eval_results_to_model_index(name, new)
    if not before:
        return [made]
    first, *others = before
    replaced = {_about(result) for result in made["results"]}
    kept = [result for result in first.get("results") or [] if _about(result) not in replaced]
    return [{**first, "results": kept + made["results"]}, *others]


def _about(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which rows a result is about."""
    data = result.get("dataset", {})
    return result.get("task", {}).get("type"), data.get("type"), data.get("config"), data.get("split")
