"""What a corpus consists of: texts, or conversations where these are asked for."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

Conversation: TypeAlias = list[dict[str, Any]]
"""Messages, each with its `role` and, as a rule, its `content`."""

Document: TypeAlias = Any
"""A text, or a `Conversation` where these are read; `None` where there is none."""

OneDocument = TypeVar("OneDocument")


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


def with_content(documents: Iterable[Document], chats: bool) -> Iterator[Document]:
    """Yield the documents that hold anything: texts as `nonblank` does or, with `chats`, conversations."""
    return filter(None, documents) if chats else nonblank(documents)


def characters(document: Document) -> int:
    """How much text a document holds, about."""
    if document is None or isinstance(document, str):
        return len(document or "")
    return sum(len(str(message.get("content"))) for message in document)


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
