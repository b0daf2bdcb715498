"""What the tokens of a vocabulary are made of, and which of them a tokenizer can't do without."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from tutorkd.errors import UserError

State = dict[str, Any]  # of a tokenizer, as its tokenizer.json has it
Parts = Callable[[str], list[str]]


def places_of(kept: np.ndarray) -> dict[int, int]:
    """The new ids of the tokens that stay, which are the places of their old ones."""
    return {int(old): new for new, old in enumerate(kept)}


def ids_of(state: State) -> dict[str, int]:
    """The ids of a tokenizer's tokens, added ones included."""
    vocabulary = state["model"]["vocab"]
    if state["model"]["type"] == "Unigram":
        vocabulary = {token: place for place, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{added["content"]: added["id"] for added in state["added_tokens"]}}


def parts_of(state: State) -> Parts:
    """A function that gives the smaller tokens that a token is made of, each behind those that it is made of itself.

    In byte-pair encoding they are those that the merges join on the way to it, without which it is never formed. For
    the other kinds they are its characters, so that a word of the same letters is spelled and not unknown.

    Raises:
        UserError: for a kind of tokenizer whose tokens it doesn't know how to part.
    """
    model, there = state["model"], ids_of(state)
    kind = model["type"]
    if kind == "BPE":
        if model["continuing_subword_prefix"]:
            raise _unlike("byte-pair encoding with a prefix of continuing tokens")
        ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
        suffix = model["end_of_word_suffix"] or ""
        return lambda token: [part for part in _merged(token, ranks, suffix) if part in there]
    if kind == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        return lambda token: [
            part for letter in token.removeprefix(prefix) for part in (letter, prefix + letter) if part in there
        ]
    if kind == "Unigram":
        return lambda token: [letter for letter in token if letter in there]
    if kind == "WordLevel":
        return lambda token: []
    raise _unlike(f"a tokenizer of the kind {kind}")


def _unlike(what: str) -> UserError:
    return UserError(f"{what} can't be trimmed; BPE, WordPiece, Unigram and WordLevel can")


def _merged(token: str, ranks: Mapping[tuple[str, str], int], suffix: str) -> list[str]:
    """Characters and longer parts of a token in the order in which byte-pair encoding forms them."""
    symbols = list(token.removesuffix(suffix) if suffix else token)
    if suffix and token.endswith(suffix):
        symbols = [*symbols[:-1], "".join(symbols[-1:]) + suffix]
    formed = list(symbols)
    while len(symbols) > 1:
        pairs = [(ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not pairs:
            break
        _, place = min(pairs)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        formed.append(symbols[place])
    return formed


def always_kept(state: State) -> set[int]:
    """Ids of the tokens that stay whatever the text: special and added ones, the unknown token, single bytes.

    Of a Unigram tokenizer also those ahead of the unknown token, by whose place transformers finds it.
    """
    model, ids = state["model"], ids_of(state)
    kept = {added["id"] for added in state["added_tokens"]}
    kept |= _ids_in(state["post_processor"])
    if model["type"] == "Unigram":
        kept |= set(range((model["unk_id"] if model["unk_id"] is not None else -1) + 1))
    else:
        kept |= {ids[token] for token in [model.get("unk_token")] if token in ids}
    if "ByteLevel" in json.dumps([state["pre_tokenizer"], state["normalizer"]]):
        kept |= {ids[letter] for letter in ByteLevel.alphabet() if letter in ids}
    if model.get("byte_fallback"):
        kept |= {ids[byte] for byte in (f"<0x{number:02X}>" for number in range(256)) if byte in ids}
    return kept


def _ids_in(processor: Any) -> set[int]:
    """Ids that a post-processor puts around texts."""
    found: set[int] = set()

    def seen(token: int) -> int:
        found.add(token)
        return token

    _renumbered(processor, seen)
    return found


def _renumbered(processor: Any, new: Callable[[int], int]) -> Any:
    """A post-processor with other ids for its tokens."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_renumbered(each, new) for each in processor["processors"]]}
    changed = dict(processor)
    for end in {"cls", "sep"} & changed.keys():  # BERT's and RoBERTa's
        token, number = changed[end]
        changed[end] = [token, new(number)]
    if "special_tokens" in changed:  # templates
        changed["special_tokens"] = {
            name: {**special, "ids": [new(number) for number in special["ids"]]}
            for name, special in changed["special_tokens"].items()
        }
    return changed


def trimmed_state(state: State, new_ids: Mapping[int, int]) -> State:
    """The state of a tokenizer of some of the tokens.

    Args:
        state: of the whole tokenizer.
        new_ids: the ids of the tokens that stay, and their new ones, in the same order and without gaps.
    """
    model = dict(state["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for place, entry in enumerate(model["vocab"]) if place in new_ids]
        if model["unk_id"] is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {token: new_ids[old] for token, old in model["vocab"].items() if old in new_ids}
    if model["type"] == "BPE":
        there = model["vocab"]
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if left in there and right in there and left + right in there
        ]
    padding = state["padding"]
    if padding is not None:
        padding = {**padding, "pad_id": new_ids[padding["pad_id"]]}
    return {
        **state,
        "model": model,
        "added_tokens": [{**added, "id": new_ids[added["id"]]} for added in state["added_tokens"]],
        "post_processor": _renumbered(state["post_processor"], lambda token: new_ids[token]),
        "padding": padding,
    }
