"""KD: the student matches the teacher's MLM distribution at the masked positions.

Reference: Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the Knowledge in a Neural Network", NIPS
2014 Deep Learning Workshop, section 2 (arXiv 1503.02531, 2015).

Teacher and student read X^M. With P(v)_t = softmax(z_t / T)_v, z the MLM logits and T the temperature,

    L = T^2 * (1/k) sum_{t in M} -sum_v P_T(v | X^M)_t log P_S(v | X^M)_t

There are no hard targets: the tokens of the text don't enter the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from tutorkd.batch import Batch
from tutorkd.methods.soft_targets import SOFT_CROSS_ENTROPY, check_soft_targets, soft_cross_entropy
from tutorkd.objective import MASKED, Objective
from tutorkd.reader import Reader
from tutorkd.step import StepOutput
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@misc{hinton-etal-2015-distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year = {2015},
  note = {NIPS 2014 Deep Learning Workshop},
  eprint = {1503.02531},
  archivePrefix = {arXiv},
  primaryClass = {stat.ML}
}"""


FIGURES = (SOFT_CROSS_ENTROPY,)


@dataclass
class KDSettings:
    """Constants of KD."""

    _argument_group_name = "method: KD"

    student_head: ClassVar[Objective | None] = MASKED

    temperature: float = field(
        default=2.0,
        metadata={"help": "Temperature T of both softmaxes (Hinton et al. 2015, section 4.1: best of 1, 2, 5, 10)."},
    )


class KD(nn.Module):
    """The trained module: a masked language model.

    Args:
        student: a masked language model, body and MLM head.
        teacher: a ``Teacher``.
        settings: the temperature.

    Raises:
        UserError: if the student has no MLM head, the vocabularies differ, or the temperature isn't above 0.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: KDSettings):
        super().__init__()
        check_soft_targets("kd", student, teacher, settings.temperature)
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X^M and M; X isn't read."""
        rows = batch.corrupted_ids, batch.attention_mask
        taught = teacher(*rows, positions=batch.masked_positions)
        learned = self.reader(*rows, positions=batch.masked_positions)
        logits = learned.logits, taught.logits
        loss = soft_cross_entropy(*logits, self.args.temperature, batch.counts.masked, batch.position_weights)
        return StepOutput(loss, {SOFT_CROSS_ENTROPY.name: loss.detach()})
