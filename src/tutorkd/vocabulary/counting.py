"""How often a text has each token, and how many of them are to stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.data import PackedCorpus, prepare_corpus
from tutorkd.errors import UserError
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.pretraining.named_text import NamedText
from tutorkd.vocabulary.arguments import COVERAGE
from tutorkd.vocabulary.embeddings import check_table, named_ids
from tutorkd.vocabulary.report import Choice
from tutorkd.vocabulary.tokenizer import chat_ids, ranked_tokens

_LONGEST_CHAT = 1 << 20  # tokens
_ROWS_AT_ONCE = 10_000
_SMALLEST = 1_000  # of the vocabularies that a dry run tells of


def read_text(text: NamedText, tokenizer: PreTrainedTokenizerBase) -> PackedCorpus:
    """The text as rows of ids, as adapt and distill read it unless they are told otherwise, so that they find it read.

    Of conversations all tokens count, however long they are.

    Raises:
        UserError: as ``prepare_corpus``.
    """
    return prepare_corpus(
        text.corpus,
        tokenizer,
        **text.reading,
        max_length=min(
            CorpusArguments.max_length if text.messages_column is None else _LONGEST_CHAT, tokenizer.model_max_length
        ),
        heldout=CorpusArguments.heldout,
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
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        corpus: PackedCorpus,
        needed: Iterable[int] = (),
    ) -> Ranking:
        """The ranking of a model's tokens in a text.

        Args:
            needed: ids of tokens that must stay, beside those that the model's configuration names or a chat has.

        Raises:
            UserError: if the text has none of them, or model and tokenizer can't be trimmed.
        """
        counts, unseen = (token_counts(rows, tokenizer) for rows in (corpus.train, corpus.heldout))
        check_table(model, len(counts))
        if not counts.any():
            raise UserError("the text has no token that the model knows")
        order, fixed = ranked_tokens(tokenizer, counts, named_ids(model).union(needed, chat_ids(tokenizer)))
        shares, of_unseen = (np.cumsum(each[order]) / max(1, each.sum()) for each in (counts, unseen))
        return cls(order, fixed, shares, of_unseen if unseen.any() else None)

    def choice(self, size: int) -> Choice:
        """What a vocabulary of so many tokens keeps."""
        unseen = None if self.heldout_shares is None else float(self.heldout_shares[size - 1])
        return Choice(size, float(self.shares[size - 1]), unseen)

    def size(self, vocab_size: int | None, coverage: float | None) -> int:
        """How many tokens stay: so many, or as many as make up this share of the text (by default ``COVERAGE``).

        Raises:
            UserError: if fewer are asked for than must stay.
        """
        if vocab_size is None:  # the sum of all shares may fall short of 1 by rounding
            enough = 1 + int(np.searchsorted(self.shares, (coverage or COVERAGE) - 1e-12))
            return min(max(self.fixed, enough), len(self.order))
        if vocab_size < self.fixed:
            raise UserError(
                f"vocab_size can't be {vocab_size:,}: {self.fixed:,} tokens must stay (special ones, single bytes, "
                "those of prompts and of a chat template)"
            )
        return min(vocab_size, len(self.order))

    def kept(self, size: int) -> np.ndarray:
        """The ids of the tokens that stay, in rising order."""
        return np.sort(self.order[:size])

    def sizes(self, chosen: int) -> list[int]:
        """Sizes to choose from: round ones, each twice the one before, the chosen one, and all tokens of the text."""
        round_ones = [_SMALLEST << power for power in range((len(self.order) // _SMALLEST).bit_length())]
        return sorted({*(size for size in round_ones if size >= self.fixed), chosen, len(self.order)})
