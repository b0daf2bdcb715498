"""What ``tutorkd distill-task`` is told."""

from dataclasses import dataclass, field
from typing import Any

from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.column_arguments import LabelledColumns
from tutorkd.evaluation.soft_target_arguments import SoftTargetWeights
from tutorkd.options.parser import OptionParser
from tutorkd.options.recipes import FIRST_STAGE_SECTION

DESCRIPTION = (
    "Makes a small classifier out of a fine-tuned one: a student made from the teacher's layers learns "
    "the teacher's answers, is exported in int8, and is compared with the teacher. If it was stopped, the same "
    "command continues."
)
SUMMARY = {
    "settings": dict[str, Any],
    "machine": dict[str, str],
    "models": list[dict[str, str | int | float | dict[str, float] | None]],
}
"""What ``results.json`` of ``tutorkd distill-task`` holds, as ``stored_result`` takes it."""


@dataclass
class TaskStudentArguments(LabelledColumns, FineTuneArguments):
    """Who is distilled into what, on which rows, and where that goes."""

    teacher: str = field(default="", metadata={"help": "Fine-tuned classifier (a path or Hub name)."})
    student: str = field(
        default="thin",
        metadata={
            "help": "thin, half, extreme-12, extreme-6, extreme-2, or an encoder with weights (a path or Hub name)."
        },
    )
    student_layers: int | None = field(default=None, metadata={"help": "Layers of the student, a number."})
    student_hidden_size: int | None = field(default=None, metadata={"help": "Hidden size, in dimensions."})
    student_heads: int | None = field(default=None, metadata={"help": "Attention heads a layer, a number."})
    student_intermediate_size: int | None = field(default=None, metadata={"help": "Feed-forward size, in dimensions."})
    train: str | None = field(
        default=None,
        metadata={
            "help": "Labelled training rows: a csv, jsonl or parquet file, or the train split of name:config; not "
            "needed if unlabelled is given."
        },
    )
    unlabelled: str | None = field(
        default=None,
        metadata={
            "help": "Text of your domain without labels, for which the student learns the teacher's answers: a csv, "
            "jsonl or parquet file, or the train split of name:config."
        },
    )
    corpus: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text for a first stage, in which the student learns the teacher's attention relations (MiniLM v2) "
            "before it learns the task: files, folders or Hub data sets, as --corpus of distill (one or more)."
        },
    )
    validation: str = field(
        default="",
        metadata={
            "help": "Labelled rows to measure on: a csv, jsonl or parquet file, or the validation split of name:config."
        },
    )
    output_dir: str = field(default="tutorkd-task-student", metadata={"help": "Folder for the student (a path)."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Check models and data, print sizes, steps and the time, and stop (true or false)."},
    )
    restart: bool = field(
        default=False, metadata={"help": "Whether to delete an earlier run in output_dir (true or false)."}
    )


def parser() -> OptionParser:
    """Options of ``tutorkd distill-task``."""
    return OptionParser(
        "distill-task",
        DESCRIPTION,
        [TaskStudentArguments, SoftTargetWeights],
        {},
        first=["teacher", "student", "corpus", "train", "unlabelled", "validation", "output_dir", "dry_run", "restart"],
        sections=[FIRST_STAGE_SECTION],
    )
