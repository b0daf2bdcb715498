"""Models and tokenizers by Hub name or path, with one-line errors."""

import logging as python_logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
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
    """Turn what loading ``name`` can fail with into one line.

    Raises:
        UserError: if there is no such model, it can't be reached, or its files are damaged.
    """
    try:
        with quiet_transformers():
            yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(_explain(name, role, error)) from error


def _explain(name: str, role: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    path = Path(name)
    if path.exists():
        return f"the {role} {name} can't be loaded: {reason}"
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        return f"the {role} {name}: there is no such folder"
    return (
        f"the {role} {name} is neither a folder here nor a model that the Hub gave: check the name and the network "
        f"(offline, download it beforehand or give a path); the Hub client said: {reason[:200]}"
    )


def load_tokenizer(name: str, role: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, fast, with a mask token.

    Raises:
        UserError: if there is none, or it lacks [MASK], [CLS] or [SEP].
    """
    with loading(name, role):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    for token in ("mask_token", "cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"the tokenizer of the {role} {name} has no {token}, which masked language modelling needs")
    return tokenizer
