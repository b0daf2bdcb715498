"""Rows of words to train on: tokens with the labels of their words, and batches of these."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.evaluation.tags import tokenize_words
from tutorkd.evaluation.task_teacher import LABELLED, SOFT_TARGET

LABELS = "labels"


def tokenize_tagged(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids in place of words, and ``labels`` of tokens, as transformers' run_ner.py has them: at the first piece
    of a word its class code, elsewhere -100.

    Of rows with soft targets, words for which the teacher has no answer are left out, too, and those in SOFT_TARGET
    are of the others, in their order; at words without a label stands 0. Rows in which nothing is left aren't given.

    Raises:
        UserError: if the tokenizer doesn't say which word a piece is of, or no row is left.
    """
    taught = SOFT_TARGET in rows.column_names

    def aligned(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        tokens, places = tokenize_words(tokenizer, batch["text"], max_length)
        labels = [[-100] * len(ids) for ids in tokens["input_ids"]]
        targets: list[list[list[float]]] = [[] for _ in labels]
        for row, first in enumerate(places):
            codes = batch["label"][row] if not taught or batch[LABELLED][row] else [0] * len(batch["text"][row])
            for word, place in first.items():
                if taught:
                    answers = batch[SOFT_TARGET][row]
                    if word >= len(answers) or np.isnan(answers[word][0]):
                        continue
                    targets[row].append(answers[word])
                labels[row][place] = codes[word]
        return {**tokens, LABELS: labels, **({SOFT_TARGET: targets} if taught else {})}

    replaced = [name for name in rows.column_names if name != LABELLED]
    settings: dict[str, Any] = {"batched": True, "keep_in_memory": True, "desc": "tokenising"}
    tokens = rows.map(aligned, remove_columns=replaced, **settings)
    kept = tokens.filter(lambda labels: max(labels) >= 0, input_columns=LABELS, keep_in_memory=True)
    if not len(kept):
        raise UserError("no row to train on has a word of which the tokenizer leaves a token")
    return kept


class TaggedRowsCollator:
    """Rows of ``tokenize_tagged`` to batches: (rows, tokens), labels padded with -100, and soft targets of the words of
    all rows, one after the other, (words, classes).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._pad = DataCollatorForTokenClassification(tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        targets = [target for row in rows for target in row.get(SOFT_TARGET, [])]
        batch = self._pad([{name: value for name, value in row.items() if name != SOFT_TARGET} for row in rows])
        return {**batch, **({SOFT_TARGET: torch.tensor(targets)} if targets else {})}
