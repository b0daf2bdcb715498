"""Soft cross-entropy between MLM distributions, which KD and DistilBERT share.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2 (arXiv 1503.02531).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutorkd.functional import Count, mean_over, shared_vocabulary, weighted
from tutorkd.methods.pair import check_head, check_vocabulary
from tutorkd.objective import MASKED
from tutorkd.settings import check_temperature
from tutorkd.step import LOSS_AXIS, Figure
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SOFT_CROSS_ENTROPY = Figure("loss_soft_cross_entropy", "L_ce", LOSS_AXIS)
_AT_ONCE = 256  # positions: fewer take less memory, and more launches of a GPU's kernels


class _CrossEntropies(torch.autograd.Function):
    """-sum_v P_T(v) log P_S(v) of each position, (k, V), (k, V) -> (k,) float32, without either distribution stored.

    What is kept is T times the gradient, P_S - P_T, computed for some positions at a time.
    """

    @staticmethod
    def forward(ctx, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        difference = torch.empty_like(student_logits, dtype=torch.float32)
        parts = (tensor.split(_AT_ONCE) for tensor in (student_logits, teacher_logits, difference))
        losses = []
        for student, teacher, part in zip(*parts, strict=True):
            target = (teacher.float() / temperature).softmax(-1)
            log_probability = (student.float() / temperature).log_softmax(-1)
            losses.append(-(target * log_probability).sum(-1))
            torch.sub(log_probability.exp(), target, out=part)
        ctx.save_for_backward(difference)
        ctx.dtype, ctx.temperature = student_logits.dtype, temperature
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        scale = (gradient / ctx.temperature).unsqueeze(-1)
        scaled = torch.empty_like(difference, dtype=ctx.dtype)
        for part, *factors in zip(*(tensor.split(_AT_ONCE) for tensor in (scaled, difference, scale)), strict=True):
            part.copy_(torch.mul(*factors))  # rounded once, to the logits' format
        return scaled, None, None


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    num_items: Count = None,
    weight: Tensor | None = None,
) -> Tensor:
    """T^2 times the mean over masked positions of -sum_v P_T(v) log P_S(v), both at temperature T.

    A cross-entropy, not a divergence: its least value is T^2 times the teacher's entropy at T, and its
    gradient is that of T^2 KL(P_T || P_S). Gradients of soft targets shrink as 1/T^2, for which the factor
    makes up. No gradient flows to the teacher. Computed in float32.

    Args:
        student_logits: (k, V).
        teacher_logits: (k, V); one of the two may have spare ids more, which don't count.
        temperature: T > 0, which divides both logits.
        num_items: masked positions in the whole batch; k by default.
        weight: (k,), of each position in the sum; 1 by default.

    Returns:
        () float32.
    """
    losses = _CrossEntropies.apply(*shared_vocabulary(student_logits, teacher_logits), temperature)
    return temperature**2 * mean_over(weighted(losses, weight).sum(), len(losses), num_items)


def check_soft_targets(method: str, student: PreTrainedModel, teacher: Teacher, temperature: float) -> None:
    """Refuse what can't be trained on the teacher's MLM distributions.

    Raises:
        UserError: if the student has no MLM head, the vocabularies differ, or the temperature isn't above 0.
    """
    check_head(method, student, MASKED)
    check_vocabulary(student, teacher)
    check_temperature(temperature)
