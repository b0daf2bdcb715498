"""What a causal language model writes behind rows of tokens, by the settings that are said and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from tutorkd.hub import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Its own distribution; what isn't said, such as a cut of it, a checkpoint's generation_config.json would say.
DRAWN = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def continued(model: PreTrainedModel, ids: Tensor, settings: dict[str, Any]) -> Tensor:
    """Rows of equal length, (R, L), with what the model writes behind them, (R, more than L).

    Args:
        settings: of transformers' ``GenerationConfig``; what the model's own says counts for nothing.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0, **settings)
    try:
        with quiet_transformers():
            return cast(Any, model).generate(ids, attention_mask=torch.ones_like(ids))
    finally:
        model.generation_config = own
