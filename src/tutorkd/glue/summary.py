"""What came of it: medians over seeds, averages, what is kept of the teacher, published rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from transformers import AutoConfig

from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.glue import published
from tutorkd.glue.metrics import single_answer
from tutorkd.glue.runs import Unit
from tutorkd.glue.tasks import TASKS, USUAL
from tutorkd.seeds import over_seeds

_NOTHING = 0.01  # a share of less isn't worth a ratio


def summarise(units: Sequence[Unit], teacher: Checkpoint | None, failed: Mapping[str, str]) -> dict[str, Any]:
    """What ``results.json`` says.

    Args:
        units: of all models.
        failed: names of units whose process failed to its error.

    Returns:
        ``models``, each with its ``tasks`` (by name: the chosen setting, ``figures`` over its seeds and the best of all
        runs, what failed), its ``averages`` and, beside a teacher, what is ``kept`` of it; ``single_answer``: the best
        figures that one answer to every row gets, by task; ``published``: rows of the same sizes in percent, the
        teacher's first.
    """
    models: dict[str, dict[str, Any]] = {}
    constants: dict[str, dict[str, float]] = {}
    titles = [unit.checkpoint.title for unit in {unit.checkpoint.slug: unit for unit in units}.values()]
    for unit in units:
        checkpoint = unit.checkpoint
        model = models.setdefault(checkpoint.slug, _about(checkpoint, titles, teacher))
        model["tasks"][unit.task.name] = _task(unit, failed.get(unit.name))
        if unit.task.name not in constants:
            constants[unit.task.name] = single_answer(unit.task, unit.rows.validation_labels)
    for model in models.values():
        model["tasks"] = {name: model["tasks"][name] for name in TASKS if name in model["tasks"]}
        model["averages"] = averages(model["tasks"])
    reference = models[teacher.slug] if teacher else None
    for model in models.values():
        if reference is not None and model is not reference:
            model["kept"] = _kept(model, reference, constants)
    sizes = dict.fromkeys((model["layers"], model["hidden_size"]) for model in models.values())
    same = [row for size in sizes for row in published.same_size(*size)]
    rows = [published.TEACHER, *(row for row in same if row is not published.TEACHER)]
    return {
        "models": list(models.values()),
        "single_answer": {task: constants[task] for task in TASKS if task in constants},
        "published": {"source": published.SOURCE, "rows": [dataclasses.asdict(row) for row in rows]},
    }


def _about(checkpoint: Checkpoint, titles: Sequence[str], teacher: Checkpoint | None) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(checkpoint.folder)
    return {
        "name": checkpoint.name,
        "title": checkpoint.title if titles.count(checkpoint.title) == 1 else checkpoint.name,
        # Results are shown to others, a path of somebody's machine isn't.
        "weights": {key: value for key, value in checkpoint.identity.items() if key != "source"},
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "is_teacher": teacher is not None and checkpoint.slug == teacher.slug,
        "tasks": {},
    }


def _task(unit: Unit, error: str | None) -> dict[str, Any]:
    finished, selected = unit.finished(), unit.selected()
    everything = [result for runs in finished.values() for _, result in runs]
    figures = {}
    for figure in unit.task.figures if selected else ():
        by_seed = {str(run.settings.seed): result["scores"][figure.name] for run, result in selected}
        best = max(result["scores"][figure.name] for result in everything)
        figures[figure.name] = {
            **over_seeds(list(by_seed.values()))._asdict(),
            "seeds": by_seed,
            "best_of_all_runs": best,
        }
    return {
        "setting": selected[0][0].setting if selected else None,
        "distilled_from": unit.lesson.title if unit.lesson else None,
        "unlabelled_rows": unit.rows_read - len(unit.rows.train),
        "figures": figures,
        "settings": len({run.setting for run in unit.runs}),
        "runs": len(unit.runs),
        "finished_runs": len(everything),
        "failed": {run.name: run.error or error or "not run" for run in unit.runs if run.result is None},
        "train_rows": len(unit.rows.train),
        "validation_rows": {split: len(rows) for split, rows in unit.rows.validation.items()},
        "official_rows": unit.task.official_rows,
        "max_length": unit.settings[0].max_length,
        "train_seconds": sum(result["train_seconds"] for result in everything),
        "parameters": everything[0]["parameters"] if everything else None,
        "device": everything[0]["device"] if everything else None,
        "threads": everything[0]["threads"] if everything else None,
    }


def averages(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Two averages of the medians over the tasks that have any.

    Returns:
        ``paper``: one figure a task, the first of each. ``glue``: GLUE's own, where a task counts with the mean of its
        official figures. Each with its ``value``, its ``tasks``, and whether these are ``all`` eight; WNLI is in none.
    """
    medians = {
        name: [figure["median"] for figure in task["figures"].values()]
        for name, task in tasks.items()
        if name in USUAL and task["figures"]
    }
    if not medians:
        return {}
    about = {"tasks": list(medians), "all": set(medians) == set(USUAL)}
    return {
        "paper": {"value": fmean(values[0] for values in medians.values()), **about},
        "glue": {"value": fmean(fmean(values) for values in medians.values()), **about},
    }


def _kept(
    model: Mapping[str, Any], teacher: Mapping[str, Any], constants: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Medians through the teacher's, by task and figure; the averages' over the tasks that have one of all figures.

    There is none where the teacher is no better than one answer to every row: it has nothing to be kept.
    """
    tasks: dict[str, dict[str, float]] = {}
    both: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, task in model["tasks"].items():
        of_teacher = teacher["tasks"].get(name, {"figures": {}})
        if task["figures"] and of_teacher["figures"]:
            tasks[name] = _ratios(
                {figure: found["median"] for figure, found in task["figures"].items()},
                {
                    figure: found["median"]
                    for figure, found in of_teacher["figures"].items()
                    if found["median"] > constants[name][figure]
                },
            )
            if tasks[name].keys() == task["figures"].keys():
                both[0][name], both[1][name] = task, of_teacher
    mine, of_teacher = ({key: each["value"] for key, each in averages(tasks).items()} for tasks in both)
    return {"tasks": tasks, "averages": _ratios(mine, of_teacher), "averages_over": [n for n in both[0] if n in USUAL]}


def _ratios(mine: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {key: mine[key] / others[key] for key in mine if others.get(key, 0) > _NOTHING}
