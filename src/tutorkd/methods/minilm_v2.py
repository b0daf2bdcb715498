"""MiniLM v2: query, key and value relations in relation heads.

Reference: Wenhui Wang, Hangbo Bao, Shaohan Huang, Li Dong, Furu Wei, "MiniLMv2: Multi-Head Self-Attention
Relation Distillation for Compressing Pretrained Transformers", Findings of ACL-IJCNLP 2021, sections 3.1 and
3.2 (doi 10.18653/v1/2021.findings-acl.188).

Teacher and student read X, the plain text. In the student's last layer and one layer of the teacher, the
vectors A of all attention heads (A_1 queries, A_2 keys, A_3 values) are put end to end and split anew into
A_r relation heads of size d_r. For each relation head

    R_i = softmax(A_i A_i^T / sqrt(d_r))
    L_i = mean over relation heads and real positions of KL(R_i^T || R_i^S)
    L   = L_1 + L_2 + L_3

Student and teacher may differ in heads, sizes and depths; A_r must divide both sizes. The teacher's layer is
the last of a base-size teacher and an upper-middle one of a large teacher. Nothing behind the queries, keys
and values of the student's last layer enters the loss: that layer's output and feed-forward weights stay as
they start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from tutorkd.batch import Batch
from tutorkd.errors import UserError
from tutorkd.layer_weights import RELATION_HEADS_HELP
from tutorkd.methods.pair import check_vocabulary, prepare_pair
from tutorkd.methods.relations import (
    KEY_RELATION,
    QUERY_RELATION,
    VALUE_RELATION,
    attention_inputs,
    check_relation_heads,
    fitting_relation_heads,
    self_relation_loss,
)
from tutorkd.objective import Objective
from tutorkd.reader import Reader
from tutorkd.step import StepOutput, Term, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{wang-etal-2021-minilmv2,
  title = {{MiniLMv2}: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
           Transformers},
  author = {Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu},
  booktitle = {Findings of the Association for Computational Linguistics: ACL-IJCNLP 2021},
  year = {2021},
  pages = {2140--2151},
  doi = {10.18653/v1/2021.findings-acl.188}
}"""


FIGURES = (QUERY_RELATION, KEY_RELATION, VALUE_RELATION)


@dataclass
class MiniLMv2Settings:
    """Constants of MiniLM v2."""

    _argument_group_name = "method: MiniLM v2"

    student_head: ClassVar[Objective | None] = None

    relation_heads: int | None = field(default=None, metadata=RELATION_HEADS_HELP)
    teacher_layer: int | None = field(
        default=None,
        metadata={
            "help": "Teacher's layer that is matched, counted from 1; by default the last, as for base-size "
            "teachers (Wang et al. 2021, section 3.2: an upper-middle one of large teachers)."
        },
    )
    query_relation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the Q-Q relations' loss (Wang et al. 2021, section 3.1)."}
    )
    key_relation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the K-K relations' loss (Wang et al. 2021, section 3.1)."}
    )
    value_relation_weight: float = field(
        default=1.0, metadata={"help": "Weight of the V-V relations' loss (Wang et al. 2021, section 3.1)."}
    )


class MiniLMv2(nn.Module):
    """The trained module: the student alone.

    Args:
        student: an encoder without a head.
        teacher: a ``Teacher``.
        settings: relation heads, the teacher's layer, weights of the losses.

    Raises:
        UserError: if vocabularies differ, the relation heads don't divide both sizes, or the teacher has no
            such layer.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: MiniLMv2Settings):
        super().__init__()
        check_vocabulary(student, teacher)
        check_relation_heads(settings.relation_heads, student.config, teacher.config)
        depth = teacher.config.num_hidden_layers
        self.teacher_layer = depth if settings.teacher_layer is None else settings.teacher_layer
        if not 1 <= self.teacher_layer <= depth:
            raise UserError(
                f"the teacher has no layer {self.teacher_layer}: set --teacher_layer to one of 1 to {depth}, "
                "or leave it out for the last"
            )
        prepare_pair(student, teacher, attention=True)
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X; the masked positions aren't read."""
        c = self.args
        real, mask = batch.counts.real, batch.mask
        t = attention_inputs(teacher, self.teacher_layer, batch)
        s = attention_inputs(self.reader, self.student.config.num_hidden_layers, batch)
        heads = c.relation_heads or fitting_relation_heads(s, t)

        vectors = (
            (QUERY_RELATION, c.query_relation_weight, s.query, t.query),
            (KEY_RELATION, c.key_relation_weight, s.key, t.key),
            (VALUE_RELATION, c.value_relation_weight, s.value, t.value),
        )
        return weighted_sum(
            [
                Term(figure, weight, self_relation_loss(student, teacher, heads, mask, real))
                for figure, weight, student, teacher in vectors
            ]
        )
