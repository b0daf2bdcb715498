"""The likeliest next tokens by a teacher that was asked before, on their way from rows to a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutorkd.errors import UserError

IDS, LOG_PROBABILITIES = "likeliest_ids", "likeliest_log_probabilities"
"""The columns of rows: of each token but the first that the student is asked about (in a conversation, of each token of
an answer) the K likeliest ids, (n, K), and the log-probabilities of these and of all other tokens together, (n, K + 1).
"""


def of_rows(rows: Sequence[dict[str, Any]], asked: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """What rows have in these columns.

    Args:
        asked: (B, L) bool, the P positions of padded rows that the batch asks about.

    Returns:
        Ids (P, K) and log-probabilities (P, K + 1) float32; on padding anything stands.

    Raises:
        UserError: a row doesn't have K tokens for each token that is asked about.
    """
    ids = np.zeros((int(asked.sum()), k), np.int64)
    logs = np.full((len(ids), k + 1), -np.log(k + 1), np.float32)
    starts = np.cumsum(asked.sum(-1)) - asked.sum(-1)
    for row, start, here in zip(rows, starts, asked, strict=True):
        known = np.asarray(row[IDS]), np.asarray(row[LOG_PROBABILITIES])
        wanted = int(here[: len(row["input_ids"])].sum())
        if [each.shape for each in known] != [(wanted, k), (wanted, k + 1)]:
            raise UserError(
                f"a row of which {wanted} tokens are learned has {IDS} of the shape {known[0].shape} and "
                f"{LOG_PROBABILITIES} of {known[1].shape}, not {(wanted, k)} and {(wanted, k + 1)}: they must be made "
                "of these rows with this teacher_top_k"
            )
        ids[start : start + wanted], logs[start : start + wanted] = known
    return torch.from_numpy(ids), torch.from_numpy(logs)


def fabricated(count: int, k: int) -> dict[str, np.ndarray]:
    """These columns of a row that is only measured, of so many tokens that are learned."""
    ids = np.tile(np.arange(k), (count, 1))
    return {IDS: ids, LOG_PROBABILITIES: np.full((count, k + 1), -np.log(k + 1), np.float16)}
