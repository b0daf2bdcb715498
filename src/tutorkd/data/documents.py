"""What a corpus consists of: texts, or what else is asked for, conversations or pairs of texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

TEXT_OPTION, CHATS_OPTION, BESIDE_OPTION = "text_column", "messages_column", "teacher_text_column"
"""What names the columns of a corpus, as an option of commands and in Python."""

Conversation: TypeAlias = list[dict[str, Any]]
"""Messages, each with its `role` and, as a rule, its `content`."""

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
    """

    column: str = "text"
    lines: bool = False
    chats: bool = False
    beside: str | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return [self.column] if self.beside is None else [self.column, self.beside]

    @property
    def options(self) -> dict[str, str]:
        """What names each column."""
        options = [CHATS_OPTION if self.chats else TEXT_OPTION, BESIDE_OPTION]
        return dict(zip(self.columns, options, strict=False))

    def document(self, values: Sequence[Any]) -> Document:
        """The document that a row's values in these columns are."""
        return values[0] if self.beside is None else tuple(values)


PLAIN_TEXT = Layout()


def is_conversation(value: Any) -> bool:
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
    return sum(len(each) if isinstance(each, str) else len(str(each.get("content"))) for each in document)


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
