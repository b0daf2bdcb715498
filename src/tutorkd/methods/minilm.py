"""MiniLM: attention distributions and value relations of the last layer.

Reference: Wenhui Wang, Furu Wei, Li Dong, Hangbo Bao, Nan Yang, Ming Zhou, "MiniLM: Deep Self-Attention
Distillation for Task-Agnostic Compression of Pre-Trained Transformers", NeurIPS 2020, sections 3.1 and 3.2
(arXiv 2002.10957).

Teacher and student read X, the plain text. In the last layer of each, with Q, K, V of a head of size d,

    A    = softmax(Q K^T / sqrt(d))      attention distributions
    VR   = softmax(V V^T / sqrt(d))      value relations
    L_AT = mean over heads and real positions of KL(A^T || A^S)
    L_VR = mean over heads and real positions of KL(VR^T || VR^S)
    L    = L_AT + L_VR

In a last layer with a sliding window (ModernBERT) A is a distribution over the keys that the layer attends:
what lies outside the window never enters its attention. VR relates the values of all positions in any case.

Head h of the student matches head h of the teacher, so both need as many heads; sizes and depths are free.
Nothing behind the last layer's queries, keys and values enters the loss: that layer's output and feed-forward
weights stay as they start. The paper's teacher assistant, a step in between for very small students, isn't
part of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from tutorkd.batch import Batch
from tutorkd.capture import shared_window
from tutorkd.errors import UserError
from tutorkd.methods.pair import check_vocabulary, prepare_pair
from tutorkd.methods.relations import VALUE_RELATION, attention_inputs, relation_loss
from tutorkd.objective import Objective
from tutorkd.reader import Reader
from tutorkd.step import LOSS_AXIS, Figure, StepOutput, Term, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{wang-etal-2020-minilm,
  title = {{MiniLM}: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
           Transformers},
  author = {Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020},
  pages = {5776--5788}
}"""


ATTENTION_DISTRIBUTION = Figure("loss_attention_distribution", "L_at", LOSS_AXIS)
FIGURES = (ATTENTION_DISTRIBUTION, VALUE_RELATION)


@dataclass
class MiniLMSettings:
    """Constants of MiniLM."""

    _argument_group_name = "method: MiniLM"

    student_head: ClassVar[Objective | None] = None

    attention_distribution_weight: float = field(
        default=1.0, metadata={"help": "Weight of L_AT (a plain sum in Wang et al. 2020, section 3)."}
    )
    value_relation_weight: float = field(
        default=1.0, metadata={"help": "Weight of L_VR (a plain sum in Wang et al. 2020, section 3)."}
    )


class MiniLM(nn.Module):
    """The trained module: the student alone.

    Args:
        student: an encoder without a head.
        teacher: a ``Teacher``.
        settings: weights of the losses.

    Raises:
        UserError: if vocabularies or heads differ.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: MiniLMSettings):
        super().__init__()
        check_vocabulary(student, teacher)
        s, t = student.config.num_attention_heads, teacher.config.num_attention_heads
        if s != t:
            raise UserError(
                f"minilm compares attention head by head, and the student has {s} heads, the teacher {t}: "
                f"give the student as many (--student_heads {t}), or use minilm-v2, which takes any number"
            )
        prepare_pair(student, teacher, attention=True)
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X; the masked positions aren't read."""
        c = self.args
        real, mask = batch.counts.real, batch.mask
        t = attention_inputs(teacher, teacher.config.num_hidden_layers, batch)
        s = attention_inputs(self.reader, self.student.config.num_hidden_layers, batch)

        attention = relation_loss((s.query, s.key), (t.query, t.key), mask, real, shared_window(s, t))
        value = relation_loss((s.value, s.value), (t.value, t.value), mask, real)
        return weighted_sum(
            [
                Term(ATTENTION_DISTRIBUTION, c.attention_distribution_weight, attention),
                Term(VALUE_RELATION, c.value_relation_weight, value),
            ]
        )
