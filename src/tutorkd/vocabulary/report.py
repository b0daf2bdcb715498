"""What ``tutorkd trim`` says: the vocabularies to choose from, and what came of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tutorkd.pretraining.corpus import NOTABLE
from tutorkd.tables import aligned

if TYPE_CHECKING:
    from tutorkd.data import PackedCorpus

_FEW = 0.02  # of held-out tokens that are spelled anew, beside what was asked for


class Choice(NamedTuple):
    """A number of tokens, and the shares of the tokens of the text, and of held-out text, that they are."""

    tokens: int
    share: float
    heldout_share: float | None


class Trimmed(NamedTuple):
    """A model before or after it is trimmed, and the text as its tokenizer cuts it."""

    tokens: int
    parameters: int
    bytes: int
    text: PackedCorpus


def choices_table(rows: Sequence[tuple[Choice, int]], chosen: int, whole: tuple[int, int], fixed: int) -> str:
    """Vocabularies of several sizes, each with the parameters of the model that has it; as Markdown.

    Args:
        chosen: the size that the options ask for.
        whole: tokens and parameters of the model as it is.
        fixed: how many tokens stay in any case.
    """
    headings = ["tokens", "kept of the text", "of held-out text", "parameters", ""]
    cells = [
        [
            f"{choice.tokens:,}",
            f"{choice.share:.2%}",
            "" if choice.heldout_share is None else f"{choice.heldout_share:.2%}",
            _millions(parameters),
            "as asked for" if choice.tokens == chosen else "",
        ]
        for choice, parameters in rows
    ]
    cells.append([f"{whole[0]:,}", "", "", _millions(whole[1]), "the model as it is"])
    return (
        f"{aligned(headings, cells, words=0, last_word=True)}\n\n"
        f"{fixed:,} tokens stay in any case (special ones, single bytes, those of prompts and of a chat template). "
        "Tokens that aren't kept are spelled with smaller ones, or unknown if these aren't kept either."
    )


def outcome(name: str, choice: Choice, before: Trimmed, after: Trimmed, asked: int | None) -> str:
    """A model before and after, as Markdown.

    Args:
        asked: number of tokens that was asked for, if any.
    """
    headings = ["model", "tokens", "parameters", "size", "tokens of the text", "unknown"]
    cells = [
        [
            what,
            f"{each.tokens:,}",
            _millions(each.parameters),
            f"{each.bytes / 1e6:.1f} MB",
            f"{each.text.tokens:,}",
            f"{_unknown(each.text):.3%}",
        ]
        for what, each in ((name, before), ("trimmed", after))
    ]
    lines = [f"{choice.share:.2%} of the text's tokens stay as they are, and are read as before."]
    if choice.heldout_share is None:
        lines.append("There was no text to hold out, so nothing is known of other text.")
    else:
        lines.append(f"Of held-out text they are {choice.heldout_share:.2%}.")
        if choice.share - choice.heldout_share > _FEW:
            lines.append("That is clearly less: with more text of the same kind, the choice would be better.")
    unknown, of_whole = _unknown(after.text), _unknown(before.text)
    if of_whole >= NOTABLE:
        lines.append(
            f"The model itself doesn't know {of_whole:.1%} of the text's tokens: is it made for this language?"
        )
    elif unknown >= NOTABLE:
        lines.append(
            f"But {unknown:.1%} of the trimmed model's tokens are unknown: with more tokens they would be fewer."
        )
    if asked is not None and asked > choice.tokens:
        lines.append(f"The text has no more tokens than that, so there are {choice.tokens:,} and not {asked:,}.")
    return f"{aligned(headings, cells, words=1)}\n\n{' '.join(lines)}"


def _unknown(text: PackedCorpus) -> float:
    total = sum(part.tokens or 0 for part in text.corpora)
    return sum(part.unknown_share * (part.tokens or 0) for part in text.corpora) / total


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"
