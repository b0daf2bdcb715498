"""Masked-language-model training, with the head on the masked positions alone.

Reference: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL
2019, section 3.1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutorkd.data.masking import BatchCounts
from tutorkd.step import StepOutput, at_positions
from tutorkd.teacher import MLMHead, Teacher

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


@dataclass
class MaskedLMSettings:
    """Masked-language modelling has no constants beside the masking's, which all methods share."""

    needs_mlm_head: ClassVar[bool] = True


class MaskedLM(nn.Module):
    """Any masked language model of transformers, trained to name the masked tokens.

    Args:
        model: body and MLM head.
    """

    accepts_loss_kwargs = True

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.head = MLMHead(model)

    def _logits(self, corrupted_ids: Tensor, masked_positions: Tensor, attention_mask: Tensor | None) -> Tensor:
        hidden = self.model.base_model(input_ids=corrupted_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(at_positions(hidden, masked_positions)).float()

    def forward(
        self,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        num_items: BatchCounts | None = None,
    ) -> StepOutput:
        """Mean cross-entropy at the masked positions of X^M (B, L); a teacher, if there is one, isn't asked."""
        logits = self._logits(corrupted_ids, masked_positions, attention_mask)
        labels = input_ids.flatten()[masked_positions]
        k = max(len(labels), 1) if num_items is None else num_items.masked
        loss = F.cross_entropy(logits, labels, reduction="sum") / k
        return StepOutput(loss, {"mlm_accuracy": (logits.argmax(-1) == labels).sum() / k})

    @torch.no_grad()
    def score(
        self,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """For each masked position its cross-entropy in nats and whether the token was named: (k,), (k,)."""
        logits = self._logits(corrupted_ids, masked_positions, attention_mask)
        labels = input_ids.flatten()[masked_positions]
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(-1) == labels).float()
