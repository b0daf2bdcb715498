"""Causal language modelling: the next token of the text, without a teacher.

Reference: Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018, section 3.1.

    L = mean over positions s of -log q(x_s | x_<s)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.functional import Count, mean_over
from tutorkd.methods.next_token import Asked, logits_in_parts
from tutorkd.methods.pair import check_head
from tutorkd.objective import CAUSAL, Objective
from tutorkd.probe import IGNORED
from tutorkd.reader import Ask, Reader
from tutorkd.step import LOSS_AXIS, Figure, StepOutput
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@techreport{radford-etal-2018-improving,
  title = {Improving Language Understanding by Generative Pre-Training},
  author = {Radford, Alec and Narasimhan, Karthik and Salimans, Tim and Sutskever, Ilya},
  year = {2018},
  institution = {OpenAI}
}"""

CLM_LOSS = Figure("loss_clm", "L_clm", LOSS_AXIS)
FIGURES = (CLM_LOSS,)


@dataclass
class CausalLMSettings:
    """Causal language modelling has no constants."""

    student_head: ClassVar[Objective | None] = CAUSAL


def causal_lm_loss(reader: Reader, features: Tensor, asked: Asked, num_items: Count = None) -> Tensor:
    """The mean cross-entropy of the tokens that were asked about.

    Args:
        features: (P, d), what logits about them are made of.
        num_items: predicted positions in the whole batch; those of weight 1 by default.

    Returns:
        () float32.
    """
    losses = [
        F.cross_entropy(logits.float(), ids, reduction="none")
        for logits, ids in logits_in_parts(reader, features, asked.ids)
    ]
    return mean_over((torch.cat(losses) * asked.weights).sum(), asked.weights.sum(), num_items)


class CausalLM(nn.Module):
    """Any causal language model of transformers, trained to name the next token.

    Args:
        model: body and head.

    Raises:
        UserError: if it has no head.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        check_head("causal language modelling", model, CAUSAL, "model")
        self.model = model
        self.reader = Reader(model)

    def _features(self, batch: Batch, asked: Asked) -> Tensor:
        return self.reader(batch.input_ids, batch.attention_mask, Ask(logits=False), asked.positions).features

    def forward(self, batch: Batch, teacher: Teacher | None = None) -> StepOutput:
        """One step on X; a teacher, if there is one, isn't asked."""
        asked = Asked.of(batch, batch.input_ids)
        loss = causal_lm_loss(self.reader, self._features(batch, asked), asked, batch.counts.predicted)
        return StepOutput(loss, {CLM_LOSS.name: loss.detach()})

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """The cross-entropy of each predicted token in nats, (P,); ignored on padding."""
        asked = Asked.of(batch, batch.input_ids)
        parts = logits_in_parts(self.reader, self._features(batch, asked), asked.ids)
        losses = [-functional.token_log_probability(logits, ids) for logits, ids in parts]
        return torch.where(asked.weights > 0, torch.cat(losses), IGNORED)
