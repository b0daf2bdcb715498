"""``tutorkd glue``: how good encoders are on GLUE, beside the published rows."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from tutorkd.cli.options import OptionParser, nearest
from tutorkd.comparison.runner import run_cells
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.evaluation.finetune import FineTuneArguments
from tutorkd.evaluation.report import write_text
from tutorkd.glue.card import write_scores
from tutorkd.glue.data import TaskRows, check_there, load_task, load_tests
from tutorkd.glue.leaderboard import predict_tests, write_zip
from tutorkd.glue.plan import print_plan
from tutorkd.glue.report import markdown, unit_line
from tutorkd.glue.runs import Unit, run_unit
from tutorkd.glue.summary import summarise
from tutorkd.glue.tasks import LARGE, TASKS, USUAL, Task
from tutorkd.runtime import describe

DESCRIPTION = (
    "Fine-tunes encoders on GLUE's tasks over a grid of settings and several seeds; prints official metrics, medians "
    "over seeds, what is kept of a teacher, and published rows of the same size. The same command goes on where it "
    "stopped."
)
_FAST_SEEDS = 3


@dataclass
class GlueArguments:
    """What is fine-tuned on what, and where the results go."""

    tasks: list[str] = field(
        default_factory=lambda: list(USUAL),
        metadata={"help": f"Tasks, by name: {', '.join(TASKS)}; by default all but wnli."},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of Parquet files laid out like the Hub's nyu-mll/glue; by default the Hub's."},
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "The model, one of those given or another, of which the others keep so many percent."},
    )
    fast: bool = field(
        default=False,
        metadata={
            "help": "Take the first learning rate, batch size and number of epochs alone, and the first "
            f"{_FAST_SEEDS} seeds, of large tasks one."
        },
    )
    learning_rates: list[float] = field(
        default_factory=lambda: [5e-5, 3e-5, 2e-5], metadata={"help": "Peak learning rates of the grid."}
    )
    batch_sizes: list[int] = field(default_factory=lambda: [32, 16], metadata={"help": "Rows a step, of the grid."})
    epochs: list[float] = field(
        default_factory=lambda: [3.0, 2.0, 4.0], metadata={"help": "Passes over the training rows, of the grid."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of each setting, whole numbers."}
    )
    large_seeds: list[int] | None = field(
        default=None,
        metadata={"help": f"Seeds for tasks of {LARGE:,} training rows and more; by default the same."},
    )
    warmup_ratio: float = field(
        default=0.1, metadata={"help": "Share of the steps over which the learning rate rises from 0."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest row in tokens; by default the task's, or the model's where that is shorter."},
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Training rows to use, the same for all models and seeds; by default all of them."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "Whether to fine-tune in bfloat16; by default where the device is native."},
    )
    predict: bool = field(
        default=False, metadata={"help": "Also answer the test sets, zipped for GLUE's leaderboard, for each model."}
    )
    write_card: bool = field(
        default=False, metadata={"help": "Also write the scores into README.md of the models, where they are folders."}
    )
    output_dir: str = field(default="tutorkd-glue", metadata={"help": "Folder for runs and results (a path)."})
    jobs: int = field(default=1, metadata={"help": "Processes that run at once, each a model on a task."})
    dry_run: bool = field(default=False, metadata={"help": "Print the runs and the estimated time, write nothing."})
    restart: bool = field(default=False, metadata={"help": "Throw away what earlier runs left of these tasks."})
    unit: str | None = field(
        default=None,
        metadata={
            "help": "Run this model and task alone, in this process: for work spread over machines with one disk."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"there is no task {name!r}{nearest(name, list(TASKS))}; there are {', '.join(TASKS)}")
        self.tasks = [name for name in TASKS if name in self.tasks]
        if self.jobs < 1:
            raise UserError(f"--jobs must be 1 or more, not {self.jobs}")
        for name in ("tasks", "learning_rates", "batch_sizes", "epochs", "seeds", "large_seeds"):
            values = getattr(self, name)
            if values is not None and not values:
                raise UserError(f"{name} are empty: give one or more")
            if values is not None:
                setattr(self, name, list(dict.fromkeys(values)))  # each once
        for seed in [*self.seeds, *(self.large_seeds or [])]:
            if seed < 0:
                raise UserError(f"seeds must be whole numbers from 0, not {seed}")
        for task in TASKS.values():
            self.runs(task, None, large=False)  # each checks its values

    def runs(self, task: Task, positions: int | None, large: bool) -> list[FineTuneArguments]:
        """One fine-tuning for each setting of the grid and seed.

        Args:
            positions: the longest row that the model takes; None where it isn't bounded.
            large: whether the task has many training rows.
        """
        usual = min(task.max_length, positions) if positions else task.max_length
        seeds = self.large_seeds if large and self.large_seeds else self.seeds
        rates, batches, passes = self.learning_rates, self.batch_sizes, self.epochs
        if self.fast:
            seeds, rates, batches, passes = seeds[: 1 if large else _FAST_SEEDS], rates[:1], batches[:1], passes[:1]
        return [
            FineTuneArguments(
                max_length=self.max_length or usual,
                learning_rate=rate,
                per_device_train_batch_size=rows,
                num_train_epochs=epochs,
                warmup_ratio=self.warmup_ratio,
                max_train_samples=self.max_train_samples,
                seed=seed,
                bf16=self.bf16,
            )
            for rate, rows, epochs in product(rates, batches, passes)
            for seed in seeds
        ]


def parser() -> OptionParser:
    """Options of the command, behind its models."""
    options = OptionParser("glue", DESCRIPTION, [GlueArguments], {})
    options.usage = "tutorkd glue MODEL [MODEL ...] [options]"
    return options


def run(argv: Sequence[str]) -> int:
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    models, flags = list(argv[:count]), list(argv[count:])
    if not models and not {"-h", "--help"}.intersection(flags):
        raise UserError("tutorkd glue takes one or more models, paths or Hub names, ahead of its options")
    (args,) = parser().read(flags)
    check_there(args.tasks, args.data_dir, args.predict)
    checkpoints, teacher = _checkpoints(models, args.teacher)
    positions = [check_checkpoint(checkpoint, args.max_length) for checkpoint in checkpoints]
    tasks = [name for name in args.tasks if args.unit is None or args.unit.endswith(f"/{name}")]
    rows = {name: load_task(TASKS[name], args.data_dir, args.max_train_samples) for name in tasks}
    units = [
        _unit(checkpoint, TASKS[name], rows[name], longest, args)
        # The small tasks give answers first.
        for name in sorted(tasks, key=lambda name: len(rows[name].train))
        for checkpoint, longest in zip(checkpoints, positions, strict=True)
    ]
    if args.unit is not None:
        return _run_one(units, args)
    if args.dry_run:
        print_plan(units)
        return 0
    if find_spec("matplotlib") is None:
        raise UserError("the plot needs matplotlib: pip install 'tutorkd[plots]'")
    if args.predict:
        for name in tasks:
            load_tests(TASKS[name], args.data_dir)  # what is wrong with them is told now
    if args.restart:
        _remove(units)
    return glue(units, teacher, models, flags, args)


def glue(
    units: Sequence[Unit], teacher: Checkpoint | None, models: Sequence[str], flags: Sequence[str], args: GlueArguments
) -> int:
    """Run what isn't finished, and write the results of all; returns the exit code: 1 if a run failed."""
    runs = [run for unit in units for run in unit.runs]
    left = [unit for unit in units if args.predict or any(run.result is None for run in unit.runs)]
    print(f"runs     {len(runs)}, of which {sum(run.result is not None for run in runs)} are finished", flush=True)

    def command(unit: Unit) -> list[str]:
        own = ["--unit", unit.name, "--restart", "false"]
        return [sys.executable, "-m", "tutorkd.cli.main", "glue", *models, *flags, *own]

    failed = run_cells(left, command, args.jobs, unit_line)
    from tutorkd.glue.plots import draw  # matplotlib is an extra

    summary = {"settings": asdict(args), "machine": describe(), **summarise(units, teacher, failed)}
    out = Path(args.output_dir)
    write_text(out / "results.json", json.dumps(summary, indent=2))
    write_text(out / "results.md", tables := markdown(summary))
    draw(summary, out)
    print(f"\n{tables}\nwritten to {out}: results.json, results.md, scores.png, scores.svg")
    by_model: dict[str, list[Unit]] = {}
    for unit in units:
        by_model.setdefault(unit.checkpoint.slug, []).append(unit)
    for of_model, model in zip(by_model.values(), summary["models"], strict=True):
        if args.predict:
            _zip(of_model, out)
        if args.write_card:
            _write_card(of_model[0].checkpoint, model)
    return 1 if failed or any(run.result is None for run in runs) else 0


