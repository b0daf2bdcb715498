"""What models are trained to say, and all that follows from it.

A masked language model says what stands at a hidden position, which it reads the whole row for; a causal one what
comes next, for which it reads what came before. An embedding model says where a text stands among others: its vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tutorkd.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Objective(NamedTuple):
    """Masked or causal language modelling, or embedding.

    Attributes:
        model_class: the auto class of models with a head for it.
        noun: what such a model is called.
        head: what its head is called.
        special_tokens: that a tokenizer must have.
        lookahead: how many positions before a token the logits about it stand.
    """

    name: Literal["masked", "causal", "embedding"]
    model_class: Any
    noun: str
    head: str
    special_tokens: tuple[str, ...]
    lookahead: int

    def logit_positions(self, positions: Tensor) -> Tensor:
        """Where the logits about the tokens at ``positions`` stand, (k,) -> (k,), both flat indices into rows."""
        return positions - self.lookahead if self.lookahead else positions

    def asked(self, batch: Batch) -> Tensor:
        """The positions whose tokens held-out rows are judged by, (k,), flat indices into rows; of an embedding model,
        whose rows are judged each as a whole, the first of each.
        """
        return batch.predicted_positions if self.lookahead else batch.masked_positions


_FRAME = ("mask_token", "cls_token", "sep_token", "pad_token")
MASKED = Objective("masked", AutoModelForMaskedLM, "masked language model", "MLM head", _FRAME, 0)
CAUSAL = Objective("causal", AutoModelForCausalLM, "causal language model", "LM head", ("eos_token",), 1)
EMBEDDING = Objective("embedding", AutoModel, "embedding model", "pooling", ("pad_token",), 0)

_CAUSAL_CLASSES = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()} - {*MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}


def objective_of(model: PreTrainedModel) -> Objective:
    """What a model is for: causal if its class is a causal language model's, else masked, as encoders are."""
    classes = {kind.__name__ for kind in type(model).__mro__}  # torch's FSDP makes one of its own out of it
    return MASKED if classes.isdisjoint(_CAUSAL_CLASSES) else CAUSAL
