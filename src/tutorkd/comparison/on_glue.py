"""Students judged by GLUE: fine-tuned as ``tutorkd glue`` does it, each fine-tuning a result on disk."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, cast

from transformers import PreTrainedModel

from tutorkd.comparison.measures import COSTS, Column, Measures, Options, Score, Section, training_caption
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.glue import arguments
from tutorkd.glue.arguments import GlueArguments
from tutorkd.glue.data import check_there
from tutorkd.glue.metrics import single_answer
from tutorkd.glue.plan import seconds_to_go
from tutorkd.glue.report import figure_title
from tutorkd.glue.runs import Unit, run_unit, units_of
from tutorkd.glue.tasks import TASKS

# Of tutorkd glue those that a result depends on; fewer seeds for some tasks would leave no mean over tasks for each.
GLUE = Section(
    noun="encoders on GLUE",
    parser=arguments.student_parser,
    keys=(
        *("tasks", "data_dir", "learning_rates", "batch_sizes", "epochs", "seeds", "warmup_ratio"),
        *("max_length", "max_train_samples", "bf16"),
    ),
    data={("tasks",): "no tasks: name some of GLUE's under evaluate"},
)
MEAN, ERROR = "mean", "mean_error"
SCORE = Score(MEAN, "mean over GLUE's tasks, %", 100, standard_error=ERROR)


def glue_measures(args: GlueArguments) -> Measures:
    """How encoders are measured on these tasks: by each task's first figure, and by their mean.

    Fine-tuning seeds are part of a measurement: a figure of a cell is its mean over them. Where there is a grid, the
    setting with the best mean counts, for each student and task by itself.
    """

    def by_seed(evaluation: Mapping[str, Any]) -> dict[str, list[float]]:
        scores = {name: _of_task(evaluation, name, args.seeds) for name in args.tasks}
        return {**scores, MEAN: [fmean(each) for each in zip(*scores.values(), strict=True)]}

    def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
        repeated = by_seed(evaluation)
        found = {name: fmean(values) for name, values in repeated.items()}
        if len(args.seeds) > 1:
            found[ERROR] = stdev(repeated[MEAN]) / math.sqrt(len(args.seeds))
        return {**found, "parameters": evaluation["parameters"]}

    per_task = {
        "scores": {
            name: {figure.name: {str(seed): float for seed in args.seeds} for figure in TASKS[name].figures}
            for name in args.tasks
        },
        "setting": dict.fromkeys(args.tasks, str),
        "train_rows": dict.fromkeys(args.tasks, int),
        "validation_rows": dict.fromkeys(args.tasks, int),
        "single_answer": dict.fromkeys(args.tasks, float),
    }
    return Measures(
        section=GLUE,
        types={**per_task, "failed_runs": int, "parameters": int, "device": str, "threads": int},
        with_head=False,
        score=SCORE,
        figures=figures,
        columns=(
            *(Column(TASKS[name].title, name, _with_error) for name in args.tasks),
            Column(f"mean of {len(args.tasks)}", MEAN, _with_error),
            Column("training seeds, sd", MEAN, _part("training_sd")),
            Column("fine-tuning seeds, sd", MEAN, _part("fine_tuning_sd")),
            *COSTS,
        ),
        caption=lambda finished: _caption(args, finished),
        check=_check,
        evaluate=_fine_tuned,
        seconds=_seconds,
        repeated=by_seed,
    )


def _of_task(evaluation: Mapping[str, Any], name: str, seeds: Sequence[int]) -> list[float]:
    return [evaluation["scores"][name][TASKS[name].selected.name][str(seed)] for seed in seeds]


def _with_error(found: Mapping[str, Any]) -> str:
    return " ± ".join(f"{100 * each:.1f}" for each in (found["mean"], found["standard_error"]) if each is not None)


def _part(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda found: "-" if found[name] is None else f"{100 * found[name]:.1f}"


def _caption(args: GlueArguments, finished: Sequence[Mapping[str, Any]]) -> str:
    evaluation = finished[0]["evaluation"]
    rows = [
        f"{TASKS[name].title} ({figure_title(TASKS[name], TASKS[name].selected.name)}, "
        f"{evaluation['train_rows'][name]:,} training rows, {evaluation['validation_rows'][name]:,} to measure on)"
        for name in args.tasks
    ]
    constant = ", ".join(f"{TASKS[name].title} {100 * evaluation['single_answer'][name]:.1f}" for name in args.tasks)
    grid = len(args.learning_rates) * len(args.batch_sizes) * len(args.epochs)
    chosen = f" The best of {grid} settings counts, which makes all scores a little too high." if grid > 1 else ""
    lost = sum(cell["evaluation"]["failed_runs"] for cell in finished)
    failed = f" Fine-tunings of other settings that failed: {lost}." if lost else ""
    return (
        f"In percent: {', '.join(rows)}. The same answer to every row, without any model, gets {constant}. Each score "
        f"is a mean over training seeds and {len(args.seeds)} fine-tuning "
        f"seed{'s' * (len(args.seeds) > 1)} ± its standard error: the standard deviation of the k students' means, "
        "divided by √k, so that n fine-tunings of one student don't count as n students. The teacher and a student "
        "without distillation are one model each; for them it is the standard deviation of the n fine-tunings, divided "
        "by √n. Two columns split the spread of the mean over tasks: fine-tuning seeds, the standard deviation within "
        "a student; training seeds, what remains between students when the n-th part of that variance is subtracted."
        f"{chosen}{failed} Parameters are those of {TASKS[args.tasks[0]].title}'s classifier. "
        f"{training_caption(finished)}"
    )


def _units(model: str, args: GlueArguments) -> list[Unit]:
    return units_of([find_checkpoint(model)], args.tasks, args)


def _check(options: Options) -> None:
    (args,) = options
    check_there(args.tasks, args.data_dir, predict=False)
    _units(args.teacher, args)  # whose tokenizer and positions are the students'


def _fine_tuned(model: str, options: Options) -> dict[str, Any]:
    """Goes on where an earlier call stopped.

    Raises:
        UserError: if on one of the tasks no setting has all its seeds.
    """
    (args,) = options
    units = _units(model, args)
    failed = {unit.task.title: run_unit(unit) for unit in units}
    chosen = {unit.task.name: unit.selected() for unit in units}
    for unit in units:
        if len(chosen[unit.task.name]) < len(args.seeds):
            errors = failed[unit.task.title]
            name, error = next(iter(errors.items()))
            raise UserError(
                f"{unit.task.title}: {len(errors)} of {len(unit.runs)} fine-tunings failed, the first ({name}): {error}"
            )
    _, first = chosen[args.tasks[0]][0]
    return {
        "scores": {
            name: {
                figure.name: {str(run.settings.seed): result["scores"][figure.name] for run, result in runs}
                for figure in TASKS[name].figures
            }
            for name, runs in chosen.items()
        },
        "setting": {name: runs[0][0].setting for name, runs in chosen.items()},
        "train_rows": {unit.task.name: len(unit.rows.train) for unit in units},
        "validation_rows": {unit.task.name: sum(map(len, unit.rows.validation.values())) for unit in units},
        "single_answer": {
            unit.task.name: single_answer(unit.task, unit.rows.validation_labels)[unit.task.selected.name]
            for unit in units
        },
        "failed_runs": sum(map(len, failed.values())),
        **{key: first[key] for key in ("parameters", "device", "threads")},
    }


def _seconds(model: PreTrainedModel, teacher: PreTrainedModel | None, options: Options) -> float:
    (args,) = options
    body = cast(PreTrainedModel, model.base_model)
    return sum(seconds_to_go(unit, body) for unit in _units(args.teacher, args))
