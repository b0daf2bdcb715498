"""Tables of the scores, as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tutorkd.glue import published
from tutorkd.glue.metrics import METRIC_NAMES
from tutorkd.glue.runs import Unit
from tutorkd.glue.tasks import TASKS, USUAL, Task
from tutorkd.seeds import over_seeds
from tutorkd.tables import aligned, escaped
from tutorkd.words import by_error, duration

SINGLE_ANSWER = "no model: the same answer to every row"
_HOW = (
    "Each setting and seed is a fine-tuning of its own, measured at its end on the validation rows. The setting shown "
    "has the best mean over seeds of the task's first metric; median, lowest and highest are over the seeds of that "
    "setting. A model that isn't better than giving every row the same answer has learned nothing; if that is the "
    "teacher, the share that others keep of it isn't given."
)


def markdown(summary: Mapping[str, Any]) -> str:
    """The table with one figure a task beside the published rows, then each model's tasks in full."""
    parts = [_beside_published(summary), *(_model(model) for model in summary["models"])]
    return "\n\n".join([*parts, _HOW]) + "\n"


def _beside_published(summary: Mapping[str, Any]) -> str:
    models = summary["models"]
    columns = [name for name in published.COLUMNS if any(selected_spread(model, name) for model in models)]
    if not columns:
        return "No task of the paper's table was finished."
    rows: list[tuple[str, str, Mapping[str, float]]] = []
    for model in models:
        for key, words in (("median", "median over seeds"), ("best_of_all_runs", "best of all runs")):
            found = {name: 100 * spread[key] for name in columns if (spread := selected_spread(model, name))}
            teacher = ", teacher" if model["is_teacher"] else ""
            rows.append((f"{model['title']}{teacher}: {words}", _size(model), found))
    constant = {name: 100 * summary["single_answer"][name][TASKS[name].selected.name] for name in columns}
    rows.append((SINGLE_ANSWER, "-", constant))
    rows += [(f"{row['model']}: published", _size(row), row["scores"]) for row in summary["published"]["rows"]]
    shared = [name for name in columns if all(name in scores for _, _, scores in rows)]
    lines = []
    for title, size, scores in rows:
        mean = f"{fmean(scores[name] for name in shared):.1f}" if shared else "-"
        lines.append([title, size, *(f"{scores[name]:.1f}" if name in scores else "-" for name in columns), mean])
    heading = [TASKS[name].title for name in columns]
    notes = [f"In percent, {published.TITLE}."]
    if shared:
        over = f"all {len(USUAL)} tasks" if set(shared) == set(USUAL) else _titles(shared)
        where = "" if len(shared) == len(columns) else ", which all rows have"
        notes.append(f"The mean is over {over}{where}; the paper's printed averages differ from it by up to a point.")
    notes.append(
        f"Published: {summary['published']['source']}, on the full training sets, the best validation score of each "
        "task. Compare them with the best of all runs here; a median says what a single fine-tuning gives."
    )
    tasks = [task for model in models for task in model["tasks"].values()]
    if any(rows_used(task) or rows_judged(task) for task in tasks):
        notes.append("The runs here used only part of the official rows, so don't compare them with these.")
    unmatched = [model for model in models if not published.same_size(model["layers"], model["hidden_size"])]
    if unmatched:
        sizes = " or ".join(dict.fromkeys(map(_size, unmatched)))
        notes.append(f"The paper has no model of {sizes} (layers x hidden).")
    table = aligned(["model", "layers x hidden", *heading, f"mean of {len(shared)}"], lines, words=1)
    return f"## Beside the published rows\n\n{table}\n\n{_listed(notes)}"


