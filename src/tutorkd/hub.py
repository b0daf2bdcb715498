"""Models and tokenizers by Hub name or path, with one-line errors."""

import logging as python_logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session, is_offline_mode, try_to_load_from_cache
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tutorkd.errors import UserError


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' notices below errors, and its bars for work of a moment; what matters we say."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(python_logging.ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(name: str, role: str) -> Iterator[None]:
    """Turn what loading ``name`` can fail with into one line, at once where there is no network.

    Raises:
        UserError: if there is no such model, it can't be reached, or its files are damaged.
    """
    try:
        if not (Path(name).exists() or try_to_load_from_cache(name, "config.json") or is_offline_mode()):
            _ask_hub()
        with quiet_transformers():
            yield
    except Exception as error:  # errors of the Hub client, transformers, tokenizers and safetensors share no base class
        raise UserError(_explain(name, role, error)) from error


@cache
def _ask_hub() -> None:
    """Once, and without the client's retries, which take most of a minute where there is no network.

    Raises:
        Exception: what the client's library says where the Hub can't be reached.
    """
    get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def _explain(name: str, role: str, error: Exception) -> str:
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    path = Path(name)
    if path.exists():
        return f"the {role} {name} can't be loaded: {reason}"
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        return f"the {role} {name}: there is no such folder"
    return (
        f"the {role} {name} is neither a folder here nor a model that the Hub gave: check the name and the network "
        f"(offline, download it beforehand or give a path); the Hub client said: {reason}"
    )


def load_model(
    kind: Any,
    name: str,
    role: str,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint as a model of ``kind``, an auto class, and the names of the head's weights that it lacks.

    transformers fills what a checkpoint lacks at random; only a head, or a pooler, may start that way.

    Raises:
        UserError: if there is no such model, it can't be reached, or it isn't a whole encoder.
    """
    with loading(name, role):
        model, info = kind.from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,  # the other format is pickle
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    lacking = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    # Masked language models are saved without the pooler that the bare encoders of some families have.
    wrong = [key for key in lacking if key.startswith(body) and "pooler" not in key.split(".")]
    if wrong:
        raise UserError(
            f"the {role} {name} isn't a whole {model.config.model_type} encoder: {len(wrong)} weights are missing or "
            f"have another shape than its config.json says, such as {wrong[0]}"
        )
    return model, [key for key in lacking if not key.startswith(body)]


def has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there was a tokenizer to load: of a config alone transformers makes one of special tokens."""
    return len(tokenizer) > len(tokenizer.all_special_tokens)


def load_tokenizer(name: str, role: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, fast, with a mask token.

    Raises:
        UserError: if there is none, or it lacks [MASK], [CLS], [SEP] or [PAD].
    """
    with loading(name, role):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    if not has_vocabulary(tokenizer):
        raise UserError(f"the {role} {name} has no tokenizer: there is no vocabulary beside its weights")
    for token in ("mask_token", "cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"the tokenizer of the {role} {name} has no {token}, which masked language modelling needs")
    return tokenizer
