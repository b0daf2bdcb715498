"""Which losses between the layers of student and teacher count, and how much."""

from dataclasses import dataclass, field
from typing import Protocol


class LayerWeights(Protocol):
    """Settings that say which layers' losses count; a weight of 0 turns one off."""

    hidden_state_weight: float
    attention_score_weight: float
    relation_weight: float
    relation_heads: int | None


RELATION_HEADS_HELP = {
    "help": "Relation heads A_r, which divide the hidden sizes of student and teacher; by default 48 where that does "
    "(Wang et al. 2021, for base-size teachers), else the most up to 64 with 8 dimensions or more each."
}


@dataclass(kw_only=True)
class RelationSettings:
    """L_rel, which none of the papers has beside their other losses."""

    relation_weight: float = field(
        default=0.0, metadata={"help": "Weight of L_rel, the loss of MiniLM v2 (Wang et al. 2021); heads may differ."}
    )
    relation_heads: int | None = field(default=None, metadata=RELATION_HEADS_HELP)
