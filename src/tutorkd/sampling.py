"""The tutor's policy, and how its replacements are drawn.

A policy is given by its logits (k, V). What it can't draw has the lowest number there that float32 takes, which is
finite, as the formulas in ``tutorkd.functional`` need it, and still makes a probability of exactly 0. So one tensor
says what is drawn, what the probability of a draw was, and what the entropy is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 128  # entries of the vocabulary whose probabilities are summed first


def _lowest(dtype: torch.dtype) -> float:
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def without(logits: Tensor, forbidden_ids: Tensor) -> Tensor:
    """Rule tokens out: their probability is 0 and no gradient reaches their logits, (k, V) and (n,) -> (k, V).

    The tutor's forbidden tokens are special tokens, which are no text (and a padding token inside a row would shift
    the positions of the families that number positions by counting real tokens), and ids beyond the tokenizer's where
    a model's vocabulary is padded.
    """
    forbidden = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill(0, forbidden_ids, True)
    return logits.masked_fill(forbidden, _lowest(logits.dtype))


def cut_to_top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the k likeliest tokens of each row, (n, V) -> (n, V)."""
    values, ids = logits.topk(k, dim=-1)
    return torch.full_like(logits, _lowest(logits.dtype)).scatter(-1, ids, values)


@torch.no_grad()
def sample_replacements(
    policy_logits: Tensor, greedy: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the replaced tokens x' ~ pi(. | X^M), (k, V) -> (k,).

    Where a policy isn't finite some token is drawn: its loss isn't finite either, by which a step is known that doesn't
    count.

    Args:
        policy_logits: (k, V).
        greedy: take the likeliest token instead of drawing one.
        generator: of random numbers, on the logits' device; torch's own by default.
    """
    if greedy:
        return policy_logits.argmax(-1)
    # By inverting the cumulative distribution: torch.multinomial draws a random number for every entry (k * V of them),
    # this one a row. First the block of entries that it falls into is found, then the entry in it, so that no
    # cumulative distribution over the whole vocabulary is written.
    probability = policy_logits.float().softmax(-1)
    rows, vocabulary = probability.shape
    tail = vocabulary % _BLOCK
    blocks = probability[:, : vocabulary - tail].unflatten(-1, (vocabulary // _BLOCK, _BLOCK)).sum(-1)
    if tail:
        blocks = torch.cat([blocks, probability[:, vocabulary - tail :].sum(-1, keepdim=True)], dim=-1)
    cumulative = blocks.cumsum(-1)
    uniform = torch.rand(rows, 1, generator=generator, device=probability.device) * cumulative[:, -1:]
    block, before = _invert(cumulative, uniform)
    ids = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    inside = probability.gather(-1, ids.clamp(max=vocabulary - 1)).masked_fill(ids >= vocabulary, 0)
    entry, _ = _invert(inside.cumsum(-1), uniform - before)
    return ids.gather(-1, entry).squeeze(-1).clamp(max=vocabulary - 1)


def _invert(cumulative: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Where a number falls in a row's cumulative distribution, and what that is before: (k, n), (k, 1) -> (k, 1) twice.

    The number is kept below the row's total and compared strictly, so an entry of probability 0 is never drawn. NaN
    falls behind all entries and is given the last.
    """
    total = cumulative[:, -1:]
    number = torch.minimum(number, torch.nextafter(total, torch.zeros_like(total)))
    entry = torch.searchsorted(cumulative, number, right=True).clamp(max=cumulative.shape[-1] - 1)
    before = F.pad(cumulative, (1, 0)).gather(-1, entry)
    return entry, before
