"""What a causal language model writes behind rows of tokens, by the settings that are said and no others."""

from __future__ import annotations

from collections.abc import Container, Sequence
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


def ends_of(settings: GenerationConfig | None) -> list[int]:
    """The tokens that end a text by a model's settings for generation."""
    told = getattr(settings, "eos_token_id", None)
    return told if isinstance(told, list) else [] if told is None else [told]


def up_to_end(written: list[int], ends: Container[int]) -> list[int]:
    """What a model has written, to the first token that ends a text, which is a part of it; all where none does."""
    return written[: next((place + 1 for place, token in enumerate(written) if token in ends), len(written))]
