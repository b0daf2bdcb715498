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

Of a teacher that was asked before, the K likeliest tokens of each position are known, and how likely all others are
together. With those as one outcome the same divergences compare K + 1 outcomes. By the inequality of data processing
they are at most what they are over the vocabulary, and equal it where the student spreads what it leaves to the other
tokens among them as the teacher does. With the K alone, renormalised, a student would learn to be too sure of them
(Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", ACL 2025, arXiv 2503.16870).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutorkd.functional import shared_vocabulary

Divergence = Literal["forward-kl", "reverse-kl", "js", "skew-kl"]

_AT_ONCE_ON_CPU = 8  # positions whose distributions are there in float32: few enough for a processor's cache
_TINY = torch.finfo(torch.float32).tiny
_LOG_TINY = math.log(_TINY)


class _Divergences(torch.autograd.Function):
    """The divergence of each position and the total variation distance, (n, V), (n, V) -> (n,), (n,) float32."""

    @staticmethod
    def forward(
        ctx, student_logits: Tensor, teacher_logits: Tensor, kind: Divergence, skew: float
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(student_logits)
        parts = (tensor.split(_at_once(student_logits)) for tensor in (student_logits, teacher_logits, gradient))
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


class _TopAndRest(torch.autograd.Function):
    """Of some tokens and of all others together the log-probability, (n, V), (n, K) -> (n, K + 1) float32."""

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor) -> Tensor:
        parts = []
        for part, chosen in zip(*(each.split(_at_once(logits)) for each in (logits, ids)), strict=True):
            values = part.float()
            total = values.logsumexp(-1, keepdim=True)
            others = values.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
            rest = (others - total).clamp_(min=_LOG_TINY)
            parts.append(torch.cat([values.gather(-1, chosen) - total, rest], -1))
        found = torch.cat(parts)
        ctx.save_for_backward(logits, ids, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, slopes: Tensor) -> tuple[Tensor, None]:
        logits, ids, found = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        parts = (each.split(_at_once(logits)) for each in (logits, ids, found, slopes, gradient))
        for part, chosen, logs, slope, into in zip(*parts, strict=True):
            # d log q_i / dz_j = [i = j] - q_j, and of the others r together, for j among these, q_j / r - q_j.
            q, every = part.float().softmax(-1), slope.sum(-1, keepdim=True)
            of_others = q * (slope[:, -1:] * (-logs[:, -1:]).exp() - every)
            into.copy_(of_others.scatter_(-1, chosen, slope[:, :-1] - q.gather(-1, chosen) * every))
        return gradient, None


def top_and_rest(logits: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities of some tokens and, behind them, of all others together, computed in float32.

    They are the logits of a distribution over K + 1 outcomes, which ``divergence`` compares.

    Args:
        logits: (n, V).
        ids: (n, K) of different tokens, fewer than V.

    Returns:
        (n, K + 1) float32.

    Example:
        >>> top_and_rest(torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log(), torch.tensor([[0, 2]])).exp()
        tensor([[0.5000, 0.2000, 0.3000]])
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _TopAndRest.apply(logits, ids)


def _at_once(logits: Tensor) -> int:
    """Positions whose distributions are there in float32 at once."""
    return _AT_ONCE_ON_CPU if logits.device.type == "cpu" else max(len(logits), 1)


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
