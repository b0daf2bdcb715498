"""TinyBERT, general distillation: hidden states and attention scores of every layer, no prediction loss.

Reference: Xiaoqi Jiao, Yichun Yin, Lifeng Shang, Xin Jiang, Xiao Chen, Linlin Li, Fang Wang, Qun Liu,
"TinyBERT: Distilling BERT for Natural Language Understanding", Findings of EMNLP 2020, sections 3.1 and 3.2
(doi 10.18653/v1/2020.findings-emnlp.372).

Teacher and student read X, the plain text. The teacher has N layers, the student m; layer l of the student
matches layer g(l) = l N/m (rounded up) of the teacher, and l = 0 is the embedding output. With A = Q K^T / sqrt(head
dimension),

    L_hid = sum_{l=0..m} mean (W h^S_l - h^T_g(l))^2      over real positions and dimensions
    L_att = sum_{l=1..m} mean (A^S_l - A^T_g(l))^2        over heads and real (query, key) pairs
    L     = L_hid + L_att

In layers with a sliding window (ModernBERT) L_att takes the pairs inside it, as in ``tutorkd.functional``.
Scores are taken before the softmax, which the paper found to converge faster. As in the authors' released
code, one learned projection W serves the embeddings and all layers. It starts at the identity where hidden
sizes agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from tutorkd.batch import Batch
from tutorkd.layer_weights import RelationSettings
from tutorkd.methods.internal import Projection, internal_losses, matched_layers
from tutorkd.methods.pair import check_heads, check_vocabulary
from tutorkd.objective import Objective
from tutorkd.reader import Reader
from tutorkd.step import StepOutput, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{jiao-etal-2020-tinybert,
  title = {{TinyBERT}: Distilling {BERT} for Natural Language Understanding},
  author = {Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and
            Wang, Fang and Liu, Qun},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2020},
  year = {2020},
  pages = {4163--4174},
  doi = {10.18653/v1/2020.findings-emnlp.372}
}"""


@dataclass
class TinyBERTSettings(RelationSettings):
    """Constants of TinyBERT's general distillation."""

    _argument_group_name = "method: TinyBERT"

    student_head: ClassVar[Objective | None] = None

    hidden_state_weight: float = field(
        default=1.0, metadata={"help": "Weight of L_hid (a plain sum in the authors' released code)."}
    )
    attention_score_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of L_att (a plain sum in the authors' released code); must be 0 if the "
            "numbers of heads differ."
        },
    )


class TinyBERT(nn.Module):
    """The trained module: student and hidden-state projection.

    Args:
        student: an encoder without a head.
        teacher: a ``Teacher``.
        settings: weights of the losses.

    Raises:
        UserError: if vocabularies or heads differ, or the student is deeper than the teacher.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: TinyBERTSettings):
        super().__init__()
        check_vocabulary(student, teacher)
        check_heads(student, teacher, settings.attention_score_weight)
        self.student = student
        self.reader = Reader(student)
        self.args = settings
        self.asked_of_student, self.asked_of_teacher = matched_layers(student, teacher, settings)
        self.projection = Projection(student, teacher)

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X; the masked positions aren't read."""
        _, real, pairs, *_ = batch.counts
        taught = teacher(batch.input_ids, batch.attention_mask, self.asked_of_teacher)
        learned = self.reader(batch.input_ids, batch.attention_mask, self.asked_of_student)
        return weighted_sum(internal_losses(self.args, self.projection, learned, taught, batch.mask, real, pairs))