def _checkpoints(models: Sequence[str], teacher: str | None) -> tuple[list[Checkpoint], Checkpoint | None]:
    """Each model once, and the teacher, last where it isn't one of them."""
    found = {checkpoint.slug: checkpoint for checkpoint in map(find_checkpoint, models)}
    if teacher is None:
        return list(found.values()), None
    of_teacher = find_checkpoint(teacher)
    found.setdefault(of_teacher.slug, of_teacher)
    return list(found.values()), of_teacher


def _unit(checkpoint: Checkpoint, task: Task, rows: TaskRows, positions: int | None, args: GlueArguments) -> Unit:
    folder = Path(args.output_dir) / "runs" / checkpoint.slug / task.name
    return Unit(checkpoint, task, rows, folder, args.runs(task, positions, large=len(rows.train) >= LARGE))


def _run_one(units: Sequence[Unit], args: GlueArguments) -> int:
    chosen = [unit for unit in units if unit.name == args.unit]
    if not chosen:
        raise UserError(f"there is no unit {args.unit}; give MODEL/TASK as the command without --unit names them")
    (unit,) = chosen
    failed = run_unit(unit)
    if args.predict:
        predict_tests(unit, load_tests(unit.task, args.data_dir))
    if failed:
        name, error = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(unit.runs)} runs failed, the first ({name}): {error}")
    return 0


def _remove(units: Sequence[Unit]) -> None:
    for unit in units:
        shutil.rmtree(unit.folder, ignore_errors=True)


def _zip(units: Sequence[Unit], out: Path) -> None:
    path = out / "submissions" / f"{units[0].checkpoint.slug}.zip"
    lacking = write_zip(units, path)
    print(f"written to {path}: answers to test sets" + (", all that the leaderboard wants" if not lacking else ""))
    if lacking:
        print(
            f"it lacks {', '.join(lacking)}: the leaderboard wants all files in one zip, so add these tasks to --tasks"
        )


def _write_card(checkpoint: Checkpoint, model: Mapping[str, Any]) -> None:
    if Path(checkpoint.name).is_dir():
        print(f"written to {write_scores(Path(checkpoint.name), model)}: scores in its head")
    else:
        print(f"the card of {checkpoint.name} isn't written: it isn't a folder here")
