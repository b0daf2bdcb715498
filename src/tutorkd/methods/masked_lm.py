"""Masked-language-model training, with the head on the masked positions alone.

Reference: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL
2019, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutorkd.batch import Batch
from tutorkd.functional import Count, mean_over, weighted
from tutorkd.methods.pair import check_head
from tutorkd.objective import MASKED, Objective
from tutorkd.reader import Reader
from tutorkd.step import LOSS_AXIS, Figure, StepOutput
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{devlin-etal-2019-bert,
  title = {{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding},
  author = {Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina},
  booktitle = {Proceedings of the 2019 Conference of the North American Chapter of the Association for Computational
               Linguistics: Human Language Technologies},
  year = {2019},
  pages = {4171--4186},
  doi = {10.18653/v1/N19-1423}
}"""


MLM_ACCURACY = Figure("mlm_accuracy", "accuracy")
MLM_LOSS = Figure("loss_mlm", "L_mlm", LOSS_AXIS)
FIGURES = (MLM_ACCURACY,)


@dataclass
class MaskedLMSettings:
    """Masked-language modelling has no constants beside the masking's, which all methods share."""

    student_head: ClassVar[Objective | None] = MASKED


def masked_lm_loss(
    logits: Tensor, original_ids: Tensor, num_items: Count = None, weight: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy of the tokens of the text at the masked positions.

    Args:
        logits: (k, V).
        original_ids: (k,).
        num_items: masked positions in the whole batch; k by default.
        weight: (k,), of each position in the sum; 1 by default.

    Returns:
        () float32.
    """
    losses = F.cross_entropy(logits.float(), original_ids, reduction="none")
    return mean_over(weighted(losses, weight).sum(), len(original_ids), num_items)


class MaskedLM(nn.Module):
    """Any masked language model of transformers, trained to name the masked tokens.

    Args:
        model: body and MLM head.

    Raises:
        UserError: if it has no head.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        check_head("masked-language modelling", model, MASKED, "model")
        self.model = model
        self.reader = Reader(model)

    def _logits(self, batch: Batch) -> Tensor:
        reading = self.reader(batch.corrupted_ids, batch.attention_mask, positions=batch.masked_positions)
        return reading.logits.float()

    def forward(self, batch: Batch, teacher: Teacher | None = None) -> StepOutput:
        """Mean cross-entropy at the masked positions of X^M; a teacher, if there is one, isn't asked."""
        logits, labels = self._logits(batch), batch.original_ids
        masked, weights = batch.counts.masked, batch.position_weights
        named = (logits.argmax(-1) == labels) * weights
        return StepOutput(
            masked_lm_loss(logits, labels, masked, weights),
            {MLM_ACCURACY.name: mean_over(named.sum(), len(named), masked)},
        )

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each masked position its cross-entropy in nats and whether the token was named: (k,), (k,)."""
        logits, labels = self._logits(batch), batch.original_ids
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(-1) == labels).float()
