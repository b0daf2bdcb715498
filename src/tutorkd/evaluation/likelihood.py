"""How likely a causal language model finds the tokens of rows, and how far another one is from it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from tutorkd.evaluation.heldout import NOT_SCORED, Row

_LOGITS_BYTES = 1 << 28  # of a model at once
_MOST_ROWS = 32
_BLOCKS = 8  # in which what formulas need beside the logits is computed


@dataclass(frozen=True)
class Scores:
    """Sums over the scored tokens of each row, (R,) in float64.

    Attributes:
        tokens: how many are scored.
        nats: -log p of them, natural logarithm.
        divergence: KL divergence from the other model's distribution at each, in nats; 0 where there is no other.
    """

    tokens: np.ndarray
    nats: np.ndarray
    divergence: np.ndarray

    @property
    def perplexity(self) -> float:
        """Per token: exp of the mean nats."""
        return float(np.exp(self.nats.sum() / self.tokens.sum()))

    @property
    def divergence_per_token(self) -> float:
        return float(self.divergence.sum() / self.tokens.sum())

    @property
    def divergence_standard_error(self) -> float:
        """Of `divergence_per_token`, a ratio of two sums over rows that are drawn independently; NaN for one row."""
        rows = len(self.tokens)
        deviations = self.divergence - self.divergence_per_token * self.tokens
        variance = (deviations**2).sum() * rows / (rows - 1) if rows > 1 else np.nan
        return float(np.sqrt(variance) / self.tokens.sum())


def vocabulary_size(model: PreTrainedModel) -> int:
    """How many logits a model gives for a token."""
    return model.config.get_text_config().vocab_size


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    rows: Sequence[Row],
    other: PreTrainedModel | None = None,
    positions_at_once: int | None = None,
    tell: Callable[[int], object] = lambda rows: None,
) -> Scores:
    """Score the targets of rows, and with ``other`` also KL(other || model) at each of them.

    Rows of like length go together, padded behind, where a causal model doesn't look. Each model runs over pieces of
    the positions with its cache, so that of each (positions, V) logits are there at once, and no other tensor as large.
    Logarithms are taken in float32, sums over tokens in float64.

    Args:
        other: with the same tokens. Where one model has more logits, unused ones behind its vocabulary, those that
            both have count.
        positions_at_once: of a piece; by default what fits 256 MB of logits in float32.
        tell: called with the number of rows that were scored since.
    """
    models = [model] if other is None else [model, other]
    size = positions_at_once or max(1, _LOGITS_BYTES // (4 * max(map(vocabulary_size, models))))
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
    sums = np.zeros((3, len(rows)))
    while order:
        count = max(1, min(_MOST_ROWS, size // len(rows[order[0]].input_ids)))
        batch, order = order[:count], order[count:]
        sums[:, batch] = _score_batch(models, [rows[index] for index in batch], max(1, size // len(batch)))
        tell(len(batch))
    return Scores(*sums)


def _score_batch(models: Sequence[PreTrainedModel], rows: Sequence[Row], width: int) -> np.ndarray:
    """The sums of `Scores`, (3, R)."""
    shape = (len(rows), len(rows[0].input_ids))
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, NOT_SCORED)
    for number, row in enumerate(rows):
        ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
        targets[number, : len(row.targets)] = torch.tensor(row.targets)
    pieces = [_Pieces(model, shape[1] > width) for model in models]
    sums = torch.zeros(3, len(rows), dtype=torch.float64)
    for piece, asked in zip(ids.split(width, 1), targets.split(width, 1), strict=True):
        sums += _score_piece([each.logits(piece) for each in pieces], asked)
    return sums.numpy()


class _Pieces:
    """A model that reads its rows piece by piece."""

    def __init__(self, model: PreTrainedModel, several: bool):
        self.model = model
        self.options: dict[str, object] = {"use_cache": several}
        if several:
            # transformers is renaming the second to the first
            names = inspect.signature(model.forward).parameters
            self.options["cache" if "cache" in names else "past_key_values"] = DynamicCache(config=model.config)

    def logits(self, ids: Tensor) -> Tensor:
        """(R, n) -> (R, n, V), behind the pieces before."""
        return self.model(input_ids=ids.to(self.model.device), **self.options).logits


def _score_piece(logits: list[Tensor], targets: Tensor) -> Tensor:
    """The sums of `Scores` over a piece, (3, R), of one model's logits or two models', (R, n, V) each."""
    targets = targets.to(logits[0].device)
    common = min(each.shape[-1] for each in logits)
    rows, positions = targets.shape
    figures = []  # read at once, not to wait for a GPU more often
    for row in range(rows):
        for block in torch.arange(positions).split(max(1, positions * rows // _BLOCKS)):
            here = slice(int(block[0]), int(block[-1]) + 1)
            asked = targets[row, here]
            scored = asked != NOT_SCORED
            log_q = logits[0][row, here].float().log_softmax(-1)
            nats = -log_q.gather(-1, asked.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            divergence = torch.zeros_like(nats)
            if len(logits) > 1:
                log_p = logits[1][row, here, :common].float().log_softmax(-1)
                if log_q.shape[-1] > common:
                    log_q = log_q[:, :common].log_softmax(-1)
                divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
            figures.append(torch.stack([scored.to(nats.dtype), nats * scored, divergence * scored]))
    return torch.cat(figures, -1).cpu().double().view(3, rows, positions).sum(-1)
