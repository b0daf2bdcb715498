"""Internal representations of student and teacher compared layer by layer, as Tutor-KD and TinyBERT do it.

Teacher depth N, student depth m: layer l of the student matches layer g(l) = l N / m of the teacher, and l = 0 is the
embedding output.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutorkd import functional as F
from tutorkd.capture import AttentionInputs, shared_window
from tutorkd.teacher import EncoderStates, Teacher


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


def hidden_state_loss(
    projection: Projection, learned: EncoderStates, taught: EncoderStates, mask: Tensor, num_items: F.Count
) -> Tensor:
    """L_hid = sum_{l=0..m} mean (W h^S_l - h^T_g(l))^2."""
    step = _layer_step(learned, taught)
    losses = [
        F.hidden_state_loss(projection(hidden), taught.hidden[layer * step], mask, num_items)
        for layer, hidden in enumerate(learned.hidden)
    ]
    return torch.stack(losses).sum()


def attention_score_loss(
    learned: EncoderStates, taught: EncoderStates, mask: Tensor, real: F.Count, pairs: F.Count
) -> Tensor:
    """L_att = sum_{l=1..m} mean (A^S_l - A^T_g(l))^2, over the pairs that both layers attend.

    Args:
        mask: (B, L).
        real, pairs: real positions and (query, key) pairs in the whole batch; those of ``mask`` by default.
    """
    step = _layer_step(learned, taught)
    layers = zip(learned.attention, taught.attention[step - 1 :: step], strict=True)
    return torch.stack([_of_one_layer(student, teacher, mask, real, pairs) for student, teacher in layers]).sum()


def _of_one_layer(
    student: AttentionInputs, teacher: AttentionInputs, mask: Tensor, real: F.Count, pairs: F.Count
) -> Tensor:
    scores = student.query, student.key, teacher.query, teacher.key
    window = shared_window(student, teacher)
    if window is None:
        return F.attention_score_loss(*scores, mask, pairs)
    return F.local_attention_score_loss(*scores, window, mask, real)


def _layer_step(learned: EncoderStates, taught: EncoderStates) -> int:
    """N / m."""
    return (len(taught.hidden) - 1) // (len(learned.hidden) - 1)
