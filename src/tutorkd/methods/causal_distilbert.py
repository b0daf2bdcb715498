"""DistilBERT's recipe for causal models, as DistilGPT2 was trained: soft targets, the text, the last hidden states.

Reference: as ``tutorkd.methods.distilbert``, whose constants it takes. With P(v)_s = softmax(z_s / T)_v of the logits
about x_s,

    L_ce  = T^2 * mean over positions s of -sum_v P_T(v | x_<s) log P_S(v | x_<s)
    L_clm = mean over positions s of -log P_S(x_s | x_<s)      at temperature 1
    L_cos = mean over real positions of 1 - cos(h^S_s, h^T_s), h the last hidden states
    L     = 5 L_ce + 2 L_clm + 1 L_cos
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tutorkd.batch import Batch
from tutorkd.functional import mean_over
from tutorkd.methods.causal_lm import CLM_LOSS
from tutorkd.methods.distilbert import COSINE, DistilBERTSettings, check_hidden_sizes, cosine_loss
from tutorkd.methods.next_token import Asked, logits_in_parts
from tutorkd.methods.pair import check_head, check_vocabulary
from tutorkd.methods.soft_targets import SOFT_CROSS_ENTROPY, soft_cross_entropy
from tutorkd.objective import CAUSAL, Objective
from tutorkd.reader import Ask, Reader
from tutorkd.settings import check_temperature
from tutorkd.step import StepOutput, Term, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIGURES = (SOFT_CROSS_ENTROPY, CLM_LOSS, COSINE)


@dataclass
class CausalDistilBERTSettings(DistilBERTSettings):
    """Constants of DistilBERT; ``mlm_weight`` is that of L_clm."""

    student_head: ClassVar[Objective | None] = CAUSAL


class CausalDistilBERT(nn.Module):
    """The trained module: a causal language model.

    Args:
        student: body and head.
        teacher: a ``Teacher`` of a causal language model.
        settings: weights of the losses and the temperature.

    Raises:
        UserError: if vocabularies or hidden sizes differ, or the temperature isn't above 0.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: CausalDistilBERTSettings):
        super().__init__()
        check_vocabulary(student, teacher)
        check_head("distilbert", student, CAUSAL)
        check_temperature(settings.temperature)
        check_hidden_sizes(student, teacher, settings)
        self.student = student
        self.reader = Reader(student)
        self.args = settings

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X."""
        c, asked = self.args, Asked.of(batch, batch.input_ids)
        predicted = batch.counts.predicted
        taught, learned = (
            reader(
                batch.input_ids,
                batch.attention_mask,
                Ask(hidden=[reader.config.num_hidden_layers] if c.cosine_weight else [], logits=reader is teacher),
                asked.positions,
            )
            for reader in (teacher, self.reader)
        )
        soft, hard = [], []
        parts = logits_in_parts(self.reader, learned.features, taught.logits, asked.ids, asked.weights)
        for logits, targets, ids, weights in parts:
            soft.append(soft_cross_entropy(logits, targets, c.temperature, predicted, weights))
            hard.append((F.cross_entropy(logits.float(), ids, reduction="none") * weights).sum())
        clm = mean_over(torch.stack(hard).sum(), asked.weights.sum(), predicted)
        terms = [
            Term(SOFT_CROSS_ENTROPY, c.soft_cross_entropy_weight, torch.stack(soft).sum()),
            Term(CLM_LOSS, c.mlm_weight, clm),
        ]
        if c.cosine_weight:
            cosine = cosine_loss(learned.hidden[-1], taught.hidden[-1], batch.mask, batch.counts.real)
            terms.append(Term(COSINE, c.cosine_weight, cosine))
        return weighted_sum(terms)
