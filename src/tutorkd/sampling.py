"""The tutor's policy, and how its replacements are drawn.

A policy is given by its logits (k, V). What it can't draw has the lowest number there that float32 takes, which is
finite, as the formulas in ``tutorkd.functional`` need it, and still makes a probability of exactly 0. So one tensor
says what is drawn, what the probability of a draw was, and what the entropy is.
"""

import torch
from torch import Tensor


def _lowest(dtype: torch.dtype) -> float:
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def without(logits: Tensor, forbidden_ids: Tensor) -> Tensor:
    """Rule tokens out: their probability is 0 and no gradient reaches their logits, (k, V) and (n,) -> (k, V).

    The tutor's forbidden tokens are special tokens, which are no text (and a padding token inside a row would shift
    the positions of the families that number positions by counting real tokens), and ids beyond the tokenizer's where
    a model's vocabulary is padded.
    """
    return logits.index_fill(-1, forbidden_ids, _lowest(logits.dtype))


def likeliest(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the k likeliest tokens of each row, (n, V) -> (n, V)."""
    values, ids = logits.topk(k, dim=-1)
    return torch.full_like(logits, _lowest(logits.dtype)).scatter(-1, ids, values)


@torch.no_grad()
def sample_replacements(
    policy_logits: Tensor, greedy: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the replaced tokens x' ~ pi(. | X^M), (k, V) -> (k,).

    Args:
        policy_logits: (k, V).
        greedy: take the likeliest token instead of drawing one.
        generator: of random numbers, on the logits' device; torch's own by default.
    """
    if greedy:
        return policy_logits.argmax(-1)
    # By inverting the cumulative distribution: torch.multinomial draws a random number for every entry (k * V of them),
    # this one a row. The number is kept below the row's total and compared strictly, so an entry of probability 0 is
    # never drawn.
    cumulative = policy_logits.float().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    uniform = torch.rand(len(total), 1, generator=generator, device=total.device) * total
    uniform = torch.minimum(uniform, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, uniform, right=True).squeeze(-1)
