"""How a narrower model starts from a wider one: with evenly spaced slices of its weights.

Of each dimension of the wider model the narrower one keeps some at even distances, and the same in all weights, so that
what one layer writes is what the next one reads. Of heads it keeps whole ones, or evenly spaced dimensions of each, or
both. Values aren't scaled.

Source: Xu et al., "Initializing Models with Larger Ones", ICLR 2024 (arXiv 2311.18823), section 3: uniform selection.
Heads are our addition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig


class _Sizes(NamedTuple):
    """Of a model, as far as slices depend on them."""

    hidden: int
    embedding: int  # 0 where that is the hidden size
    heads: int
    shared: int  # heads that keys and values have
    of_a_head: int
    counted: list[int]  # of dimensions whose first places are kept: ids of tokens, positions, types

    @classmethod
    def of(cls, config: PretrainedConfig) -> _Sizes:
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
    def measures(self) -> list[int]:
        """Of dimensions that mean the same in two models."""
        return [self.hidden, self.embedding, self.heads * self.of_a_head, self.shared * self.of_a_head]


class Slices:
    """What a model takes over of the weights of a wider one of its family.

    Nothing is sliced if only one of the two factorises its embeddings: then what the layers read would be of random
    dimensions, for which slices were no better than random weights (RESULTS.md, "A narrower student").

    Args:
        wide: configuration of the model that is sliced.
        narrow: of the one that starts from it; any of their sizes may be equal.
    """

    def __init__(self, wide: PretrainedConfig, narrow: PretrainedConfig):
        self.wide, self.narrow = _Sizes.of(wide), _Sizes.of(narrow)
        self._linked = bool(self.wide.embedding) == bool(self.narrow.embedding)

    @torch.no_grad()
    def copy(self, name: str, weight: Tensor, target: Tensor) -> bool:
        """Fill a weight of the narrower model with what it keeps of the wider one's weight at the same place.

        Args:
            name: of the weight.
            weight: the wider model's.
            target: the narrower model's, filled in place. Rows of ids that ``weight`` lacks stay as they are.

        Returns:
            Whether the shapes allow it. If they don't, the target stays as it is.
        """
        if weight.dim() != target.dim() or (weight.shape != target.shape and not self._linked):
            return False
        if "query_key_value" in name and self.wide.heads != self.narrow.heads:
            return False  # where the three of a head lie together, slices would mix them
        for dim, sizes in enumerate(zip(weight.shape, target.shape, strict=True)):
            if sizes[0] == sizes[1]:
                continue
            if sizes in zip(self.wide.counted, self.narrow.counted, strict=True):
                weight, target = (each.narrow(dim, 0, min(sizes)) for each in (weight, target))
            elif kept := self._kept(*sizes):
                weight = weight.index_select(dim, torch.tensor(kept, device=weight.device))
            else:
                return False
        target.copy_(weight)
        return True

    def _kept(self, size: int, wanted: int) -> list[int]:
        """The places of a dimension that are kept; none if there are too few, or if they mean something else."""
        pairs = zip(self.wide.measures, self.narrow.measures, strict=True)
        alike = [narrow for wide, narrow in pairs if wide == size]
        if wanted > size or (alike and wanted not in alike):
            return []
        if not (heads := self._heads(size, wanted)):
            return _even(size, wanted)
        return [
            head * self.wide.of_a_head + k for head in heads for k in _even(self.wide.of_a_head, self.narrow.of_a_head)
        ]

    def _heads(self, size: int, wanted: int) -> list[int]:
        """The same in heads; none where the dimension doesn't consist of them, or a head can't be kept in part."""
        wide, narrow = self.wide, self.narrow
        (heads, rest), (kept, other) = divmod(size, wide.of_a_head), divmod(wanted, narrow.of_a_head)
        if rest or other or narrow.heads > wide.heads or narrow.of_a_head > wide.of_a_head:
            return []
        keys = _even(wide.shared, narrow.shared)
        of_a_key = wide.heads // wide.shared
        queries = [key * of_a_key + each for key in keys for each in _even(of_a_key, narrow.heads // narrow.shared)]
        together = [*queries, *(wide.heads + part * wide.shared + key for part in (0, 1) for key in keys)]
        all_kept = {(wide.heads, narrow.heads): queries, (wide.shared, narrow.shared): keys}
        all_kept[wide.heads + 2 * wide.shared, narrow.heads + 2 * narrow.shared] = together  # in one weight
        return all_kept.get((heads, kept), [])


def _even(size: int, wanted: int) -> list[int]:
    """Places at even distances, rising; each of them again and again where more are wanted than there are."""
    return [place * size // wanted for place in range(wanted)]