def _model(model: Mapping[str, Any]) -> str:
    kept = model.get("kept", {"tasks": {}, "averages": {}})
    headings = ["task", "metric", "median", "lowest to highest", "seeds", "best of all runs"]
    headings += ["kept of teacher %"] * ("kept" in model) + ["setting"]
    lines = []
    for name, task in model["tasks"].items():
        for figure in TASKS[name].figures if task["figures"] else ():
            found = task["figures"][figure.name]
            words = [TASKS[name].title, figure_title(TASKS[name], figure.name), _percent(found["median"])]
            words.append(f"{_percent(found['min'])} to {_percent(found['max'])}" if found["n"] > 1 else "-")
            words += [str(found["n"]), _percent(found["best_of_all_runs"])]
            if "kept" in model:
                ratio = kept["tasks"].get(name, {}).get(figure.name)
                words.append(_percent(ratio) if ratio is not None else "-")
            lines.append([*words, task["setting"]])
    teacher = ", the teacher" if model["is_teacher"] else ""
    parts = [f"## {escaped(model['title'])}{teacher}"]
    notes = []
    if lines:
        parts.append(aligned(headings, lines, words=2, last_word=True))
        notes = _averages(model) + _notes(model)
    notes += [
        f"{TASKS[name].title}, failed runs: {len(failed)} of {task['runs']}: {escaped(_errors(failed))}."
        for name, task in model["tasks"].items()
        if (failed := task["failed"])
    ]
    return "\n\n".join([*parts, _listed(notes)])


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _averages(model: Mapping[str, Any]) -> list[str]:
    if not model["averages"]:
        return ["There is no average, because WNLI counts in none."]
    ways = {
        "paper": ("the paper's average", "over the first figure of each task above"),
        "glue": ("GLUE's own average", "over the mean of each task's official figures"),
    }
    lines = []
    for key, (title, way) in ways.items():
        average = model["averages"][key]
        if average["all"]:
            words = f"{title} over all {len(USUAL)} tasks ({way})"
        else:
            tasks = average["tasks"]
            words = f"Mean of {_titles(tasks)} alone, {len(tasks)} of {len(USUAL)} tasks, as in {title} ({way})"
        line = f"{words}: {_percent(average['value'])}"
        ratio = model.get("kept", {"averages": {}})["averages"].get(key)
        if ratio is not None:
            others = model["kept"]["averages_over"]
            where = "" if others == average["tasks"] else f" over {_titles(others)}"
            line += f", {_percent(ratio)} % of the teacher's{where}"
        lines.append(f"{line[0].upper()}{line[1:]}.")
    return lines


def _on_more(rows: int) -> str:
    return f", also on {rows:,} rows without labels" if rows else ""


def _notes(model: Mapping[str, Any]) -> list[str]:
    tasks = {TASKS[name]: task for name, task in model["tasks"].items() if task["figures"]}
    notes = [
        f"Learned from the labels and the answers of {escaped(title)}{_on_more(more)}."
        for title, more in dict.fromkeys(
            (found.get("distilled_from"), found.get("unlabelled_rows", 0)) for found in tasks.values()
        )
        if title
    ]
    for words, part in (("Training rows used", rows_used), ("Validation rows measured on", rows_judged)):
        parts = [f"{task.title} {told}" for task, found in tasks.items() if (told := part(found))]
        if parts:
            notes.append(f"{words}: {', '.join(parts)}.")
    cut = [
        f"{task.title} at {found['max_length']}"
        for task, found in tasks.items()
        if found["max_length"] < task.max_length
    ]
    if cut:
        notes.append(f"Rows cut earlier than usual, in tokens: {', '.join(cut)}.")
    seconds, runs = (sum(found[key] for found in tasks.values()) for key in ("train_seconds", "finished_runs"))
    where = {f"{found['device']}, threads: {found['threads']}": None for found in tasks.values()}
    notes.append(f"Fine-tunings: {runs}, with {duration(seconds)} of training in all, on {' and '.join(where)}.")
    return notes


def rows_used(task: Mapping[str, Any]) -> str | None:
    """``1,000 of 2,490`` training rows, where they aren't all that there are officially."""
    return part_of(task["train_rows"], task["official_rows"]["train"])


def part_of(used: int, official: int) -> str | None:
    """``1,000 of 2,490``; None where no row is left out."""
    return f"{used:,} of {official:,}" if used < official else None


def rows_judged(task: Mapping[str, Any]) -> str | None:
    """The same of the validation rows."""
    used = sum(task["validation_rows"].values())
    official = sum(task["official_rows"][split] for split in task["validation_rows"])
    return f"{used:,} of {official:,}" if used != official else None


def unit_line(unit: Unit) -> str:
    """What is said of a model on a task once its process has ended: its selected figure over seeds."""
    selected, task = unit.selected(), unit.task
    if not selected:
        return ""
    figure = task.selected.name
    found = over_seeds([result["scores"][figure] for _, result in selected])
    seeds = f", {_percent(found.min)} to {_percent(found.max)}, {found.n} seeds" if found.n > 1 else ", one seed"
    return f": {figure_title(task, figure)} {_percent(found.median)}{seeds}"


def figure_title(task: Task, name: str) -> str:
    """``accuracy, matched`` for ``accuracy_matched``."""
    figure = next(figure for figure in task.figures if figure.name == name)
    suffix = figure.name.removeprefix(figure.metric).replace("_", ", ")
    return METRIC_NAMES[figure.metric] + suffix


def selected_spread(model: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A task's first figure over a model's seeds; None where no run was finished."""
    return model["tasks"].get(name, {"figures": {}})["figures"].get(TASKS[name].selected.name)


def _size(row: Mapping[str, Any]) -> str:
    return f"{row['layers'] or '?'} x {row['hidden_size'] or '?'}"


def _titles(names: Sequence[str]) -> str:
    titles = [TASKS[name].title for name in names]
    return " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _errors(failed: Mapping[str, str]) -> str:
    """Each error once, with its runs."""
    return "; ".join(
        f"{error} ({those[0]}{f' and {len(those) - 1} more' * (len(those) > 1)})"
        for error, those in by_error(failed).items()
    )
