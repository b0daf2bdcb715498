"""The student's answer to Tutor-KD's question: is the token that stands here the text's?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from tutorkd.step import LOSS_AXIS, Figure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODIFIED_LOGIT = Figure("loss_modified_logit", "L_mod", LOSS_AXIS)


class ModifiedLogitHead(nn.Module):
    """f(h): dense, GELU, LayerNorm, linear to one number; (..., d) -> (...) logits."""

    def __init__(self, student: PreTrainedModel):
        super().__init__()
        size = student.config.hidden_size
        self.dense = nn.Linear(size, size)
        self.LayerNorm = nn.LayerNorm(size)
        self.classifier = nn.Linear(size, 1)
        for linear in (self.dense, self.classifier):
            nn.init.normal_(linear.weight, std=getattr(student.config, "initializer_range", 0.02))
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.LayerNorm(F.gelu(self.dense(hidden)))).squeeze(-1)
