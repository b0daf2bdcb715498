"""What ``tutorkd evaluate`` is told."""

from dataclasses import dataclass, field

from tutorkd.evaluation.finetune import FineTuneArguments
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Fine-tunes encoders on labelled text with a fixed split, and compares accuracy, parameters, size on disk and "
    "milliseconds a sentence on this machine."
)
CLASSIFIER = "classifier"  # folder of a fine-tuned model, in that of its result
NOT_SETTINGS = ("models", "output_dir", "restart", "dry_run", "save_models")  # a result doesn't depend on them


@dataclass
class EvaluateArguments(FineTuneArguments):
    """What is compared, on which data, and where the results go."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Encoder checkpoints to compare: paths or Hub names (one or more)."},
    )
    train: str = field(
        default="",
        metadata={"help": "Labelled training rows: a csv, jsonl or parquet file, or the train split of name:config."},
    )
    validation: str = field(
        default="",
        metadata={"help": "Labelled rows to measure on: such a file, or the validation split of name:config."},
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the text (a name)."})
    text_pair_column: str | None = field(
        default=None,
        metadata={"help": "Column that holds the second text of a pair (a name); by default there is none."},
    )
    label_column: str = field(
        default="label", metadata={"help": "Column that holds the class, an integer or a string (a name)."}
    )
    output_dir: str = field(default="evaluation", metadata={"help": "Folder for the results (a path)."})
    restart: bool = field(
        default=False, metadata={"help": "Whether to throw away earlier results in output_dir (true or false)."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check models and data, print sizes and steps, and stop (true or false)."}
    )
    save_models: bool = field(
        default=False,
        metadata={"help": f"Whether to keep the fine-tuned models, each as MODEL/{CLASSIFIER} (true or false)."},
    )


def parser() -> OptionParser:
    """Options of ``tutorkd evaluate``."""
    return OptionParser("evaluate", DESCRIPTION, [EvaluateArguments], {"output_dir": "tutorkd-evaluation"})
