"""What ``tutorkd evaluate`` is told."""

import math
from dataclasses import dataclass, field

from tutorkd.errors import UserError
from tutorkd.evaluation.column_arguments import LabelledColumns
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.soft_target_arguments import TaskDistillationArguments
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Fine-tunes encoders on labelled text with a fixed split, and compares accuracy, parameters, size on disk and "
    "milliseconds a sentence on this machine. Causal language models are compared without training: by perplexity on "
    "held-out text, distance from a teacher, speed and memory of generation, and tasks of lm-eval. So are embedding "
    "models: on sentence pairs, paraphrases and retrieval, alone and together with a teacher."
)
CLASSIFIER = "classifier"  # folder of a fine-tuned model, in that of its result
NOT_SETTINGS = (
    "models",
    "names",
    "seeds",
    "output_dir",
    "restart",
    "dry_run",
    "save_models",
)  # a result doesn't depend on them


@dataclass
class FineTuneArguments:
    """How an encoder is fine-tuned: AdamW, linear warm-up and linear decay, rows of like length together."""

    max_length: int = field(
        default=128, metadata={"help": "Longest row in tokens, special tokens included; longer rows are cut."}
    )
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of AdamW (per step)."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows in a step on each device."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows (epochs)."})
    warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Share of the steps (0 to 1) over which the learning rate rises from 0."},
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Training rows to use, drawn at random with the seed (rows); by default all of them."},
    )
    seed: int = field(
        default=42,
        metadata={"help": "Seed of the classifier's start, the data order and dropout (an integer)."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Whether to fine-tune in bfloat16 (true or false); by default if the device multiplies it natively."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        for name in ("max_length", "learning_rate", "per_device_train_batch_size", "num_train_epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.max_train_samples is not None and self.max_train_samples <= 0:
            raise UserError(f"max_train_samples must be above 0, not {self.max_train_samples}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be a whole number from 0 to {2**32 - 1}, not {self.seed}")
        if not 0 <= self.warmup_ratio < 1:
            raise UserError(f"warmup_ratio must be at least 0 and below 1, not {self.warmup_ratio}")

    def uses_bfloat16(self) -> bool:
        from tutorkd.runtime import prefers_bfloat16  # which loads torch

        return prefers_bfloat16() if self.bf16 is None else self.bf16


@dataclass
class EvaluateArguments(LabelledColumns, FineTuneArguments):
    """What is compared, on which data, and where the results go."""

    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Checkpoints to compare: encoders, embedding models or causal language models (one or more paths "
            "or Hub names)."
        },
    )
    names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of the models in tables and folders, one for each; by default the last part of each path."
        },
    )
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "Fine-tune once with each of these seeds instead of --seed (one or more integers)."},
    )
    train: str = field(
        default="",
        metadata={"help": "Labelled training rows: a csv, jsonl or parquet file, or the train split of name:config."},
    )
    validation: str = field(
        default="",
        metadata={
            "help": "Labelled rows to measure on: a csv, jsonl or parquet file, or the validation split of name:config."
        },
    )
    output_dir: str = field(default="evaluation", metadata={"help": "Folder for the results (a path)."})
    restart: bool = field(
        default=False, metadata={"help": "Whether to delete earlier results in output_dir (true or false)."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check models and data, print sizes and steps, and stop (true or false)."}
    )
    save_models: bool = field(
        default=False,
        metadata={
            "help": f"Whether to keep the fine-tuned models, as NAME/{CLASSIFIER}, or with several seeds as "
            f"NAME/seedN/{CLASSIFIER} (true or false)."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        super().__post_init__()
        self.seeds = list(dict.fromkeys(self.seeds))
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise UserError(f"seeds must be whole numbers from 0 to {2**32 - 1}, not {seed}")


@dataclass
class LanguageArguments:
    """What causal language models are measured on, beside ``max_length``, ``text_column``, ``seed`` and ``bf16``."""

    _argument_group_name = "causal language models (teacher and tasks: embedding models too)"

    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Causal or embedding model with which the others are compared (a path or Hub name); it is also "
            "measured itself."
        },
    )
    text: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Held-out text: a txt, jsonl, csv (also .gz, .bz2, .zst) or parquet file, a folder of them, a "
            "glob, or the validation split of a Hub data set, name:config (one or more)."
        },
    )
    messages_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of conversations in --text, lists of messages with role and content, in the place of "
            "text_column: the answers are scored (a name)."
        },
    )
    tools_column: str | None = field(
        default=None,
        metadata={"help": "Column of the tools that the assistant could call in each conversation (a name)."},
    )
    prompts: int = field(
        default=64, metadata={"help": "Number of rows of the text whose beginning each model continues."}
    )
    prompt_length: int = field(default=32, metadata={"help": "Length of a prompt in tokens."})
    new_tokens: int = field(default=64, metadata={"help": "Longest continuation of a prompt in tokens."})
    tasks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Tasks, groups or tags of lm-eval (extra lm-eval) or, for embedding models, tasks of mteb (extra "
            "mteb): one or more names."
        },
    )
    task_path: str | None = field(
        default=None, metadata={"help": "Folder with tasks of your own in lm-eval's yaml format (a path)."}
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        for name in ("prompts", "prompt_length", "new_tokens"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.task_path is not None and not self.tasks:
            raise UserError("task_path says where tasks are, not which to run: name them with --tasks")


def parser() -> OptionParser:
    """Options of ``tutorkd evaluate``."""
    return _parser(EvaluateArguments, TaskDistillationArguments, LanguageArguments, EmbeddingArguments)


def student_parser() -> OptionParser:
    """Those about labelled rows and text, for commands that evaluate what they distilled."""
    return _parser(EvaluateArguments, LanguageArguments)


def embedding_parser() -> OptionParser:
    """Those about pairs of texts and a teacher, for commands that evaluate the embedding models that they distilled."""
    return _parser(EvaluateArguments, LanguageArguments, EmbeddingArguments)


def encoder_parser() -> OptionParser:
    """Those about encoders alone, for commands that evaluate what they trained."""
    return _parser(EvaluateArguments)


def _parser(*classes: type) -> OptionParser:
    first = ["models", "train", "validation", "output_dir", "save_models", "dry_run", "restart"]
    return OptionParser("evaluate", DESCRIPTION, classes, {"output_dir": "tutorkd-evaluation"}, first=first)
