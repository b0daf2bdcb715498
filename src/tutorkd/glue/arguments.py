"""What ``tutorkd glue`` is told, and the grid of runs that this means."""

import math
from dataclasses import dataclass, field
from itertools import product

from tutorkd.errors import UserError, nearest
from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.soft_target_arguments import TaskDistillationArguments
from tutorkd.glue.tasks import LARGE, TASKS, USUAL, Task
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Fine-tunes encoders on GLUE's tasks over a grid of settings and several seeds. Prints the official metrics, "
    "medians over seeds, what percentage of a teacher's scores is kept, and the paper's scores for models of the same "
    "size. If it was stopped, the same command continues."
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
        metadata={
            "help": "Teacher, one of the given models or another (a path or Hub name); tables then say what percentage "
            "of its scores the others keep."
        },
    )
    fast: bool = field(
        default=False,
        metadata={
            "help": "Use only the first learning rate, batch size and number of epochs, with the first "
            f"{_FAST_SEEDS} seeds, or with one seed on {', '.join(LARGE)}."
        },
    )
    learning_rates: list[float] = field(
        default_factory=lambda: [5e-5, 3e-5, 2e-5], metadata={"help": "Peak learning rates of the grid."}
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [32, 16], metadata={"help": "Batch sizes of the grid, in rows a step."}
    )
    epochs: list[float] = field(
        default_factory=lambda: [3.0, 2.0, 4.0],
        metadata={"help": "Numbers of epochs of the grid, passes over the training rows."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of each setting, whole numbers."}
    )
    large_seeds: list[int] | None = field(
        default=None,
        metadata={"help": f"Seeds for {', '.join(LARGE)}; by default those of the other tasks."},
    )
    warmup_ratio: float = field(
        default=0.1, metadata={"help": "Share of the steps over which the learning rate rises from 0."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest row in tokens; by default the task's, or the model's if that is shorter."},
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Training rows to use, the same for all models and seeds; by default all of them."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "Whether to fine-tune in bfloat16; by default if the device multiplies it natively."},
    )
    predict: bool = field(
        default=False,
        metadata={"help": "Also answer the test sets with each model, and zip the answers for GLUE's leaderboard."},
    )
    write_card: bool = field(
        default=True,
        metadata={
            "help": "Also write the scores into the head of the model's README.md, if the model is a local folder."
        },
    )
    output_dir: str = field(default="tutorkd-glue", metadata={"help": "Folder for runs and results (a path)."})
    jobs: int | None = field(
        default=None,
        metadata={
            "help": "Processes that run at once, each with one model on one task; by default one for each GPU, and one "
            "if there is none."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the runs and the estimated time, and stop."})
    restart: bool = field(default=False, metadata={"help": "Delete the results of earlier runs of these tasks."})
    unit: str | None = field(
        default=None,
        metadata={
            "help": "Run only this model and task (MODEL/TASK) in this process, to spread the work over machines that "
            "share a disk."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        given = {name.lower().replace("-", ""): name for name in self.tasks}  # SST-2 is sst2
        for key, name in given.items():
            if key not in TASKS:
                there_are = f"there are {', '.join(TASKS)}"
                raise UserError(f"there is no task {name!r}{nearest(key, list(TASKS), then=there_are)}")
        self.tasks = [name for name in TASKS if name in given]
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs must be 1 or more, not {self.jobs}")
        for name in ("learning_rates", "batch_sizes", "epochs", "seeds", "large_seeds"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, list(dict.fromkeys(values)))  # each once
        for name in ("learning_rates", "batch_sizes", "epochs"):
            for value in getattr(self, name):
                if not 0 < value < math.inf:
                    raise UserError(f"{name} must be numbers above 0, not {value}")
        for seed in [*self.seeds, *(self.large_seeds or [])]:
            if seed < 0:
                raise UserError(f"seeds must be whole numbers from 0, not {seed}")
        for task in TASKS.values():
            self.runs(task, None)  # each checks its values

    def runs(self, task: Task, positions: int | None) -> list[FineTuneArguments]:
        """One fine-tuning for each setting of the grid and seed.

        Args:
            positions: the longest row that the model takes; None where it isn't bounded.
        """
        usual = min(task.max_length, positions) if positions else task.max_length
        seeds = self.large_seeds if task.large and self.large_seeds else self.seeds
        rates, batches, passes = self.learning_rates, self.batch_sizes, self.epochs
        if self.fast:
            seeds, rates, batches, passes = (
                seeds[: 1 if task.large else _FAST_SEEDS],
                rates[:1],
                batches[:1],
                passes[:1],
            )
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


def student_parser() -> OptionParser:
    """Those of the tasks and runs, for commands that evaluate what they distilled."""
    return OptionParser("glue", DESCRIPTION, [GlueArguments], {})


def parser() -> OptionParser:
    """Options of ``tutorkd glue``, behind its models."""
    options = OptionParser("glue", DESCRIPTION, [GlueArguments, TaskDistillationArguments], {})
    options.usage = "tutorkd glue MODEL [MODEL ...] [options]"
    return options
