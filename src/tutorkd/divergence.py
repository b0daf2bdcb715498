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

from tutorkd.functional import shared_vocabulary

Divergence = Literal["forward-kl", "reverse-kl", "js", "skew-kl"]

_AT_ONCE_ON_CPU = 8  # positions whose distributions are there in float32: few enough for a processor's cache
_TINY = torch.finfo(torch.float32).tiny


class _Divergences(torch.autograd.Function):
    """The divergence of each position and the total variation distance, (n, V), (n, V) -> (n,), (n,) float32."""

    @staticmethod
    def forward(
        ctx, student_logits: Tensor, teacher_logits: Tensor, kind: Divergence, skew: float
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(student_logits)
        at_once = _AT_ONCE_ON_CPU if student_logits.device.type == "cpu" else max(len(student_logits), 1)
        parts = (tensor.split(at_once) for tensor in (student_logits, teacher_logits, gradient))
        divergences, distances = [], []
        with torch.autocast(student_logits.device.type, enabled=False):  # which would round factors to 16 bits
            for student, teacher, part in zip(*parts, strict=True):
                log_q, log_p = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
                q, p = log_q.exp(), log_p.exp()
                divergence, slope = _divergence_and_slope(p, log_p, q, log_q, kind, skew)
                # Through the softmax: d/dz = q (g - sum q g), with g the slope in q, of which q g is at hand.
                part.copy_(torch.addcmul(slope, q, slope.sum(-1, keepdim=True), value=-1))
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
        return torch.linalg.vecdot(p, log_p - log_q), -p
    if kind == "reverse-kl":
        slope = (log_q - log_p).mul_(q)
        return slope.sum(-1), slope
    if kind == "js":
        log_m = _mixture(p, q, 0.5).log_()
        of_q = (log_q - log_m).mul_(q)
        return (torch.linalg.vecdot(p, log_p - log_m) + of_q.sum(-1)) / 2, of_q / 2
    mixture = _mixture(p, q, skew)
    slope = (q / mixture).mul_(p).mul_(skew - 1)
    return torch.linalg.vecdot(p, log_p - mixture.log_()), slope


def _mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """share p + (1 - share) q; above 0 also where both have underflown, and what is taken of it counts for nothing."""
    return torch.lerp(q, p, share).clamp_(min=_TINY)


def divergence(
    student_logits: Tensor, teacher_logits: Tensor, kind: Divergence = "skew-kl", skew: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The divergence of the student's from the teacher's distribution at each position, computed in float32.

    No gradient flows to the teacher.

    Args:
        student_logits: (n, V).
        teacher_logits: (n, V); one of the two may have spare ids more, which don't count.
        kind: which one; the formulas are above.
        skew: a of the skew KL, from 0 (forward KL) to below 1.

    Returns:
        The divergences in nats, (n,) float32; and the total variation distances ``sum |p - q| / 2``, (n,) float32, from
        0 to 1, which carry no gradient.

    Example:
        >>> divergence(torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]).log(), kind="forward-kl")
        (tensor([0.1927]), tensor([0.3000]))
    """
    shared = shared_vocabulary(student_logits, teacher_logits.detach())
    divergences, distances = _Divergences.apply(*shared, kind, skew)
    return divergences, distances
