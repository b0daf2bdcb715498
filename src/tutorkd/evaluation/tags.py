"""Labels of words: which pieces of a tokenised row they stand at, and the entities that they spell."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from transformers import BatchEncoding, PreTrainedTokenizerBase

from tutorkd.errors import UserError

_BEGIN, _END = ("B", "S", "U"), ("E", "S", "L")
_MARKS = {"I", *_BEGIN, *_END}


def tokenize_words(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[str]], max_length: int
) -> tuple[BatchEncoding, list[dict[int, int]]]:
    """Token ids of rows of words, cut at ``max_length`` tokens, and for each row the place of each word's first piece.

    A word that is cut off, or of which the tokenizer leaves nothing, has no place. Each stands behind a space, as in a
    text, where that makes a difference to the tokenizer.

    Raises:
        UserError: if the tokenizer doesn't say which word a piece is of.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{tokenizer.name_or_path}: a {type(tokenizer).__name__} doesn't say which word a token belongs to, which "
            "labels of words need; take a model with a tokenizer.json"
        )
    space = " " * _lacks_spaces(tokenizer)
    words = [[space + word for word in row] for row in rows]
    tokens = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    places: list[dict[int, int]] = []
    for row in range(len(rows)):
        first: dict[int, int] = {}
        for place, word in enumerate(tokens.word_ids(row)):
            if word is not None:
                first.setdefault(word, place)
        places.append(first)
    return tokens, places


def _lacks_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words have other pieces alone than in a text, unless they are given with the space before them.

    So it is with tokenizers of bytes, for which that space is a part of the word, and which weren't told to add it.
    """
    text = tokenizer("a a", add_special_tokens=False)["input_ids"]
    alone, spaced = (
        tokenizer([[word]], is_split_into_words=True, add_special_tokens=False)["input_ids"][0] for word in ("a", " a")
    )
    return alone != spaced == text[-len(spaced) :]


class Entity(NamedTuple):
    """A run of words of one kind, from the first to the one behind the last."""

    kind: str
    first: int
    end: int


def entities(labels: Sequence[str]) -> set[Entity]:
    """The entities of a row by the labels of its words, as the evaluation of CoNLL-2000 and seqeval find them.

    ``O`` is none; ``B-`` (also ``S-``, ``U-``) begins one and ``E-`` (``S-``, ``L-``) ends one; ``I-`` goes on with one
    of its kind, or else begins it. These letters alone are of one kind that has no name. Any other label without such a
    beginning goes on as ``I-`` does.

    Source: Tjong Kim Sang and Buchholz, "Introduction to the CoNLL-2000 Shared Task: Chunking", 2000.
    """
    found, first = set(), 0
    parts = [("O", ""), *map(_parts, labels), ("O", "")]
    for word, ((before, kind_before), (mark, kind)) in enumerate(pairwise(parts)):
        if kind == kind_before and mark not in _BEGIN and before not in _END:
            continue  # and outside of any it goes on being outside
        if kind_before:
            found.add(Entity(kind_before, first, word))
        first = word
    return found


def _parts(label: str) -> tuple[str, str]:
    """What a label says of the border, and the kind of entity, "" of none."""
    mark, dash, kind = label.partition("-")
    if label == "O":
        return "O", ""
    return (mark, kind or "_") if len(mark) == 1 and (dash or mark in _MARKS) else ("I", label)
