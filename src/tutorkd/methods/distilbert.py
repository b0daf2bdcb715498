"""DistilBERT: soft targets, the masked-language-model loss, and the direction of the last hidden states.

Reference: Victor Sanh, Lysandre Debut, Julien Chaumond, Thomas Wolf, "DistilBERT, a distilled version of
BERT: smaller, faster, cheaper and lighter", 5th Workshop on Energy Efficient Machine Learning and Cognitive
Computing, NeurIPS 2019, section 2 (arXiv 1910.01108). Weights and temperature are those of the released code.

Teacher and student read X^M. With P(v)_t = softmax(z_t / T)_v, z the MLM logits and T the temperature,

    L_ce  = T^2 * (1/k) sum_{t in M} -sum_v P_T(v | X^M)_t log P_S(v | X^M)_t
    L_mlm = -(1/k) sum_{t in M} log P_S(x_t | X^M)_t      at temperature 1
    L_cos = mean over real positions of 1 - cos(h^S_t, h^T_t), h the last hidden states
    L     = 5 L_ce + 2 L_mlm + 1 L_cos

The paper doesn't say over which positions L_ce is a mean. Here they are the masked ones, so that no method
pays for an MLM head elsewhere; the released code can do that too, and by default takes all real positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from tutorkd.batch import Batch
from tutorkd.errors import UserError
from tutorkd.functional import Count, mean_over
from tutorkd.methods.masked_lm import MLM_LOSS, masked_lm_loss
from tutorkd.methods.soft_targets import SOFT_CROSS_ENTROPY, check_soft_targets, soft_cross_entropy
from tutorkd.objective import MASKED, Objective
from tutorkd.reader import Ask, Reader
from tutorkd.step import LOSS_AXIS, Figure, StepOutput, Term, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@misc{sanh-etal-2019-distilbert,
  title = {{DistilBERT}, a distilled version of {BERT}: smaller, faster, cheaper and lighter},
  author = {Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas},
  year = {2019},
  note = {5th Workshop on Energy Efficient Machine Learning and Cognitive Computing, NeurIPS 2019},
  eprint = {1910.01108},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""


COSINE = Figure("loss_cosine", "L_cos", LOSS_AXIS)
FIGURES = (SOFT_CROSS_ENTROPY, MLM_LOSS, COSINE)


@dataclass
class DistilBERTSettings:
    """Constants of DistilBERT."""

    _argument_group_name = "method: DistilBERT"

    student_head: ClassVar[Objective | None] = MASKED

    soft_cross_entropy_weight: float = field(
        default=5.0, metadata={"help": "Weight of L_ce (training command of the authors' released code)."}
    )
    mlm_weight: float = field(
        default=2.0, metadata={"help": "Weight of L_mlm (training command of the authors' released code)."}
    )
    cosine_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of L_cos (training command of the authors' released code); must be 0 if the "
            "hidden sizes differ."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Temperature T of L_ce (default of the authors' released code)."}
    )


def cosine_loss(student: Tensor, teacher: Tensor, attention_mask: Tensor, num_items: Count = None) -> Tensor:
    """L_cos, the mean over real positions of 1 - cosine of the two hidden states.

    Args:
        student: (B, L, d), the student's last hidden states.
        teacher: (B, L, d), the teacher's; no gradient flows to it.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.

    Returns:
        () float32.
    """
    mask = attention_mask.float()
    distance = 1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)
    return mean_over((distance * mask).sum(), mask.sum(), num_items)


def check_hidden_sizes(student: PreTrainedModel, teacher: Teacher, settings: DistilBERTSettings) -> None:
    """Refuse a pair whose hidden states have no angle between them.

    Raises:
        UserError: if the cosine counts and the sizes differ.
    """
    s, t = student.config.hidden_size, teacher.config.hidden_size
    if settings.cosine_weight and s != t:
        raise UserError(
            f"distilbert needs hidden states of one size, but the student's is {s}, the teacher's {t}: "
            f"give the student the teacher's (--student_hidden_size {t}), or leave the cosine out (--cosine_weight 0)"
        )


class DistilBERT(nn.Module):
    """The trained module: a masked language model.

    Args:
        student: a masked language model, body and MLM head.
        teacher: a ``Teacher``.
        settings: weights of the losses and the temperature.

    Raises:
        UserError: if the student has no MLM head, vocabularies or hidden sizes differ, or the temperature
            isn't above 0.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: DistilBERTSettings):
        super().__init__()
        check_soft_targets("distilbert", student, teacher, settings.temperature)
        check_hidden_sizes(student, teacher, settings)
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X, X^M and M."""
        c, positions, weights = self.args, batch.masked_positions, batch.position_weights
        masked, real, *_ = batch.counts
        rows = batch.corrupted_ids, batch.attention_mask
        taught, learned = (
            reader(*rows, Ask(hidden=[reader.config.num_hidden_layers] if c.cosine_weight else []), positions)
            for reader in (teacher, self.reader)
        )

        soft = soft_cross_entropy(learned.logits, taught.logits, c.temperature, masked, weights)
        hard = masked_lm_loss(learned.logits, batch.original_ids, masked, weights)
        terms = [Term(SOFT_CROSS_ENTROPY, c.soft_cross_entropy_weight, soft), Term(MLM_LOSS, c.mlm_weight, hard)]
        if c.cosine_weight:
            cosine = cosine_loss(learned.hidden[-1], taught.hidden[-1], batch.mask, real)
            terms.append(Term(COSINE, c.cosine_weight, cosine))
        return weighted_sum(terms)
