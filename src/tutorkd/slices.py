"""How a narrower model starts from a wider one: with slices of its weights.

Of each dimension of the wider model the narrower one keeps some, and the same in all weights that share it, so that
what one layer writes is what the next one reads. Where it is known which matter on a text (``tutorkd.importance``),
these stay: of hidden dimensions, of each layer's heads, and of each layer's neurons. Else, and of the dimensions of a
head, it keeps some at even distances. Values aren't scaled.

Source of even distances: Xu et al., "Initializing Models with Larger Ones", ICLR 2024 (arXiv 2311.18823), section 3:
uniform selection. Heads are our addition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

from tutorkd.importance import Importance, Place, most_important
from tutorkd.sizes import Sizes


class Slices:
    """What a model takes over of the weights of a wider one of its family.

    Nothing is sliced if only one of the two factorises its embeddings: then what the layers read would be of random
    dimensions, for which slices were no better than random weights (RESULTS.md, "A narrower student").

    Args:
        wide: configuration of the model that is sliced.
        narrow: of the one that starts from it; any of their sizes may be equal.
        importance: of the wider model's dimensions; without it they are kept at even distances.
    """

    def __init__(self, wide: PretrainedConfig, narrow: PretrainedConfig, importance: Importance | None = None):
        self.wide, self.narrow, self.importance = Sizes.of(wide), Sizes.of(narrow), importance
        self._linked = bool(self.wide.embedding) == bool(self.narrow.embedding)

    @torch.no_grad()
    def copy(self, name: str, weight: Tensor, target: Tensor, layer: str | None = None) -> bool:
        """Fill a weight of the narrower model with what it keeps of the wider one's weight at the same place.

        Args:
            name: of the weight in the wider model's body.
            layer: of the wider model that it is in; by default none.
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
            elif kept := self._kept((name, dim), layer, *sizes):
                weight = weight.index_select(dim, torch.tensor(kept, device=weight.device))
            else:
                return False
        target.copy_(weight)
        return True

    def _kept(self, place: Place, layer: str | None, size: int, wanted: int) -> list[int]:
        """The places of a dimension that are kept; none if there are too few, or if they mean something else."""
        pairs = zip(self.wide.measures, self.narrow.measures, strict=True)
        alike = [narrow for wide, narrow in pairs if wide == size != narrow]  # one that stays as it is isn't this one
        if wanted > size or (alike and wanted not in alike):
            return []
        known, of_heads = self.importance, None
        if known is not None:
            if place in known.of_neurons:
                return _chosen(known.neurons.get(layer or ""), size, wanted)
            if (size, wanted) == (self.wide.hidden, self.narrow.hidden) and place not in known.of_heads:
                return _chosen(known.hidden, size, wanted)
            of_heads = known.heads.get(layer or "")
        if not (heads := self._heads(of_heads, size, wanted)):
            return _even(size, wanted)
        return [
            head * self.wide.of_a_head + k for head in heads for k in _even(self.wide.of_a_head, self.narrow.of_a_head)
        ]

    def _heads(self, importance: Tensor | None, size: int, wanted: int) -> list[int]:
        """The same in heads; none where the dimension doesn't consist of them, or a head can't be kept in part."""
        wide, narrow = self.wide, self.narrow
        (heads, rest), (kept, other) = divmod(size, wide.of_a_head), divmod(wanted, narrow.of_a_head)
        if rest or other or narrow.heads > wide.heads or narrow.of_a_head > wide.of_a_head:
            return []
        of_a_key = wide.heads // wide.shared
        of_each = [None] * wide.shared if importance is None else list(importance.view(wide.shared, of_a_key))
        of_keys = None if importance is None else importance.view(wide.shared, of_a_key).sum(1)
        keys = _chosen(of_keys, wide.shared, narrow.shared)
        share = of_a_key, narrow.heads // narrow.shared
        queries = [key * of_a_key + each for key in keys for each in _chosen(of_each[key], *share)]
        together = [*queries, *(wide.heads + part * wide.shared + key for part in (0, 1) for key in keys)]
        all_kept = {(wide.heads, narrow.heads): queries, (wide.shared, narrow.shared): keys}
        all_kept[wide.heads + 2 * wide.shared, narrow.heads + 2 * narrow.shared] = together  # in one weight
        return all_kept.get((heads, kept), [])


def _chosen(importance: Tensor | None, size: int, wanted: int) -> list[int]:
    """The most important places, rising; those at even distances where that isn't known, or more are wanted than there
    are. A dimension of several parts that are as long, such as a gate and what it lets through, keeps the same of each.
    """
    if importance is None or size % len(importance) or wanted > size:
        return _even(size, wanted)
    parts = size // len(importance)
    best = most_important(importance, wanted // parts)
    return [part * len(importance) + place for part in range(parts) for place in best]


def _even(size: int, wanted: int) -> list[int]:
    """Places at even distances, rising; each of them again and again where more are wanted than there are."""
    return [place * size // wanted for place in range(wanted)]
