"""How far a student's distributions over the vocabulary are from a teacher's, in one pass over the logits.

With p the teacher's distribution of a token, q the student's, and m a mixture of both:

    forward KL       KL(p || q)
    reverse KL       KL(q || p)
    Jensen-Shannon   KL(p || m) / 2 + KL(q || m) / 2    m = (p + q) / 2
    skew KL          KL(p || m)                         m = a p + (1 - a) q,  a = 0.1

Forward: word-level distillation (Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016, section 3.1).
Reverse: MiniLLM (Gu et al., ICLR 2024, section 2.1), here of each token by itself and not of what a student writes.
Jensen-Shannon: GKD (Agarwal et al., ICLR 2024, section 2), with its beta at 1/2. Skew: DistiLLM (Ko et al., ICML 2024,
section 3.1).

Vocabularies are large, and a causal model is asked about all positions: neither of the distributions is kept. What is
kept is the gradient, computed for some positions at a time in the same pass, so that beside the student's logits one
tensor of their size is there, in their number format.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Divergence = Literal["forward-kl", "reverse-kl", "js", "skew-kl"]

_AT_ONCE = 64  # positions whose distributions are there in float32: small enough for a processor's cache


class _Divergences(torch.autograd.Function):
    """The divergence of each position and the total variation distance, (n, V), (n, V) -> (n,), (n,) float32."""

    @staticmethod
    def forward(
        ctx, student_logits: Tensor, teacher_logits: Tensor, kind: Divergence, skew: float
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(student_logits)
        parts = (tensor.split(_AT_ONCE) for tensor in (student_logits, teacher_logits, gradient))
        divergences, distances = [], []
        for student, teacher, part in zip(*parts, strict=True):
            log_q, log_p = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
            q, p = log_q.exp(), log_p.exp()
            divergence, slope = _divergence_and_slope(p, log_p, q, log_q, kind, skew)
            # Through the softmax: d/dz = q (g - sum q g), with g the slope in q, of which q g is at hand.
            part.copy_(slope - q * slope.sum(-1, keepdim=True))
            divergences.append(divergence)
            distances.append((p - q).abs().sum(-1) / 2)
        ctx.save_for_backward(gradient)
        distance = torch.cat(distances)
        ctx.mark_non_differentiable(distance)
        return torch.cat(divergences), distance

    @staticmethod
    @once_differentiable
    def backward(ctx, of_divergence: Tensor, of_distance: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_divergence.unsqueeze(-1).to(gradient.dtype), None, None, None


def _divergence_and_slope(
    p: Tensor, log_p: Tensor, q: Tensor, log_q: Tensor, kind: Divergence, skew: float
) -> tuple[Tensor, Tensor]:
    """The divergence (n,), and q times its derivative in q (n, V)."""
    if kind == "forward-kl":
        return (p * (log_p - log_q)).sum(-1), -p
    if kind == "reverse-kl":
        ratio = log_q - log_p
        return (q * ratio).sum(-1), q * ratio
    if kind == "js":
        log_m = ((p + q) / 2).log()
        of_p, of_q = _times_log_ratio(p, log_p, log_m), _times_log_ratio(q, log_q, log_m)
        return (of_p + of_q).sum(-1) / 2, of_q / 2
    mixture = skew * p + (1 - skew) * q
    divergence = _times_log_ratio(p, log_p, mixture.log()).sum(-1)
    return divergence, -(1 - skew) * p * (q / mixture).nan_to_num(0.0)


def _times_log_ratio(weight: Tensor, log_weight: Tensor, log_mixture: Tensor) -> Tensor:
    """weight * (log weight - log mixture), 0 where the weight has underflown to 0, with whatever mixture."""
    return torch.where(weight > 0, weight * (log_weight - log_mixture), 0.0)


def divergence(
    student_logits: Tensor, teacher_logits: Tensor, kind: Divergence = "skew-kl", skew: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The divergence of the student's from the teacher's distribution at each position, computed in float32.

    No gradient flows to the teacher.

    Args:
        student_logits: (n, V).
        teacher_logits: (n, V).
        kind: which one; the formulas stand above.
        skew: a of the skew KL, from 0 (forward KL) to below 1.

    Returns:
        The divergences in nats, (n,) float32; and the total variation distances sum |p - q| / 2, (n,) float32, from 0
        to 1, which carry no gradient.
    """
    divergences, distances = _Divergences.apply(student_logits, teacher_logits.detach(), kind, skew)
    return divergences, distances
