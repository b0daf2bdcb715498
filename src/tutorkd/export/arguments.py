"""What ``tutorkd export`` is told."""

from dataclasses import dataclass, field

from tutorkd.errors import UserError
from tutorkd.evaluation.column_arguments import LabelledColumns
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Writes a checkpoint as ONNX files, which run without PyTorch: in float32, and in int8 at about a "
    "quarter of the size. Both are compared with PyTorch on the same rows before they are kept."
)
SHORTEST = 8  # max_length of a check, in tokens


@dataclass
class ExportArguments(LabelledColumns):
    """What is exported, and on what it is checked."""

    model: str = field(default="", metadata={"help": "Checkpoint to export: a path or Hub name."})
    output_dir: str = field(
        default="tutorkd-onnx",
        metadata={
            "help": "Folder for the files (a path); if it is the checkpoint's own, they are put beside its weights."
        },
    )
    texts: str | None = field(
        default=None,
        metadata={
            "help": "Text on whose first documents the files are checked: local files or a Hub data set, as for "
            "--corpus of distill; by default random tokens are used."
        },
    )
    validation: str | None = field(
        default=None,
        metadata={
            "help": "Labelled rows on which a classifier is checked and scored: a csv, jsonl or parquet file, or the "
            "validation split of name:config."
        },
    )
    max_length: int = field(default=128, metadata={"help": "Longest row of the check, in tokens; longer ones are cut."})
    restart: bool = field(
        default=False, metadata={"help": "Whether to delete another export in output_dir (true or false)."}
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        if self.max_length < SHORTEST:
            raise UserError(f"max_length must be {SHORTEST} or more, not {self.max_length}")
        if self.texts is not None and self.validation is not None:
            raise UserError("texts and validation both say what to check on: give one of them")


def parser() -> OptionParser:
    """Options of ``tutorkd export``."""
    first = ["model", "output_dir", "validation", "texts"]
    return OptionParser("export", DESCRIPTION, [ExportArguments], {}, first=first)
