"""What ``tutorkd glue`` does: which models are left to be fine-tuned on which tasks, and the results of all."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, find_checkpoint
from tutorkd.evaluation.labelled import load_unlabelled
from tutorkd.evaluation.soft_target_arguments import TaskDistillationArguments
from tutorkd.evaluation.task_teacher import TaskTeacher
from tutorkd.files import write_results, writing
from tutorkd.glue.arguments import GlueArguments
from tutorkd.glue.card import write_scores
from tutorkd.glue.data import check_there, load_tests
from tutorkd.glue.leaderboard import answered, lacking, predict_tests, write_zip
from tutorkd.glue.plan import plan
from tutorkd.glue.report import markdown, unit_line
from tutorkd.glue.runs import RUNS_FOLDER, Lesson, Unit, result_files, run_unit, units_of
from tutorkd.glue.summary import summarise
from tutorkd.glue.tasks import TASKS
from tutorkd.locks import contents, empty, held
from tutorkd.processes import Stopped, run_processes
from tutorkd.runtime import describe
from tutorkd.tables import fitted, show


def glue(models: Sequence[str], flags: Sequence[str], args: GlueArguments, soft: TaskDistillationArguments) -> int:
    """Run models on tasks, print the plan, or run one of them, as the options say; returns the exit code.

    Args:
        models: paths or Hub names, which the units' processes get again, with the flags.

    Raises:
        UserError: if models, data or the output folder can't be used.
    """
    if soft.unlabelled is not None and len(args.tasks) > 1:
        raise UserError(
            f"--unlabelled is text for one task, but there are {len(args.tasks)}: name one, such as --tasks "
            f"{args.tasks[0]}"
        )
    check_there(args.tasks, args.data_dir, args.predict)
    checkpoints, teacher = _checkpoints(models, args.teacher)
    tasks = [name for name in args.tasks if args.unit is None or args.unit.endswith(f"/{name}")]
    units = [
        unit
        for _, of_task in groupby(units_of(checkpoints, tasks, args), key=lambda unit: unit.task.name)
        for unit in _taught(list(of_task), teacher, soft)
    ]
    if args.unit is not None:
        return _run_one(units, args)
    _check_output(Path(args.output_dir))
    if args.predict and (absent := lacking(tasks)):
        print(f"the leaderboard wants one zip of all tasks, but {', '.join(absent)} will be missing: see --tasks")
    if args.dry_run:
        table, totals = plan(units)
        show(table)
        print(totals)
        return 0
    with held(Path(args.output_dir)):
        return _run_all(units, _left(units, args), teacher, models, flags, args, soft)


def _run_all(
    units: Sequence[Unit],
    left: Sequence[Unit],
    teacher: Checkpoint | None,
    models: Sequence[str],
    flags: Sequence[str],
    args: GlueArguments,
    soft: TaskDistillationArguments,
) -> int:
    """Run those units that are left to do, and write the results of all; returns the exit code: 1 if a run failed.

    Raises:
        Interrupted: after a signal, once the results of the runs that are finished are written.
    """
    runs = [run for unit in units for run in unit.runs]
    finished = sum(run.result is not None for run in runs)
    print(f"runs     {len(runs)}, of which {finished} are finished; models x tasks to do: {len(left)}", flush=True)

    def command(unit: Unit) -> list[str]:
        own = ["--unit", unit.name, "--restart", "false"]
        return [sys.executable, "-m", "tutorkd.cli.main", "glue", *models, *flags, *own]

    failed: dict[str, str] = {}
    stopped = None
    try:
        for some in ([unit for unit in left if unit.keeps], [unit for unit in left if not unit.keeps]):
            if some:  # those that others learn from come first
                failed |= run_processes(some, command, args.jobs, unit_line)
    except Stopped as stop:
        if all(run.result is None for run in runs):
            raise
        stopped = stop
        failed |= stop.failed
    settings = asdict(args) | (asdict(soft) if soft.distill_from is not None else {})
    summary = {"settings": settings, "machine": describe(), **summarise(units, teacher, failed)}
    out = Path(args.output_dir)
    write_results(out, summary, tables := markdown(summary))
    print(f"\n{fitted(tables)}\nwritten to {out}: results.json, results.md{_plot(summary, out)}")
    if stopped:
        raise stopped
    finished = sum(run.result is not None for run in runs)
    if others := len(result_files(out)) - finished:
        print(
            f"not in these results: {others} other finished runs in {out}; to have them in one table, name all models, "
            "tasks and settings in one command (nothing is run twice)"
        )
    by_model: dict[str, list[Unit]] = {}
    for unit in units:
        by_model.setdefault(unit.checkpoint.slug, []).append(unit)
    for of_model, model in zip(by_model.values(), summary["models"], strict=True):
        if args.predict:
            path = out / "submissions" / f"{of_model[0].checkpoint.slug}.zip"
            print(f"written to {path}: {', '.join(write_zip(of_model, path)) or 'nothing'}")
        if args.write_card and of_model[0].checkpoint.name in models:  # not a teacher that is there to compare with
            _write_card(of_model[0].checkpoint, model)
    return 1 if failed or finished < len(runs) else 0


def _checkpoints(models: Sequence[str], teacher: str | None) -> tuple[list[Checkpoint], Checkpoint | None]:
    """Each model once, and the teacher, last where it isn't one of them."""
    found = {checkpoint.slug: checkpoint for checkpoint in map(find_checkpoint, models)}
    if teacher is None:
        return list(found.values()), None
    of_teacher = find_checkpoint(teacher)
    found.setdefault(of_teacher.slug, of_teacher)
    return list(found.values()), of_teacher


