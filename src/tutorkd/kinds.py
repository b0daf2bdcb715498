"""Whether a checkpoint is a masked or a causal language model."""

from typing import Literal

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tutorkd.hub import load_config
from tutorkd.objective import CAUSAL, MASKED, Objective

Kind = Literal["masked", "causal"]


def kind_of_checkpoint(name: str, trust_remote_code: bool = False) -> Kind | None:
    """What a checkpoint is by its configuration, which alone is read; None for what is neither.

    Raises:
        UserError: if there is no such model, or it can't be reached or read.
    """
    return kind_of_config(load_config(name, "model", trust_remote_code))


def kind_of_config(config: PretrainedConfig) -> Kind | None:
    """The class that wrote the checkpoint decides; where it has neither head, what its family is made for.

    A family with both, as BERT's, is made of encoders, unless this one is set up as a decoder.
    """
    masked, causal = MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    own = getattr(config, "auto_map", {})
    for architecture in config.architectures or []:
        if architecture in masked.values():
            return "masked"
        if architecture in causal.values():
            return "causal"
    if config.model_type in masked or "AutoModelForMaskedLM" in own:
        return "causal" if getattr(config, "is_decoder", False) and config.model_type in causal else "masked"
    return "causal" if config.model_type in causal or "AutoModelForCausalLM" in own else None


def objective_of_checkpoint(name: str, trust_remote_code: bool = False) -> Objective:
    """What a checkpoint is trained for further, as ``objective_of_config`` tells.

    Raises:
        UserError: as ``kind_of_checkpoint``.
    """
    return objective_of_config(load_config(name, "model", trust_remote_code))


def objective_of_config(config: PretrainedConfig) -> Objective:
    """What a model is trained for: causal language modelling if it is made for that, else masked, as any encoder may
    be.
    """
    return CAUSAL if kind_of_config(config) == "causal" else MASKED
