"""What ``tutorkd compare`` does: which cells are left, and the results of all."""

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from tutorkd.comparison.arguments import SECTIONS, CompareArguments
from tutorkd.comparison.bench import estimate, refusals
from tutorkd.comparison.budget import in_steps
from tutorkd.comparison.cell import run_cell
from tutorkd.comparison.matrix import Cell, read_cells
from tutorkd.comparison.report import markdown, summarise
from tutorkd.errors import UserError
from tutorkd.files import write_results, write_text, writing
from tutorkd.locks import empty, held
from tutorkd.options.recipes import check_keys, load_recipe
from tutorkd.pretraining.outcome import few_steps
from tutorkd.processes import Stopped, run_processes
from tutorkd.tables import fitted, show
from tutorkd.words import duration


def compare(recipe: str, flags: Sequence[str], args: CompareArguments, loading: float) -> int:
    """Run the matrix of a recipe, print its plan, or run one cell, as the options say; returns the exit code.

    Args:
        recipe: a path or name, which the cells' processes read again, with the flags.
        loading: seconds in which a process loads the code that trains.

    Raises:
        Interrupted: after a signal, once the results of the cells that are finished are written.
        UserError: if recipe, data or the output folder can't be used.
    """
    content = load_recipe(recipe, "compare")
    check_keys(content, SECTIONS, recipe)
    content = _overridden(content, args)
    cells = read_cells(content, recipe, args.output_dir)
    if args.cell is not None:
        return _run_one(cells, args)
    if args.dry_run:
        return _print_plan(cells, args.restart, loading)
    with held(Path(args.output_dir)):
        return _run_all(cells, recipe, content, flags, args)


def _run_all(
    cells: Sequence[Cell], recipe: str, content: Mapping[str, Any], flags: Sequence[str], args: CompareArguments
) -> int:
    """Run what isn't finished, and write the results of all; returns the exit code: 1 if a cell failed.

    Args:
        content: the recipe with what the flags say in its place.
    """
    out = Path(args.output_dir)
    cells, failed = in_steps(cells)
    left = [cell for cell in cells if args.restart or cell.result is None]
    failed |= refusals(left) if left else {}
    if args.restart:
        for cell in cells:
            empty(cell.folder)
    print(f"cells    {len(cells)}, of which {len(cells) - len(left)} are finished", flush=True)
    flags = [flag for flag in flags if flag != "--restart"]

    def command(cell: Cell) -> list[str]:
        return [sys.executable, "-m", "tutorkd.cli.main", "compare", recipe, *flags, "--cell", cell.name]

    for name, reason in failed.items():
        print(f"failed   {name} before it began: {reason}", flush=True)
    stopped = None
    try:
        failed |= run_processes([cell for cell in left if cell.name not in failed], command, args.jobs)
    except Stopped as stop:  # by a limit of time, perhaps: what is finished is told
        stopped = stop
        failed |= stop.failed
    summary = summarise(cells, failed, content.get("baseline"))
    write_text(out / "recipe.yaml", yaml.safe_dump(content, sort_keys=False))
    write_results(out, summary, table := markdown(summary, cells[0].measures))
    print(f"\n{fitted(table)}\nwritten to {out}: results.json, results.md{_plots(cells, summary, out)}")
    if stopped:
        raise stopped
    return 1 if failed else 0


def _plots(cells: Sequence[Cell], summary: Mapping[str, Any], out: Path) -> str:
    """Draw them where the extra is there; returns what to say of it."""
    if find_spec("matplotlib") is None:
        return "; for plots: pip install 'tutorkd[plots]', and the same command again"
    from tutorkd.comparison.plots import draw

    with writing(out):
        drawn = draw(cells, summary, out)
    return " and plots" if drawn else ""


def _overridden(recipe: dict[str, Any], args: CompareArguments) -> dict[str, Any]:
    """The recipe with what the flags say in its place."""
    for section, keys in (
        ("common", ("teacher", "corpus")),
        ("evaluate", ("train", "validation", "data_dir", "text", "sts", "paraphrases", "retrieval")),
    ):
        given = {key: getattr(args, key) for key in keys if getattr(args, key)}
        if given and isinstance(recipe.get(section) or {}, dict):
            recipe[section] = {**(recipe.get(section) or {}), **given}
    return recipe


def _run_one(cells: Sequence[Cell], args: CompareArguments) -> int:
    chosen = [cell for cell in cells if cell.name == args.cell]
    if not chosen:
        raise UserError(f"there is no cell {args.cell}; there are {', '.join(cell.name for cell in cells)}")
    (cell,), failed = in_steps(chosen)
    if failed:
        raise UserError(failed[cell.name])
    if args.restart:
        empty(cell.folder)
    run_cell(cell)
    return 0


def _print_plan(cells: Sequence[Cell], restart: bool, loading: float) -> int:
    """Returns the exit code: 1 if a cell can't run.

    Args:
        restart: whether what is finished counts for nothing.
        loading: seconds in which a cell's process loads the code that trains.
    """
    cells, uncounted = in_steps(cells)
    counted = [cell for cell in cells if cell.name not in uncounted]
    seconds, refused = estimate(counted, loading) if counted else ({}, {})
    refused |= uncounted
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("cell", "method", "student"):
        table.add_column(heading, no_wrap=True)
    for heading in ("seed", "steps", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    left = 0.0
    for cell in cells:
        finished = not restart and cell.result is not None
        time = "finished" if finished else "can't run" if cell.name in refused else duration(seconds[cell.name])
        left += 0.0 if finished or cell.name in refused else seconds[cell.name]
        trained = cell.kind == "distilled"
        method = cell.distill.args.method if trained else "-"
        steps = f"{cell.distill.config.max_steps:,}" if trained and cell.flops is None else "-"
        words = (cell.name, method, cell.student or "-", str(cell.seed), steps, time)
        table.add_row(*(Text(word) for word in words))
    show(table)
    for name, error in refused.items():
        print(f"{name} can't run: {error}")
    trainable = [cell for cell in cells if cell.kind == "distilled" and cell.name not in refused]
    for number in sorted({cell.distill.config.max_steps for cell in trainable}):
        if note := few_steps(number, trainable[0].distill.objective):
            print(f"few steps: {note}")
    print(
        f"{len(cells)} cells, about {duration(left)} left on this machine, if they run one at a time: to start, train "
        "and measure; looks at held-out text while training aren't counted"
    )
    return 1 if refused else 0
