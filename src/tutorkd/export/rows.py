"""Rows to hold an exported model against its original on."""

from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from tutorkd.data.columns import read_rows
from tutorkd.data.documents import Layout, nonblank
from tutorkd.data.readers import naming
from tutorkd.data.sources import no_text, resolve_source
from tutorkd.evaluation.labelled import column_options
from tutorkd.export.arguments import SHORTEST, ExportArguments
from tutorkd.export.check import Rows
from tutorkd.export.labelled import Scores, labelled_rows
from tutorkd.export.source import Source

_COUNT = 64
_SEED = 0


class CheckedOn(NamedTuple):
    """Tokenised rows, the scores of outputs for them where they have labels, and in words what they are."""

    rows: Rows
    scores: Scores | None
    words: str


def check_given(args: ExportArguments) -> None:
    """See that the rows that are named can be read, which needn't wait for the model.

    Raises:
        UserError: if they aren't there, or lack a column.
    """
    if args.validation is not None:
        options = column_options(*args.labelled_columns)
        with naming(options):
            read_rows(args.validation, "validation", list(options))
    elif args.texts is not None:
        next(resolve_source(args.texts, layout=Layout(args.text_column)).stream(), None)


def rows_to_check_on(args: ExportArguments, source: Source) -> CheckedOn:
    """The labelled rows, the first documents of the text, or random tokens.

    Raises:
        UserError: if there are no such rows, or their labels aren't the model's classes.
    """
    max_length = min(args.max_length, source.longest or args.max_length)
    rows, scores, words = _rows(args, source, max_length)
    return CheckedOn(rows, scores, f"{words}, cut at {max_length} tokens")


def _rows(args: ExportArguments, source: Source, max_length: int) -> tuple[Rows, Scores | None, str]:
    tokenizer = source.tokenizer
    if args.validation is not None:
        rows, scores = labelled_rows(args, source, max_length)
        return rows, scores, f"{len(rows):,} labelled rows"
    if args.texts is None:
        rows = _random(tokenizer, max_length)
        return rows, None, f"{len(rows)} rows of random tokens"
    text = resolve_source(args.texts, layout=Layout(args.text_column))
    documents = list(islice(nonblank(text.stream()), _COUNT))
    if not documents:
        raise no_text(text)
    return _tokenised(tokenizer, max_length, documents), None, f"the first {len(documents)} documents of the text"


def _tokenised(tokenizer: PreTrainedTokenizerBase, max_length: int, texts: list[str]) -> list[dict[str, Any]]:
    tokens = tokenizer(texts, truncation=True, max_length=max_length)
    return [{name: tokens[name][row] for name in tokens} for row in range(len(texts))]


def _random(tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """Rows of words of the vocabulary, of 8 tokens and more, between the special tokens."""
    generator = np.random.default_rng(_SEED)
    special = set(tokenizer.all_special_ids)
    words = [token for token in range(len(tokenizer)) if token not in special]
    rows = []
    for length in generator.integers(SHORTEST, max_length + 1, _COUNT):
        ids = [tokenizer.cls_token_id, *generator.choice(words, length - 2).tolist(), tokenizer.sep_token_id]
        ids = [token for token in ids if token is not None]  # some tokenizers lack one or both
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)})
    return rows
