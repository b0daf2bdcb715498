"""What ``tutorkd evaluate`` is told of pairs of texts, on which embeddings are measured."""

from dataclasses import dataclass, field

from tutorkd.errors import UserError

_SOURCE = "a csv, jsonl or parquet file, or the validation split of name:config."


@dataclass
class EmbeddingArguments:
    """On what embeddings of text are measured, beside ``teacher`` and ``seed``."""

    _argument_group_name = "embedding models"

    sts: str | None = field(
        default=None, metadata={"help": f"Pairs of sentences with a score of their similarity: {_SOURCE}"}
    )
    sts_columns: list[str] = field(
        default_factory=lambda: ["sentence1", "sentence2", "score"],
        metadata={"help": "Columns of --sts: the two sentences and the score (three names)."},
    )
    paraphrases: str | None = field(
        default=None, metadata={"help": f"Pairs of sentences, each with 1 for a paraphrase or 0 for none: {_SOURCE}"}
    )
    paraphrase_columns: list[str] = field(
        default_factory=lambda: ["sentence1", "sentence2", "label"],
        metadata={"help": "Columns of --paraphrases: the two sentences and the label (three names)."},
    )
    retrieval: str | None = field(
        default=None,
        metadata={"help": f"Queries, each with the passage that it should find among all rows' passages: {_SOURCE}"},
    )
    retrieval_columns: list[str] = field(
        default_factory=lambda: ["query", "passage"],
        metadata={
            "help": "Columns of --retrieval: query, passage and, if there is one, a column that says whether the "
            "passage answers the query; if it doesn't, only the row's passage is used (two or three names)."
        },
    )
    retrieval_label: str = field(
        default="1",
        metadata={"help": "Label in the third of --retrieval_columns that means that the passage answers the query."},
    )

    def __post_init__(self) -> None:
        """Raises UserError for columns that aren't as many as they must be."""
        for name, counts in {"sts": [3], "paraphrase": [3], "retrieval": [2, 3]}.items():
            columns = getattr(self, f"{name}_columns")
            if len(columns) not in counts:
                wanted = " or ".join(map(str, counts))
                raise UserError(f"{name}_columns takes {wanted} names of columns, not {len(columns)}")

    @property
    def given(self) -> list[str]:
        """The options that name data."""
        return [name for name in ("sts", "paraphrases", "retrieval") if getattr(self, name)]
