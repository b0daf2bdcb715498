"""Which columns of a file hold what."""

from dataclasses import dataclass, field


@dataclass
class TextColumns:
    """Those of the texts."""

    text_column: str = field(
        default="text", metadata={"help": "Column that holds the text, or lists of words (a name)."}
    )
    text_pair_column: str | None = field(
        default=None,
        metadata={"help": "Column that holds the second text of a pair (a name); by default there is none."},
    )

    @property
    def text_columns(self) -> tuple[str, str | None]:
        return self.text_column, self.text_pair_column


@dataclass
class LabelledColumns(TextColumns):
    """Those of the texts and of their labels."""

    label_column: str = field(
        default="label",
        metadata={
            "help": "Column that holds the label (a name): a class by name or number, a list of classes (for words, "
            "one for each), or a decimal number."
        },
    )

    @property
    def labelled_columns(self) -> tuple[str, str | None, str]:
        return *self.text_columns, self.label_column
