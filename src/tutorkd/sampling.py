"""How the tutor's replacements are drawn from its distribution."""

import torch
from torch import Tensor


def _draw(probability: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index a row by inverting the cumulative distribution, (k, n) -> (k,).

    ``torch.multinomial`` draws a random number for every entry (k * V of them); this needs one a row. The number is
    kept below the row's total and compared strictly, so an entry of probability 0 is never drawn.
    """
    cumulative = probability.cumsum(-1)
    total = cumulative[:, -1:]
    uniform = torch.rand(len(probability), 1, generator=generator, device=probability.device) * total
    uniform = torch.minimum(uniform, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, uniform, right=True).squeeze(-1)


@torch.no_grad()
def sample_replacements(
    policy_logits: Tensor,
    sampling: str,
    top_k: int,
    forbidden_ids: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the replaced tokens x' ~ pi(. | X^M), (k, V) -> (k,).

    Special tokens are never drawn: they are no text, and a padding token inside a row would shift the positions of
    the families that number positions by counting real tokens.

    Args:
        policy_logits: (k, V).
        sampling: "multinomial" (the paper), "greedy", or "top-k" (multinomial among the ``top_k`` likeliest).
        top_k: candidates of "top-k".
        forbidden_ids: (n,), the special tokens.
        generator: of random numbers, on the logits' device; torch's own by default.
    """
    logits = policy_logits.float().index_fill(-1, forbidden_ids, -torch.inf)
    if sampling == "greedy":
        return logits.argmax(-1)
    if sampling == "top-k":
        values, candidates = logits.topk(top_k, dim=-1)
        return candidates.gather(-1, _draw(values.softmax(-1), generator).unsqueeze(-1)).squeeze(-1)
    return _draw(logits.softmax(-1), generator)
