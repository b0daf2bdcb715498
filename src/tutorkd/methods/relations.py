"""Relations between the positions of a row, which MiniLM, MiniLM v2 and L_rel share.

A relation of vectors A and B, (B, H, L, a) each, is softmax(A B^T / sqrt(a)): for each head and position a
distribution over the row's positions. Queries with keys give the attention distributions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from tutorkd.batch import Batch
from tutorkd.capture import AttentionInputs
from tutorkd.errors import UserError
from tutorkd.functional import Count, mean_over
from tutorkd.reader import Ask, Reader
from tutorkd.step import LOSS_AXIS, Figure

QUERY_RELATION = Figure("loss_query_relation", "L_qr", LOSS_AXIS)
KEY_RELATION = Figure("loss_key_relation", "L_kr", LOSS_AXIS)
VALUE_RELATION = Figure("loss_value_relation", "L_vr", LOSS_AXIS)
_RELATION_HEADS = 48  # of base-size teachers (Wang et al. 2021, "MiniLMv2")
_MOST_RELATION_HEADS = 64  # of large ones (the same)
_LEAST_HEAD_SIZE = 8
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


def regroup(vectors: Tensor, relation_heads: int) -> Tensor:
    """Put the attention heads end to end and split anew: (B, H, L, a) -> (B, A_r, L, H a / A_r)."""
    joined = vectors.transpose(1, 2).flatten(2)
    return joined.unflatten(-1, (relation_heads, -1)).transpose(1, 2)


def self_relation_loss(
    student: Tensor, teacher: Tensor, relation_heads: int, attention_mask: Tensor, num_items: Count = None
) -> Tensor:
    """One L_i: mean over relation heads and real positions of KL(R^T || R^S), R = softmax(A A^T / sqrt(d_r)).

    Args:
        student: (B, H_s, L, a), queries, keys or values.
        teacher: (B, H_t, L, b), the same of the teacher; no gradient flows to it.
        relation_heads: A_r, which divides H_s a and H_t b.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.

    Returns:
        () float32.
    """
    s, t = regroup(student, relation_heads), regroup(teacher, relation_heads)
    return relation_loss((s, s), (t, t), attention_mask, num_items)


def fitting_relation_heads(student: AttentionInputs, teacher: AttentionInputs) -> int:
    """A_r where none is asked for: 48 if that divides both sizes, else the most up to 64 that do so and leave a
    relation head 8 dimensions or more in both.
    """
    sizes = [each.query.shape[1] * each.query.shape[-1] for each in (student, teacher)]
    common = math.gcd(*sizes)
    if common % _RELATION_HEADS == 0:
        return _RELATION_HEADS
    most = min(_MOST_RELATION_HEADS, min(sizes) // _LEAST_HEAD_SIZE)
    return max((heads for heads in range(1, most + 1) if common % heads == 0), default=1)


def check_relation_heads(relation_heads: int | None, student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Refuse relation heads that don't divide the sizes of student and teacher.

    Args:
        relation_heads: None for ``fitting_relation_heads``.

    Raises:
        UserError: naming the numbers that do.
    """
    if relation_heads is None:
        return
    s, t = _attention_size(student), _attention_size(teacher)
    common = math.gcd(s, t)
    if relation_heads < 1 or common % relation_heads:
        fitting = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise UserError(
            f"{relation_heads} relation heads don't divide both the student's hidden size {s} and the "
            f"teacher's {t}: set --relation_heads to one of {fitting}"
        )


def _attention_size(config: PretrainedConfig) -> int:
    """All heads of a layer end to end: the hidden size, unless the heads' size is set apart (EuroBERT)."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_attention_heads * head_size
