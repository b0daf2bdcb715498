"""Relations between the positions of a row, which MiniLM and MiniLM v2 share.

A relation of vectors A and B, (B, H, L, a) each, is softmax(A B^T / sqrt(a)): for each head and position a
distribution over the row's positions. Queries with keys give the attention distributions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tutorkd.batch import Batch
from tutorkd.capture import AttentionInputs
from tutorkd.functional import Count, mean_over
from tutorkd.reader import Ask, Reader
from tutorkd.step import LOSS_AXIS, Figure

VALUE_RELATION = Figure("loss_value_relation", "L_vr", LOSS_AXIS)
# Score of a position that has no share: the softmax makes exactly 0 of it, and differences of such scores stay finite.
_LEFT_OUT = -1e30


def _log_relation(left: Tensor, right: Tensor, related: Tensor) -> Tensor:
    """log softmax(left right^T / sqrt(a)) over related positions: (B, H, L, a) twice -> (B, H, L, L) float32."""
    with torch.autocast(left.device.type, enabled=False):
        scores = (left.float() * left.shape[-1] ** -0.5) @ right.float().mT
        return scores.masked_fill(~related, _LEFT_OUT).log_softmax(-1)


def attention_inputs(reader: Reader, layer: int, batch: Batch) -> AttentionInputs:
    """Queries, keys and values of one layer, counted from 1, on X."""
    (inputs,) = reader(batch.input_ids, batch.attention_mask, Ask(attention=[layer], values=True)).attention
    return inputs


def relation_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    attention_mask: Tensor,
    num_items: Count = None,
    window: Tensor | None = None,
) -> Tensor:
    """Mean over heads and real positions of KL(R^T || R^S), R = softmax(A B^T / sqrt(head dimension)).

    The mask is applied before the softmax: padded positions have no share in a distribution, and their own
    distributions aren't counted. No gradient flows to the teacher. Computed in float32.

    Args:
        student: A and B, (B, H, L, a) each.
        teacher: A and B, (B, H, L, b) each.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.
        window: broadcasts to (B, 1, L, L), bool, True where a position is related to another; to all by default.

    Returns:
        () float32.

    Raises:
        ValueError: if student and teacher have different numbers of heads.
    """
    heads = student[0].shape[1]
    if heads != teacher[0].shape[1]:
        raise ValueError(f"relations of {heads} and {teacher[0].shape[1]} heads can't be compared")
    related = attention_mask[:, None, None].bool()
    if window is not None:
        related = related & window
    with torch.no_grad():
        target = _log_relation(*teacher, related)
    answer = _log_relation(*student, related)
    divergence = F.kl_div(answer, target, reduction="none", log_target=True).sum(-1)
    mask = attention_mask.float()
    return mean_over((divergence * mask[:, None]).sum() / heads, mask.sum(), num_items)
