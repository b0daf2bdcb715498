"""The embeddings and the head of a model, of some of its tokens alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from tutorkd.errors import UserError
from tutorkd.hub import quiet_transformers
from tutorkd.vocabulary.pieces import places_of

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


def parameters_with(model: PreTrainedModel, sizes: Sequence[int]) -> list[int]:
    """How many parameters a model has if it keeps so many tokens, for each of some numbers."""
    rows, parameters = check_table(model, max(sizes)).num_embeddings, model.num_parameters()
    a_token = _of_one_more(model, rows).num_parameters() - parameters
    return [parameters - (rows - tokens) * a_token for tokens in sizes]


def _of_one_more(model: PreTrainedModel, rows: int) -> PreTrainedModel:
    """A model like another one whose embeddings have one row more, without memory for its weights.

    It shows which of them have a row for each token, and not the same size by chance, as a layer's may.
    """
    config = copy.deepcopy(model.config)
    config.vocab_size = rows + 1
    with torch.device("meta"):
        return type(model)(config)


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
    new_ids = places_of(kept)
    biases = _biases(model, rows)
    weights = [embeddings.weight, getattr(head, "weight", None), getattr(head, "bias", None)]
    for weight in {id(each): each for each in weights if each is not None and len(each) == rows}.values():
        weight[: len(kept)] = weight[index]  # a copy of them on the right, so that none is written before it is read
    padding = embeddings.padding_idx
    with quiet_transformers():
        model.resize_token_embeddings(len(kept))
    if padding is not None:
        check_table(model, len(kept)).padding_idx = new_ids.get(padding)
    if rows != len(kept):
        for module, name in biases:
            bias = getattr(module, name)
            if bias.shape == (rows,):
                setattr(module, name, nn.Parameter(bias[index]))
    for config in (model.config, getattr(model, "generation_config", None)):
        _renumber(config, new_ids)
    _renumber_generation(getattr(model, "generation_config", None), new_ids)


def _biases(model: PreTrainedModel, rows: int) -> list[tuple[nn.Module, str]]:
    """Where a model has a number for each row of its embeddings, as a head whose bias stands apart has."""
    other = dict(_of_one_more(model, rows).named_parameters(remove_duplicate=False))
    return [
        (module, name)
        for path, module in model.named_modules()
        for name, bias in module.named_parameters(recurse=False)
        if bias.shape == (rows,) and other[f"{path}.{name}".lstrip(".")].shape != bias.shape
    ]


def _renumber_generation(config: GenerationConfig | None, new_ids: Mapping[int, int]) -> None:
    """Put new ids where a configuration of generation forbids or favours tokens; what names a token that is gone is
    taken out.
    """
    if config is None:
        return
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if told := getattr(config, name, None):
            setattr(config, name, [new_ids[number] for number in told if number in new_ids] or None)
    if config.bad_words_ids:
        told = [words for words in config.bad_words_ids if new_ids.keys() >= {*words}]
        config.bad_words_ids = [[new_ids[number] for number in words] for words in told] or None
    if config.sequence_bias:
        biased = config.sequence_bias.items() if isinstance(config.sequence_bias, dict) else config.sequence_bias
        told = [(words, bias) for words, bias in biased if new_ids.keys() >= {*words}]
        config.sequence_bias = [[[new_ids[number] for number in words], bias] for words, bias in told] or None


def _renumber(config: PretrainedConfig | Any, new_ids: Mapping[int, int]) -> None:
    """Put new ids into a configuration; those that stand for no token are taken out, where it can do without."""
    for name, told in _named(config).items():
        several = isinstance(told, list)
        new = [new_ids[number] for number in (told if several else [told]) if number in new_ids]
        with suppress(StrictDataclassFieldValidationError):
            setattr(config, name, (new if several else new[0]) if new else None)
