"""What causal models say of the next token at all positions, compared some positions at a time.

Of the logits (P, V) over all P positions the teacher's are there whole, in its number format; the student's are made in
parts, of which the gradient is kept. No more than these two are ever there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.divergence import Divergence, divergence, top_and_rest
from tutorkd.probe import IGNORED, KL_TO_TEACHER, LOSS, PERPLEXITY, HeldOut, causal_metrics
from tutorkd.reader import Ask, Reader
from tutorkd.step import LOSS_AXIS, Figure
from tutorkd.teacher import Teacher

DIVERGENCE = Figure("loss_divergence", "L_div", LOSS_AXIS)

AT_ONCE = 1024  # positions whose logits of the student are there at once
_WITHOUT_LOGITS = Ask(logits=False)


DIVERGENCE_HELP = {
    "help": "How distributions are compared: by forward KL (word-level KD), reverse KL (MiniLLM), Jensen-Shannon (GKD) "
    "or skew KL (DistiLLM)."
}


@dataclass
class DivergenceSettings:
    """How a student's next-token distributions are compared with the teacher's."""

    divergence: Divergence = field(default="skew-kl", metadata=DIVERGENCE_HELP)
    skew: float = field(
        default=0.1, metadata={"help": "Share of the teacher in the skew KL's mixture (DistiLLM), 0 to below 1."}
    )


class Asked(NamedTuple):
    """The tokens that a causal model is asked about."""

    positions: Tensor  # (P,), flat: of the answers or, in text, all but the first of each row
    ids: Tensor  # (P,), what stands there
    weights: Tensor  # (P,), 1, and 0 on padding

    @classmethod
    def of(cls, batch: Batch, input_ids: Tensor) -> "Asked":
        """Of rows of the shape of a batch, (B, L)."""
        positions = batch.predicted_positions
        return cls(positions, input_ids.flatten()[positions], batch.mask.flatten()[positions].float())


class Targets(NamedTuple):
    """What a teacher says at the positions that are asked about."""

    logits: Tensor  # (P, V); of the likeliest tokens and of all others together, (P, K + 1)
    ids: Tensor | None = None  # (P, K), the likeliest tokens

    @classmethod
    def of(cls, batch: Batch, asked: Asked, teacher: Teacher | None) -> "Targets":
        """What the rows know of the teacher, or what it says now, if they know nothing."""
        if batch.likeliest_log_probabilities is not None:
            return cls(batch.likeliest_log_probabilities, batch.likeliest_ids)
        assert teacher is not None
        return cls(teacher(batch.input_ids, batch.attention_mask, positions=asked.positions).logits)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are, (P, ...) each."""
        return (self.logits,) if self.ids is None else (self.logits, self.ids)


def _outcomes(logits: Tensor, ids: Sequence[Tensor]) -> Tensor:
    """The logits of what is compared: of all tokens or, where some are named, of these and of all others together."""
    return top_and_rest(logits, ids[0]) if ids else logits


def logits_in_parts(reader: Reader, features: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The student's logits of some positions at a time, and what else is known of these, (P, ...) each."""
    for part, *rest in zip(*(each.split(AT_ONCE) for each in (features, *others)), strict=True):
        yield (reader.head(part), *rest)


def compare(reader: Reader, features: Tensor, taught: Targets, settings: DivergenceSettings) -> tuple[Tensor, Tensor]:
    """The divergence at each position and the total variation distance, which has no gradient: (P,), (P,).

    Args:
        features: (P, d), the student's.
    """
    parts = [
        divergence(_outcomes(student, ids), teacher, settings.divergence, settings.skew)
        for student, teacher, *ids in logits_in_parts(reader, features, *taught.tensors)
    ]
    divergences, distances = zip(*parts, strict=True)
    return torch.cat(divergences), torch.cat(distances)


@torch.no_grad()
def judge(module: Any, batch: Batch, teacher: Teacher | None, generator: Any = None) -> tuple[Tensor, ...]:
    """What held-out text is judged by: cross-entropy of its tokens and KL(p || q), (P,) each; ignored on padding."""
    rows, asked = (batch.input_ids, batch.attention_mask), Asked.of(batch, batch.input_ids)
    taught = Targets.of(batch, asked, teacher)
    features = module.reader(*rows, _WITHOUT_LOGITS, asked.positions).features
    entropies, divergences = [], []
    for logits, ids, teacher_logits, *likeliest in logits_in_parts(module.reader, features, asked.ids, *taught.tensors):
        entropies.append(-functional.token_log_probability(logits, ids))
        divergences.append(divergence(_outcomes(logits, likeliest), teacher_logits, "forward-kl")[0])
    return tuple(torch.where(asked.weights > 0, torch.cat(each), IGNORED) for each in (entropies, divergences))


HELD_OUT = HeldOut(judge, causal_metrics, (LOSS, PERPLEXITY, KL_TO_TEACHER))
