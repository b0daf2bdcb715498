"""A model's sizes and layers, as far as slices of its weights depend on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Sizes(NamedTuple):
    """Of a model's dimensions."""

    hidden: int
    embedding: int  # 0 where that is the hidden size
    heads: int
    shared: int  # heads that keys and values have
    of_a_head: int
    counted: list[int]  # of dimensions whose first places are kept: ids of tokens, positions, types

    @classmethod
    def of(cls, config: PretrainedConfig) -> Sizes:
        hidden, heads = config.hidden_size, config.num_attention_heads
        embedding = getattr(config, "embedding_size", None) or hidden
        return cls(
            hidden,
            0 if embedding == hidden else embedding,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or hidden // heads,
            [getattr(config, name, 0) for name in ("vocab_size", "max_position_embeddings", "type_vocab_size")],
        )

    @property
    def of_queries(self) -> int:
        """Of all heads' queries together."""
        return self.heads * self.of_a_head

    @property
    def of_keys(self) -> int:
        """Of all heads' keys together, and of their values."""
        return self.shared * self.of_a_head

    @property
    def measures(self) -> list[int]:
        """Of dimensions that mean the same in two models."""
        return [self.hidden, self.embedding, self.of_queries, self.of_keys]


def stack_of(model: PreTrainedModel) -> str | None:
    """Name of the module list that holds the layers; None where all layers share one (ALBERT)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name
    return None


def layer_of(name: str, stack: str | None) -> str | None:
    """The layer that a weight or module is in, by the layer's own name; None outside of the layers.

    Args:
        stack: as of ``stack_of``. Where all layers share one, everything counts as inside, and the name is empty.
    """
    if stack is None:
        return ""
    if not name.startswith(f"{stack}."):
        return None
    return f"{stack}.{name[len(stack) + 1 :].partition('.')[0]}"
