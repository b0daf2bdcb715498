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

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig

from tutorkd.batch import Batch
from tutorkd.capture import prepare_for_capture
from tutorkd.errors import UserError
from tutorkd.functional import Count
from tutorkd.methods.pair import check_vocabulary
from tutorkd.methods.relations import VALUE_RELATION, attention_inputs, relation_loss
from tutorkd.objective import Objective
from tutorkd.reader import Reader
from tutorkd.step import LOSS_AXIS, Figure, StepOutput, Term, weighted_sum
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


QUERY_RELATION = Figure("loss_query_relation", "L_qr", LOSS_AXIS)
KEY_RELATION = Figure("loss_key_relation", "L_kr", LOSS_AXIS)
FIGURES = (QUERY_RELATION, KEY_RELATION, VALUE_RELATION)


@dataclass
class MiniLMv2Settings:
    """Constants of MiniLM v2."""

    student_head: ClassVar[Objective | None] = None

    relation_heads: int = field(
        default=48,
        metadata={
            "help": "Relation heads A_r (Wang et al. 2021: 48 for base-size teachers, 64 for large ones), "
            "which must divide the hidden sizes of student and teacher."
        },
    )
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

    accepts_loss_kwargs = True  # tells Trainer that the loss is a mean over the whole accumulated batch

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
        prepare_for_capture(student, "student")
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X; the masked positions aren't read."""
        c = self.args
        real, mask = batch.counts.real, batch.mask
        t = attention_inputs(teacher, self.teacher_layer, batch)
        s = attention_inputs(self.reader, self.student.config.num_hidden_layers, batch)

        vectors = (
            (QUERY_RELATION, c.query_relation_weight, s.query, t.query),
            (KEY_RELATION, c.key_relation_weight, s.key, t.key),
            (VALUE_RELATION, c.value_relation_weight, s.value, t.value),
        )
        return weighted_sum(
            [
                Term(figure, weight, self_relation_loss(student, teacher, c.relation_heads, mask, real))
                for figure, weight, student, teacher in vectors
            ]
        )


def check_relation_heads(relation_heads: int, student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Refuse relation heads that don't divide the sizes of student and teacher.

    Raises:
        UserError: naming the numbers that do.
    """
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
