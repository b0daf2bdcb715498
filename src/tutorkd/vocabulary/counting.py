"""How often a text has each token, and how many of them are to stay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tutorkd.data import PackedCorpus, prepare_corpus
from tutorkd.errors import UserError
from tutorkd.pretraining.named_text import NamedText
from tutorkd.vocabulary.arguments import TrimArguments
from tutorkd.vocabulary.report import Choice

# As adapt and distill read a text unless they are told otherwise, so that they find it read.
_ROW, _HELDOUT = 128, 0.01
_ROWS_AT_ONCE = 10_000
_SMALLEST = 1_000  # of the vocabularies that a dry run tells of


def read_text(text: NamedText, tokenizer: PreTrainedTokenizerBase) -> PackedCorpus:
    """The text as rows of ids.

    Raises:
        UserError: as ``prepare_corpus``.
    """
    return prepare_corpus(
        text.corpus,
        tokenizer,
        **text.reading,
        max_length=min(_ROW, tokenizer.model_max_length),
        heldout=_HELDOUT,
        framed=None not in (tokenizer.cls_token_id, tokenizer.sep_token_id),
        cache_dir=text.cache_dir,
    )


def token_counts(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """How often each token stands in rows, special ones aside, (ids,)."""
    ids = 1 + max(tokenizer.get_vocab().values())
    counts = np.zeros(ids, np.int64)
    for batch in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
        counts += np.bincount(batch["input_ids"].combine_chunks().flatten().to_numpy(), minlength=ids)
    counts[tokenizer.all_special_ids] = 0
    return counts


class Ranking(NamedTuple):
    """The tokens of a text in the order in which they are kept, and what any number of the first makes up.

    Attributes:
        order: ids, as ``ranked_tokens`` gives them, (tokens,).
        fixed: how many of the first always stay.
        shares: of the text's tokens that the first 1, 2, ... are, (tokens,).
        heldout_shares: the same of held-out text; None where there is none.
    """

    order: np.ndarray
    fixed: int
    shares: np.ndarray
    heldout_shares: np.ndarray | None

    @classmethod
    def of(cls, order: np.ndarray, fixed: int, counts: np.ndarray, heldout_counts: np.ndarray) -> Ranking:
        """The same from counts of each id in the text and in held-out text, (ids,)."""
        shares, unseen = (np.cumsum(each[order]) / max(1, each.sum()) for each in (counts, heldout_counts))
        return cls(order, fixed, shares, unseen if heldout_counts.any() else None)

    def choice(self, size: int) -> Choice:
        """What a vocabulary of so many tokens keeps."""
        unseen = None if self.heldout_shares is None else float(self.heldout_shares[size - 1])
        return Choice(size, float(self.shares[size - 1]), unseen)

    def size(self, args: TrimArguments) -> int:
        """How many tokens stay.

        Raises:
            UserError: if fewer are asked for than must stay.
        """
        if args.vocab_size is None:  # the sum of all shares may fall short of 1 by rounding
            enough = 1 + int(np.searchsorted(self.shares, args.coverage - 1e-12))
            return min(max(self.fixed, enough), len(self.order))
        if args.vocab_size < self.fixed:
            raise UserError(
                f"vocab_size can't be {args.vocab_size:,}: {self.fixed:,} tokens must stay (special ones, single bytes)"
            )
        return min(args.vocab_size, len(self.order))

    def sizes(self, chosen: int) -> list[int]:
        """Sizes to choose from: round ones, each twice the one before, the chosen one, and all tokens of the text."""
        round_ones = [_SMALLEST << power for power in range((len(self.order) // _SMALLEST).bit_length())]
        return sorted({*(size for size in round_ones if size >= self.fixed), chosen, len(self.order)})