def _taught(units: Sequence[Unit], teacher: Checkpoint | None, soft: TaskDistillationArguments) -> list[Unit]:
    """The units of a task, with whom they learn it from: a classifier of it, or the teacher, which is fine-tuned first;
    and with the text without labels that they learn it on.

    Raises:
        UserError: if it is neither, or answers another question, or if there is no such text.
    """
    if soft.distill_from is None:
        return list(units)
    classifier, task = find_checkpoint(soft.distill_from), units[0].task
    of_teacher = next((unit for unit in units if teacher and unit.checkpoint.slug == teacher.slug), None)
    if of_teacher and of_teacher.checkpoint.slug == classifier.slug:
        made, identity = str(of_teacher.classifier), of_teacher.runs[0].identity
    else:
        made, identity = classifier.name, classifier.identity
        TaskTeacher(soft, task.problem, task.classes)
    lesson = Lesson(made, identity, classifier.title, soft, _unlabelled(units[0], soft.unlabelled))
    keeps = made != classifier.name
    return [replace(unit, keeps=keeps) if unit is of_teacher else replace(unit, lesson=lesson) for unit in units]


def _unlabelled(unit: Unit, source: str | None) -> Dataset | None:
    """Text of a unit's task but for its validation rows.

    Raises:
        UserError: if it can't be read, or nothing is left.
    """
    if source is None:
        return None
    first, *second = unit.task.columns
    splits = list(unit.rows.validation.values())
    return load_unlabelled(source, first, second[0] if second else None, splits)[0]


def _run_one(units: Sequence[Unit], args: GlueArguments) -> int:
    chosen = [unit for unit in units if unit.name == args.unit]
    if not chosen:
        raise UserError(f"there is no unit {args.unit}; give MODEL/TASK as the command without --unit names them")
    (unit,) = chosen
    with held(unit.folder):
        failed = run_unit(unit)
        if args.predict:
            predict_tests(unit, load_tests(unit.task, args.data_dir))
    if failed:
        name, error = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(unit.runs)} runs failed, the first ({name}): {error}")
    return 0


def _left(units: Sequence[Unit], args: GlueArguments) -> list[Unit]:
    """Units with runs to be made or tests to be answered; what is wrong with the test sets is told now."""
    names = dict.fromkeys(unit.task.name for unit in units) if args.predict else ()
    tests = {name: load_tests(TASKS[name], args.data_dir) for name in names}
    if args.restart:
        for unit in units:
            empty(unit.folder)
    return [unit for unit in units if unit.to_do() or (args.predict and not answered(unit, tests[unit.task.name]))]


def _check_output(out: Path) -> None:
    """Raises UserError if the folder holds anything but what this command left there."""
    if out.exists() and not (out.is_dir() and ((out / RUNS_FOLDER).is_dir() or not contents(out))):
        raise UserError(f"{out} holds something that tutorkd glue didn't write; choose another --output_dir")


def _plot(summary: Mapping[str, Any], out: Path) -> str:
    """Draw it where the extra is there; returns which files that gave, or how to get them."""
    if find_spec("matplotlib") is None:
        return "; for the plot: pip install 'tutorkd[plots]', and the same command again"
    from tutorkd.glue.plots import draw

    with writing(out):
        return "".join(f", {file.name}" for file in draw(summary, out))


def _write_card(checkpoint: Checkpoint, model: Mapping[str, Any]) -> None:
    """Say where the scores went, or why they didn't; results that are there aren't a failure for it."""
    if not any(task["figures"] for task in model["tasks"].values()):
        return
    if not Path(checkpoint.name).is_dir():
        print(f"the card of {checkpoint.name} isn't written: it isn't a folder here")
        return
    try:
        print(f"written to {write_scores(Path(checkpoint.name), model)}: scores in its head")
    except UserError as error:
        print(error)
