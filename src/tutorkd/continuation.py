"""What a causal language model writes behind rows of tokens, by the settings that are said and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from tutorkd.hub import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Its own distribution; what isn't said, such as a cut of it, a checkpoint's generation_config.json would say.
DRAWN = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def continued(model: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: dict[str, Any]) -> Tensor:
    """What the model writes behind each prompt, (R, n); shorter ones are padded before.

    Args:
        settings: of transformers' ``GenerationConfig``; what the model's own says counts for nothing.
    """
    length = max(map(len, prompts))
    ids, mask = (torch.zeros(len(prompts), length, dtype=torch.long) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    own = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0, **settings)
    try:
        with quiet_transformers():
            device = model.device
            return cast(Any, model).generate(ids.to(device), attention_mask=mask.to(device))[:, length:]
    finally:
        model.generation_config = own
