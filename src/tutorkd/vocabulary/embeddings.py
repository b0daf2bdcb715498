"""The embeddings and the head of a model, of some of its tokens alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tutorkd.errors import UserError
from tutorkd.hub import quiet_transformers

_NAMED = "_token_id"  # how the names of ids in configurations end


def named_ids(model: PreTrainedModel) -> set[int]:
    """Ids of tokens that a model's configurations name, such as that of padding."""
    configs = [model.config, getattr(model, "generation_config", None)]
    return {
        number
        for config in configs
        for told in _named(config).values()
        for number in (told if isinstance(told, list) else [told])
    }


def _named(config: Any) -> dict[str, Any]:
    return {name: told for name, told in vars(config or object).items() if name.endswith(_NAMED) and told is not None}


def check_table(model: PreTrainedModel, tokens: int) -> nn.Embedding:
    """A model's embeddings, a row for each token and perhaps more.

    Raises:
        UserError: if they aren't one table, or its rows are fewer than the tokens.
    """
    embeddings, who = model.get_input_embeddings(), f"the model {model.config.name_or_path}"
    if not isinstance(embeddings, nn.Embedding):
        raise UserError(f"{who} can't be trimmed: its embeddings aren't one table with a row for each token")
    if embeddings.num_embeddings < tokens:
        raise UserError(f"{who} has embeddings of {embeddings.num_embeddings:,} tokens, its tokenizer {tokens:,}")
    return embeddings


def parameters_with(model: PreTrainedModel, tokens: int) -> int:
    """How many parameters a model has if it keeps so many tokens."""
    rows = check_table(model, tokens).num_embeddings
    a_token = sum(each.numel() // rows for each in model.parameters() if each.shape[:1] == (rows,))
    return model.num_parameters() - (rows - tokens) * a_token


@torch.no_grad()
def trim_embeddings(model: PreTrainedModel, kept: np.ndarray) -> None:
    """Leave a model the embeddings and logits of some of its tokens, which get their places in ``kept`` as ids.

    Args:
        model: is changed.
        kept: ids of the tokens that stay, in rising order, (tokens,).

    Raises:
        UserError: as ``check_table``.
    """
    embeddings, head = check_table(model, int(kept[-1]) + 1), model.get_output_embeddings()
    rows, index = embeddings.num_embeddings, torch.from_numpy(kept)
    weights = [embeddings.weight, getattr(head, "weight", None), getattr(head, "bias", None)]
    for weight in {id(each): each for each in weights if each is not None and len(each) == rows}.values():
        weight[: len(kept)] = weight[index]  # a copy of them on the right, so that none is written before it is read
    with quiet_transformers():
        model.resize_token_embeddings(len(kept))
    for module in model.modules():  # a head's bias may stand apart from its matrix
        for name, bias in list(module.named_parameters(recurse=False)):
            if bias.shape == (rows,) and rows != len(kept):
                setattr(module, name, nn.Parameter(bias[index]))
    new_ids = {int(old): new for new, old in enumerate(kept)}
    for config in (model.config, getattr(model, "generation_config", None)):
        _renumber(config, new_ids)


def _renumber(config: PretrainedConfig | Any, new_ids: Mapping[int, int]) -> None:
    """Put new ids into a configuration; those that stand for no token are taken out, where it can do without."""
    for name, told in _named(config).items():
        several = isinstance(told, list)
        new = [new_ids[number] for number in (told if several else [told]) if number in new_ids]
        with suppress(StrictDataclassFieldValidationError):
            setattr(config, name, (new if several else new[0]) if new else None)
