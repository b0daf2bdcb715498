"""What ``tutorkd trim`` is told."""

from dataclasses import dataclass, field

from tutorkd.errors import UserError
from tutorkd.options.parser import OptionParser
from tutorkd.pretraining.named_text import NamedText

DESCRIPTION = (
    "Takes the tokens out of a model that your text doesn't use: rows of its embeddings and of its head, and the "
    "tokenizer's entries. What it answers to text of the tokens that stay doesn't change. A multilingual model becomes "
    "several times smaller that way, without training. The result is a checkpoint as any other: a teacher for tutorkd "
    "distill, or ready for use."
)


COVERAGE = 0.999  # of the text's tokens, unless another share or a number of tokens is asked for


@dataclass
class TrimArguments:
    """Which model, and how many of its tokens stay."""

    model: str = field(default="", metadata={"help": "Model to trim, of any kind: a Hub name or a path."})
    vocab_size: int | None = field(
        default=None, metadata={"help": "Number of tokens that stay; by default as many as coverage asks for."}
    )
    coverage: float | None = field(
        default=None,
        metadata={
            "help": f"Share of the text's tokens that stay, by default {COVERAGE}; the rarest others are spelled with "
            "smaller ones. 1 keeps every token that the text has."
        },
    )
    output_dir: str = field(default="tutorkd-trimmed", metadata={"help": "Folder for the model (a path)."})
    restart: bool = field(
        default=False, metadata={"help": "Whether to delete another trimmed model in output_dir (true or false)."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print what vocabularies of several sizes would keep, and write nothing."}
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        if self.coverage is not None and self.vocab_size is not None:
            raise UserError("vocab_size and coverage both say how many tokens stay: give one of them")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise UserError(f"coverage must be above 0 and at most 1, not {self.coverage:g}")
        if self.vocab_size is not None and self.vocab_size < 1:
            raise UserError(f"vocab_size must be 1 or more, not {self.vocab_size}")


def parser() -> OptionParser:
    """Options of ``tutorkd trim``."""
    first = ["model", "corpus", "output_dir", "vocab_size", "coverage", "dry_run"]
    return OptionParser("trim", DESCRIPTION, [TrimArguments, NamedText], {}, takes_recipe=False, first=first)
