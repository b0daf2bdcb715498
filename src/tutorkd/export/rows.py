"""Rows to hold an exported model against its original on."""

from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from tutorkd.data.packing import nonblank
from tutorkd.data.readers import naming
from tutorkd.data.sources import no_text, resolve_source
from tutorkd.errors import UserError
from tutorkd.evaluation.labelled import column_options, load_labelled, read_rows, text_columns
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.check import Rows
from tutorkd.export.source import Source

_COUNT = 64
_SHORTEST_RANDOM = 8
_SEED = 0


class CheckedOn(NamedTuple):
    """Tokenised rows, class codes where they have any, and in words what they are."""

    rows: Rows
    labels: np.ndarray | None
    words: str


def check_given(args: ExportArguments) -> None:
    """See that the rows that are named can be read, which needn't wait for the model.

    Raises:
        UserError: if they aren't there, or lack a column.
    """
    if args.validation is not None:
        options = column_options(args.text_column, args.text_pair_column, args.label_column)
        with naming(options):
            read_rows(args.validation, "validation", list(options))
    elif args.texts is not None:
        next(resolve_source(args.texts).stream(args.text_column), None)


def rows_to_check_on(args: ExportArguments, source: Source) -> CheckedOn:
    """The labelled rows, the first documents of the text, or random tokens.

    Raises:
        UserError: if there are no such rows, or their labels aren't the model's classes.
    """
    max_length = min(args.max_length, source.longest or args.max_length)
    rows, labels, words = _rows(args, source, max_length)
    return CheckedOn(rows, labels, f"{words}, cut at {max_length} tokens")


def _rows(args: ExportArguments, source: Source, max_length: int) -> tuple[Rows, np.ndarray | None, str]:
    tokenizer = source.tokenizer
    if args.validation is not None:
        return _labelled(args, tokenizer, max_length, source.row_classes)
    if args.texts is None:
        rows = _random(tokenizer, max_length)
        return rows, None, f"{len(rows)} rows of random tokens"
    documents = list(islice(nonblank(resolve_source(args.texts).stream(args.text_column)), _COUNT))
    if not documents:
        raise no_text(args.texts)
    return _tokenised(tokenizer, max_length, documents), None, f"the first {len(documents)} documents of the text"


def _labelled(
    args: ExportArguments, tokenizer: PreTrainedTokenizerBase, max_length: int, classes: list[str] | None
) -> tuple[Rows, np.ndarray, str]:
    assert args.validation is not None
    if classes is None:
        raise UserError(f"{args.model} doesn't classify rows, so --validation can't be answered; give --texts")
    data = load_labelled(args.validation, "validation", args.text_column, args.text_pair_column, args.label_column)
    names = data.features["label"].int2str(data["label"][:])
    codes = {name: code for code, name in enumerate(classes)}
    if not set(names) <= codes.keys():
        codes = {str(code): code for code in range(len(classes))}  # data that give numbers
    if unknown := sorted(set(names) - codes.keys()):
        raise UserError(
            f"{args.validation} has the label {unknown[0]}; the classes of {args.model} are {', '.join(classes)} "
            f"(0 to {len(classes) - 1})"
        )
    rows = _tokenised(tokenizer, max_length, *text_columns(data))
    return rows, np.array([codes[name] for name in names]), f"{len(rows):,} labelled rows"


def _tokenised(tokenizer: PreTrainedTokenizerBase, max_length: int, *texts: list[str]) -> list[dict[str, Any]]:
    tokens = tokenizer(*texts, truncation=True, max_length=max_length)
    return [{name: tokens[name][row] for name in tokens} for row in range(len(texts[0]))]


def _random(tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """Rows of words of the vocabulary, of 8 tokens and more, between the special tokens."""
    generator = np.random.default_rng(_SEED)
    special = set(tokenizer.all_special_ids)
    words = [token for token in range(len(tokenizer)) if token not in special]
    rows = []
    for length in generator.integers(_SHORTEST_RANDOM, max_length + 1, _COUNT):
        ids = [tokenizer.cls_token_id, *generator.choice(words, length - 2).tolist(), tokenizer.sep_token_id]
        ids = [token for token in ids if token is not None]  # some tokenizers lack one or both
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)})
    return rows
