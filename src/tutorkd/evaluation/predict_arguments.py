"""What ``tutorkd predict`` is told."""

from dataclasses import dataclass, field

from tutorkd.errors import UserError
from tutorkd.evaluation.column_arguments import TextColumns
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Writes a fine-tuned classifier's label and probabilities for each row of a file. Rows of similar "
    "length are answered together, but the output has them in their original order."
)


@dataclass
class PredictArguments(TextColumns):
    """Which classifier answers which texts, and where its answers go."""

    model: str = field(default="", metadata={"help": "Fine-tuned classifier (a path or Hub name)."})
    text: str = field(
        default="",
        metadata={
            "help": "Rows of text to classify: a csv, tsv, jsonl (each also .gz, .bz2, .zst) or parquet file (a path)."
        },
    )
    output: str = field(
        default="", metadata={"help": "File for the answers, which ends in .csv, .tsv, .jsonl or .parquet (a path)."}
    )
    keep_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns that the output has too, such as an id or the right label (names)."},
    )
    max_length: int = field(default=128, metadata={"help": "Longest row in tokens; longer rows are cut."})

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        if self.max_length <= 0:
            raise UserError(f"max_length must be above 0, not {self.max_length}")


def parser() -> OptionParser:
    """Options of ``tutorkd predict``."""
    first = ["model", "text", "output"]
    return OptionParser("predict", DESCRIPTION, [PredictArguments], {}, takes_recipe=False, first=first)
