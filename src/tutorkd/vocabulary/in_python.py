"""``trim_vocabulary``: what ``tutorkd trim`` does, for a model and a tokenizer at hand."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.data import PackedCorpus
from tutorkd.vocabulary.arguments import COVERAGE
from tutorkd.vocabulary.counting import Ranking
from tutorkd.vocabulary.embeddings import trim_embeddings
from tutorkd.vocabulary.tokenizer import trimmed_tokenizer


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: PackedCorpus,
    vocab_size: int | None = None,
    coverage: float = COVERAGE,
) -> PreTrainedTokenizerBase:
    """Leave a model the tokens that a text uses: rows of its embeddings and of its head.

    To text of these tokens it then gives the same answers as before. Tokens that are left out are spelled with smaller
    ones. Known as vocabulary trimming (Abdaoui et al., SustaiNLP 2020; Ushio et al., EMNLP Findings 2023).

    Args:
        model: of any kind; it is changed.
        tokenizer: the model's, a fast one; it stays as it is.
        corpus: the text, of this tokenizer, as ``prepare_corpus`` gives it, not streamed.
        vocab_size: how many tokens stay; by default as many as ``coverage`` asks for.
        coverage: share of the text's tokens that stay as they are, from 0 to 1.

    Returns:
        The tokenizer of the tokens that stay.

    Raises:
        UserError: if fewer tokens are asked for than must stay (special ones, single bytes), or a model or tokenizer of
            this kind can't be trimmed.

    Example:
        A model and its tokenizer of 100 tokens lie in the folder "teacher", and text in "my_text".

        >>> from transformers import AutoModelForMaskedLM, AutoTokenizer
        >>> from tutorkd import prepare_corpus, trim_vocabulary
        >>> model, tokenizer = AutoModelForMaskedLM.from_pretrained("teacher"), AutoTokenizer.from_pretrained("teacher")
        >>> corpus = prepare_corpus("my_text/", tokenizer, max_length=16)
        >>> trimmed = trim_vocabulary(model, tokenizer, corpus, vocab_size=40)
        >>> len(trimmed), model.config.vocab_size
        (40, 40)
    """
    ranking = Ranking.of(model, tokenizer, corpus)
    kept = ranking.kept(ranking.size(vocab_size, coverage))
    trimmed = trimmed_tokenizer(tokenizer, kept)
    trim_embeddings(model, kept)
    return trimmed
