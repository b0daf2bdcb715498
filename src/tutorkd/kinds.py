"""Whether a checkpoint is a masked or a causal language model."""

from collections.abc import Sequence
from typing import Literal

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from tutorkd.errors import UserError
from tutorkd.hub import load_config
from tutorkd.objective import CAUSAL, MASKED, Objective

Kind = Literal["masked", "causal"]

_OF_A_STACK = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def check_one_stack(
    config: PretrainedConfig, name: str, role: str, needed: Sequence[str] = _OF_A_STACK
) -> PretrainedConfig:
    """Refuse what isn't one stack of layers that reads text; gives back what it is given.

    Args:
        needed: what a configuration must tell.

    Raises:
        UserError: for an encoder-decoder, for several models in one, as those that read images too, and for layers
            without attention.
    """
    who = f"the {role} {name} is"
    choose = "name an encoder or a causal language model"
    if config.is_encoder_decoder:
        raise UserError(f"{who} an encoder-decoder ({config.model_type}), which can't be trained here: {choose}")
    lacking = [each for each in needed if not hasattr(config, each)]
    if lacking and config.sub_configs:
        parts = ", ".join(config.sub_configs)
        raise UserError(f"{who} several models in one ({config.model_type}: {parts}): {choose} that reads text alone")
    if lacking:
        raise UserError(f"{who} a {config.model_type}, which has no {', no '.join(lacking)}: {choose} with attention")
    return config


def kind_of_checkpoint(name: str) -> Kind | None:
    """What a checkpoint is by its configuration, which alone is read; None for what is neither.

    Raises:
        UserError: if there is no such model, or it can't be reached or read.
    """
    return kind_of_config(load_config(name, "model"))


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


def objective_of_config(config: PretrainedConfig) -> Objective:
    """What a model is trained for: causal language modelling if it is made for that, else masked, as any encoder may
    be.
    """
    return CAUSAL if kind_of_config(config) == "causal" else MASKED
