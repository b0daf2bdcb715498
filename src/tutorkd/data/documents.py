"""What a corpus consists of: texts, or what else is asked for, conversations or pairs of texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

TEXT_OPTION, CHATS_OPTION, BESIDE_OPTION = "text_column", "messages_column", "teacher_text_column"
TOOLS_OPTION = "tools_column"
"""What names the columns of a corpus, as an option of commands and in Python."""

Holding = Literal["text", "messages", "tools"]
"""What a column holds."""

Messages: TypeAlias = list[dict[str, Any]]
"""Each with its `role` and, as a rule, its `content`."""


class Conversation(NamedTuple):
    """What was said, and what the assistant could call.

    Attributes:
        tools: JSON schemas, or all of them as a string; `None` where there are none.
    """

    messages: Messages
    tools: list[Any] | str | None = None


Document: TypeAlias = Any
"""A text or, where these are read, a `Conversation` or a pair of texts; `None` where there is none."""

OneDocument = TypeVar("OneDocument")


@dataclass(frozen=True)
class Layout:
    """Where the documents of a corpus are, and what each is.

    Attributes:
        column: holds the texts or, with `chats`, the conversations; txt has no columns.
        lines: whether each line of a txt is a document.
        chats: whether documents are conversations.
        beside: another column of texts. A document is then a pair of texts, one of each column.
        tools: the column of the tools that the assistant of a conversation could call.
    """

    column: str = "text"
    lines: bool = False
    chats: bool = False
    beside: str | None = None
    tools: str | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return [column for column in (self.column, self.beside, self.tools) if column is not None]

    @property
    def options(self) -> dict[str, str]:
        """What names each column."""
        names = CHATS_OPTION if self.chats else TEXT_OPTION, BESIDE_OPTION, TOOLS_OPTION
        columns = self.column, self.beside, self.tools
        return {column: name for column, name in zip(columns, names, strict=True) if column is not None}

    def holding(self, column: str) -> Holding:
        """What one of these columns has to hold."""
        if column == self.column and self.chats:
            return "messages"
        return "tools" if column == self.tools else "text"

    def document(self, values: Sequence[Any]) -> Document:
        """The document that a row's values in these columns are."""
        if self.chats:
            return Conversation(*values) if values[0] else None
        return values[0] if self.beside is None else tuple(values)


PLAIN_TEXT = Layout()


def are_messages(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) for each in value
    )


def nonblank(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield the texts that hold more than white space, without the white space around them."""
    for text in texts:
        if text and (text := text.strip()):
            yield text


def with_content(documents: Iterable[Document], layout: Layout) -> Iterator[Document]:
    """Yield the documents that hold anything: texts as `nonblank` does, pairs of which both do, or conversations."""
    if layout.beside is not None:
        return nonblank_pairs(documents)
    return filter(None, documents) if layout.chats else nonblank(documents)


def nonblank_pairs(pairs: Iterable[Sequence[str | None]]) -> Iterator[tuple[str, ...]]:
    """Yield the pairs of which both texts hold more than white space, without the white space around them."""
    for pair in pairs:
        if len(texts := tuple(nonblank(pair))) == len(pair):
            yield texts


def characters(document: Document) -> int:
    """How much text a document holds, about."""
    if document is None or isinstance(document, str):
        return len(document or "")
    if isinstance(document, Conversation):
        return len(str(document.tools or "")) + sum(len(str(each.get("content"))) for each in document.messages)
    return sum(map(len, document))


def batches(documents: Iterable[OneDocument], size: int) -> Iterator[list[OneDocument]]:
    """Group documents, be they sentences or books, into lists of about so many characters."""
    batch: list[OneDocument] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += characters(document) + 1
        if length >= size:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
