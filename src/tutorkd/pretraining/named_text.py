"""The options that name a text; loads nothing that reads it."""

from dataclasses import dataclass, field
from typing import Any

from tutorkd.errors import UserError


@dataclass
class NamedText:
    """Where a text is and how it is read."""

    _argument_group_name = "text"

    corpus: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text, one or more of: a txt, jsonl, csv, tsv (also .gz, .bz2, .zst) or parquet file, a folder of "
            "them, a glob or, if nothing of that name is here, a Hub data set (name or name:config). Each row is a "
            "document; in txt, blank lines separate documents."
        },
    )
    corpus_split: str = field(default="train", metadata={"help": "Split of Hub data sets."})
    corpus_revision: list[str] | None = field(
        default=None, metadata={"help": "Branch, tag or commit on the Hub: one for all or one each."}
    )
    corpus_data_files: list[str] | None = field(
        default=None, metadata={"help": "Glob of files on the Hub: one for all or one each."}
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the text."})
    messages_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of conversations, lists of messages with role and content, in the place of text_column: a "
            "causal model learns what the assistant says in them. Each is a row, by the tokenizer's chat template."
        },
    )
    tools_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the tools that the assistant could call in each conversation, lists of JSON schemas."
        },
    )
    lines: bool = field(default=False, metadata={"help": "In txt, each line is a document."})
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes that tokenize; by default one for each core."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for packed rows; by default $TUTORKD_CACHE or ~/.cache/tutorkd."}
    )

    @property
    def reading(self) -> dict[str, Any]:
        """The options as ``prepare_corpus`` and ``check_corpus`` take them, but for the names and the cache."""
        return {
            "text_column": self.text_column,
            "messages_column": self.messages_column,
            "tools_column": self.tools_column,
            "split": self.corpus_split,
            "revision": self.corpus_revision,
            "data_files": self.corpus_data_files,
            "num_proc": self.num_proc,
            "lines": self.lines,
        }

    def require(self) -> None:
        """Refuse to go on without a text.

        Raises:
            UserError: if none was named.
        """
        if not self.corpus:
            raise UserError("no text: name it with --corpus, a file, a folder or a Hub data set")
