"""Which tokens of a tokenizer stay, and the tokenizer that has these alone."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.vocabulary.pieces import always_kept, ids_of, parts_of, places_of, trimmed_state


def ranked_tokens(
    tokenizer: PreTrainedTokenizerBase, counts: np.ndarray, needed: Iterable[int] = ()
) -> tuple[np.ndarray, int]:
    """The tokens of a text in the order in which they are kept: any number of the first is a vocabulary by itself.

    At the front stand those that always stay (see ``pieces.always_kept``). The others follow by how many tokens of the
    text are made of them, themselves included. So letters come before the words that they spell, and what a token that
    is left out is made of is likely to be there.

    Args:
        tokenizer: a fast one.
        counts: how often each id stands in the text, (ids,).
        needed: ids of other tokens that must stay, with what they are made of.

    Returns:
        Ids, and how many of the first always stay.

    Raises:
        UserError: as ``pieces.parts_of``.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ids, parts = ids_of(state), parts_of(state)
    names = {number: token for token, number in ids.items()}
    found_whole = always_kept(state) | {*tokenizer.all_special_ids}
    wanted = ({*needed} & names.keys()) - found_whole
    wanted |= {ids[part] for number in wanted for part in parts(names[number])}  # without which it is never formed
    always = sorted((found_whole | wanted) & names.keys())
    uses: Counter[int] = Counter()
    for number in map(int, np.flatnonzero(counts)):
        if number in names:
            for part in {number, *(ids[part] for part in parts(names[number]))}:
                uses[part] += int(counts[number])
    # A token has no more uses than its parts, which are shorter.
    ranked = sorted(uses.keys() - {*always}, key=lambda number: (-uses[number], len(names[number]), number))
    return np.array([*always, *ranked]), len(always)


def chat_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that a tokenizer's chat template puts around messages, such as the names of the roles."""
    asked, answered = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}
    found: set[int] = set()
    for chat in ([asked, answered, asked], [{"role": "system", "content": "a"}, asked]):
        with suppress(Exception):  # templates are anybody's code: one may refuse a role, or there is none
            text = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
            found.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    return found


def trimmed_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: np.ndarray) -> PreTrainedTokenizerBase:
    """A tokenizer like another one that has some of its tokens alone.

    A text is cut as before wherever all of its tokens stay.

    Args:
        kept: ids of the tokens that stay, as ``ranked_tokens`` gives them, in rising order; the new ids are their
            places.

    Raises:
        UserError: if the smaller vocabulary can't be told in the tokenizer's terms.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    new_ids = places_of(kept)
    expected = {token: new_ids[old] for token, old in ids_of(state).items() if old in new_ids}
    backend = Tokenizer.from_str(json.dumps(trimmed_state(state, new_ids)))
    if backend.get_vocab(with_added_tokens=True) != expected:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} can't be trimmed: tokens would get other ids")
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = backend
    return trimmed
