"""Internal representations of student and teacher compared: L_hid and L_att layer by layer, as Tutor-KD and TinyBERT
do it, and L_rel of the last layers, as MiniLM v2 does it.

Teacher depth N, student depth m: layer l of the student matches layer g(l) of the teacher, which of masked models is
l N / m, rounded up, and l = 0 is the embedding output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tutorkd import functional
from tutorkd.capture import AttentionInputs, shared_window
from tutorkd.errors import UserError
from tutorkd.functional import Count
from tutorkd.layer_weights import LayerWeights
from tutorkd.methods.pair import prepare_pair
from tutorkd.methods.relations import check_relation_heads, fitting_relation_heads, self_relation_loss
from tutorkd.reader import Ask, Reading
from tutorkd.step import LOSS_AXIS, Figure, Term
from tutorkd.students import kept_layers
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HIDDEN_STATE = Figure("loss_hidden_state", "L_hid", LOSS_AXIS)
ATTENTION_SCORE = Figure("loss_attention_score", "L_att", LOSS_AXIS)
RELATION = Figure("loss_relation", "L_rel", LOSS_AXIS)
FIGURES = (HIDDEN_STATE, ATTENTION_SCORE, RELATION)


class Projection(nn.Linear):
    """W, from the student's hidden size to the teacher's, shared by all layers.

    It starts at the identity where the sizes agree, so that a student made of the teacher's layers starts aligned, and
    at random elsewhere.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher):
        super().__init__(student.config.hidden_size, teacher.config.hidden_size, bias=False)
        with torch.no_grad():
            if self.in_features == self.out_features:
                nn.init.eye_(self.weight)
            else:
                nn.init.normal_(self.weight, std=getattr(student.config, "initializer_range", 0.02))


def matched_layers(student: PreTrainedModel, teacher: Teacher, weights: LayerWeights) -> tuple[Ask, Ask]:
    """What ``internal_losses`` read of the student's layers and of the teacher's that match them; both are prepared for
    being asked.

    Raises:
        UserError: if layers are to be compared and the student's have no match, attention is and can't be read, or
            L_rel counts and its heads don't divide both hidden sizes.
    """
    if weights.relation_weight:
        check_relation_heads(weights.relation_heads, student.config, teacher.config)
    depths = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    kept = kept_layers(*depths, teacher.objective)
    if kept is None and (weights.hidden_state_weight or weights.attention_score_weight or weights.relation_weight):
        raise UserError(
            f"the layers of a student of {depths[0]} can't be matched to the {depths[1]} of its teacher: give it as "
            "many or fewer, or leave hidden_state_weight, attention_score_weight and relation_weight at 0"
        )
    layers = list(range(1, depths[0] + 1)), kept or []
    learned, taught = (
        Ask(
            hidden=[0, *each] if weights.hidden_state_weight else [],
            attention=each if weights.attention_score_weight else each[-1:] if weights.relation_weight else [],
            values=weights.relation_weight != 0,
        )
        for each in layers
    )
    if learned.hidden or learned.attention:
        prepare_pair(student, teacher, attention=bool(learned.attention))
    return learned, taught


def internal_losses(
    weights: LayerWeights,
    projection: Projection | None,
    learned: Reading,
    taught: Reading,
    mask: Tensor,
    real: Count = None,
    pairs: Count = None,
) -> list[Term]:
    """L_hid, L_att and L_rel, as far as they have a weight.

    Args:
        projection: what L_hid needs.
        learned, taught: what ``matched_layers`` asked for, of the student and of the teacher.
        mask: (B, L).
        real, pairs: real positions and (query, key) pairs in the whole batch; those of ``mask`` by default.
    """
    terms = []
    if weights.hidden_state_weight:
        assert projection is not None
        loss = summed_hidden_state_loss(projection, learned, taught, mask, real)
        terms.append(Term(HIDDEN_STATE, weights.hidden_state_weight, loss))
    if weights.attention_score_weight:
        loss = summed_attention_score_loss(learned, taught, mask, real, pairs)
        terms.append(Term(ATTENTION_SCORE, weights.attention_score_weight, loss))
    if weights.relation_weight:
        loss = last_relation_loss(learned, taught, weights.relation_heads, mask, real)
        terms.append(Term(RELATION, weights.relation_weight, loss))
    return terms


def summed_hidden_state_loss(
    projection: Projection, learned: Reading, taught: Reading, mask: Tensor, num_items: Count
) -> Tensor:
    """L_hid = sum_{l=0..m} mean (W h^S_l - h^T_g(l))^2, over the layers that both were asked for."""
    pairs = zip(learned.hidden, taught.hidden, strict=True)
    losses = [functional.hidden_state_loss(projection(student), teacher, mask, num_items) for student, teacher in pairs]
    return torch.stack(losses).sum()


def summed_attention_score_loss(learned: Reading, taught: Reading, mask: Tensor, real: Count, pairs: Count) -> Tensor:
    """L_att = sum_{l=1..m} mean (A^S_l - A^T_g(l))^2, over the layers that both were asked for.

    In each of them over the pairs of positions that both models' layers attend.

    Args:
        mask: (B, L).
        real, pairs: real positions and (query, key) pairs in the whole batch; those of ``mask`` by default.
    """
    layers = zip(learned.attention, taught.attention, strict=True)
    return torch.stack([_of_one_layer(student, teacher, mask, real, pairs) for student, teacher in layers]).sum()


def last_relation_loss(
    learned: Reading, taught: Reading, relation_heads: int | None, mask: Tensor, real: Count = None
) -> Tensor:
    """L_rel, the sum of the losses of Q-Q, K-K and V-V relations (``relations``) of the last layers asked for.

    Source: Wang et al., "MiniLMv2", Findings of ACL-IJCNLP 2021, section 3.1.

    Args:
        learned, taught: with queries, keys and values.
        relation_heads: A_r, which divides both hidden sizes; None for ``fitting_relation_heads``.
        mask: (B, L).
        real: real positions in the whole batch; those of ``mask`` by default.
    """
    student, teacher = learned.attention[-1], taught.attention[-1]
    heads = relation_heads or fitting_relation_heads(student, teacher)
    pairs = (student.query, teacher.query), (student.key, teacher.key), (student.value, teacher.value)
    return torch.stack([self_relation_loss(*pair, heads, mask, real) for pair in pairs]).sum()


def _of_one_layer(
    student: AttentionInputs, teacher: AttentionInputs, mask: Tensor, real: Count, pairs: Count
) -> Tensor:
    scores = student.query, student.key, teacher.query, teacher.key
    window = shared_window(student, teacher)
    if window is None:
        return functional.attention_score_loss(*scores, mask, pairs)
    return functional.local_attention_score_loss(*scores, window, mask, real)
