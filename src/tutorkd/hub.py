"""Models and tokenizers by Hub name or path, with one-line errors."""

from __future__ import annotations

import logging as python_logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, AutoTokenizer, GgufConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.import_utils import is_gguf_available

from tutorkd.errors import UserError, closest, nearest
from tutorkd.hub_access import HubRefusal, first_line, reaching
from tutorkd.objective import MASKED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_NAMED = 4  # of the checkpoints in a folder


@contextmanager
def quiet_transformers(*others: str) -> Iterator[None]:
    """Hold back transformers' notices below errors, and its bars for work of a moment; what matters we say.

    Args:
        others: loggers whose notices are held back too.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    levels = {logger: logger.level for logger in map(python_logging.getLogger, others)}
    logging.set_verbosity(python_logging.ERROR)
    logging.disable_progress_bar()
    for logger in levels:
        logger.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(name: str, role: str, presets: Sequence[str] = ()) -> Iterator[None]:
    """Turn what loading ``name`` can fail with into one line.

    Args:
        presets: names that would have been neither looked for here nor on the Hub.

    Raises:
        UserError: if there is no such model, it can't be reached, or its files are damaged.
    """
    folder, gguf = files_of(name)
    local, what = Path(name).exists(), "file" if gguf else "folder"
    if not local and (looks_like_path(folder) or (gguf and ("/" not in folder or Path(folder).is_dir()))):
        raise UserError(f"the {role} {name}: there is no such {what}{nearest_path(name)}")
    if local and not gguf and Path(name).is_file():
        raise UserError(f"the {role} {name} is a file: give the folder that it lies in, {Path(name).resolve().parent}")
    if gguf and not is_gguf_available():
        raise UserError(f"the {role} {name} is a GGUF file, which the package gguf reads: pip install 'tutorkd[gguf]'")
    try:
        with quiet_transformers(), nullcontext() if local else reaching(folder, "model"):
            yield
    except HubRefusal as refusal:
        near = nearest(name, presets) or nearest_path(name)
        absent = f"is neither {', '.join(presets)} nor a {what} here" if presets else f"isn't a {what} here"
        raise UserError(f"the {role} {name} {absent}; {refusal}{near}") from refusal
    except Exception as error:  # errors of transformers, tokenizers and safetensors share no base class
        if local and not gguf and role != "tokenizer" and not (Path(name) / "config.json").exists():
            raise UserError(
                f"the {role} {name} isn't a checkpoint: there is no config.json in it{checkpoints_in(Path(name))}"
            ) from error
        raise UserError(f"the {role} {name} can't be loaded: {first_line(error)}") from error


def checkpoints_in(folder: Path) -> str:
    """ "; there is one in ...", of the checkpoints that lie in a folder that is none, such as that of a command's
    results or of a run that was stopped; nothing where none does.
    """
    configs = [config for depth in ("*", "*/*") for config in folder.glob(f"{depth}/config.json")]
    found = sorted(str(config.parent) for config in configs if any(config.parent.glob("model*.safetensors")))
    if not found:
        return ""
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"; there {'is one' if len(found) == 1 else 'are some'} in it: {', '.join(found[:_MOST_NAMED])}{more}"


def files_of(name: str) -> tuple[str, dict[str, str]]:
    """What transformers' ``from_pretrained`` takes for a name: a folder or repository and, of GGUF, the file in it.

    A GGUF checkpoint is one file, ``folder/file.gguf`` or, on the Hub, ``owner/name/file.gguf``.
    """
    path = Path(name)
    if path.suffix.lower() != ".gguf" or path.is_dir():
        return name, {}
    owner, *rest = name.split("/")
    if path.is_file() or len(rest) < 2 or looks_like_path(f"{owner}/{rest[0]}"):
        return str(path.parent), {"gguf_file": path.name}
    return f"{owner}/{rest[0]}", {"gguf_file": "/".join(rest[1:])}


def looks_like_path(name: str) -> bool:
    """Whether a name can't be one of the Hub's."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def nearest_path(name: str) -> str:
    """ "; did you mean ...?", of what lies in the same folder; nothing where no name is near."""
    path = Path(name)
    if not path.parent.is_dir():
        return ""
    near = closest(path.name, [there.name for there in path.parent.iterdir()])
    return "" if near is None else f"; did you mean {path.with_name(near)}?"


def load_config(name: str, role: str, trust_remote_code: bool = False, presets: Sequence[str] = ()) -> PretrainedConfig:
    """The configuration of a checkpoint; of the Hub's nothing else is downloaded, but for GGUF, which is one file.

    Raises:
        UserError: if there is no such model, or it can't be reached or read.
    """
    folder, gguf = files_of(name)
    with loading(name, role, presets):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **gguf)
    if gguf and hasattr(config, "quantization_config"):
        del config.quantization_config  # as ``load_model`` does
    return config


def load_model(
    kind: Any,
    name: str,
    role: str,
    dtype: torch.dtype | str = torch.float32,
    trust_remote_code: bool = False,
    presets: Sequence[str] = (),
    **kwargs: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint as a model of ``kind``, an auto class, and the names of the head's weights that it lacks.

    transformers fills what a checkpoint lacks at random; only a head, or a pooler, may start that way. ``kwargs`` are
    handed on to its ``from_pretrained``.

    Args:
        dtype: number format of the weights; "auto" for that of the checkpoint.

    Raises:
        UserError: if there is no such model, it can't be reached, or it isn't a whole model.
    """
    folder, gguf = files_of(name)
    # Unpacked it is a model as any other, which can be trained, saved and copied. Where the package kernels is
    # installed, weights would else stay in their blocks.
    unpacked = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
    with loading(name, role, presets):
        model, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,  # the other format is pickle
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
            **gguf,
            **unpacked,
            **kwargs,
        )
    if gguf:
        model.config.name_or_path = name
    return model, check_whole(model, info, name, role)


def check_whole(model: PreTrainedModel, info: Mapping[str, Any], name: str, role: str) -> list[str]:
    """Refuse a checkpoint that isn't a whole model; returns the names of the head's weights that it lacks.

    Args:
        info: what ``from_pretrained`` gives with ``output_loading_info``.

    Raises:
        UserError: if weights of the body are missing or have another shape than its configuration says.
    """
    lacking = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    # Masked language models are saved without the pooler that some encoders and classifiers have.
    wrong = [key for key in lacking if key.startswith(body) and "pooler" not in key.split(".")]
    if wrong:
        raise UserError(
            f"the {role} {name} isn't a whole {model.config.model_type} model: {len(wrong)} weights are missing or "
            f"have another shape than its config.json says, such as {wrong[0]}"
        )
    return [key for key in lacking if not key.startswith(body)]


def has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there was a tokenizer to load: of a config alone transformers makes one of special tokens."""
    return len(tokenizer) > len(tokenizer.all_special_tokens)


CLASSIFICATION = ("pad_token",)
_USES = {MASKED.special_tokens: "masked language modelling needs", CLASSIFICATION: "batches of rows need"}


def load_tokenizer(
    name: str,
    role: str,
    trust_remote_code: bool = False,
    needed: Sequence[str] = MASKED.special_tokens,
    **kwargs: Any,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, fast, with the special tokens that its use needs.

    Args:
        role: "tokenizer" where the name is that of a tokenizer alone.
        needed: an objective's ``special_tokens``, or CLASSIFICATION.
        kwargs: for transformers' ``from_pretrained``.

    Raises:
        UserError: if there is no tokenizer, or it lacks one of them, or its longest row isn't a number.
    """
    folder, gguf = files_of(name)
    with loading(name, role):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, **gguf, **kwargs)
    alone = role == "tokenizer"
    of = "" if alone else f" of the {role}"
    if not has_vocabulary(tokenizer):
        what = f"the tokenizer {name} only has special tokens" if alone else f"the {role} {name} has no tokenizer"
        remedy = "" if alone else "; save its tokenizer there, tokenizer.save_pretrained(FOLDER)"
        raise UserError(f"{what}: there is no vocabulary in its folder{remedy}")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(f"the tokenizer{of} {name} has a model_max_length that isn't a number")
    if missing := [token for token in needed if getattr(tokenizer, token) is None]:
        use = _USES.get(tuple(needed), "training on text needs")
        remedy = _naming(name, missing) if alone else ""
        if tuple(needed) == CLASSIFICATION and tokenizer.eos_token is not None:  # as a decoder's
            remedy = "; give it one: tokenizer.pad_token = tokenizer.eos_token, and tokenizer.save_pretrained(FOLDER)"
        raise UserError(f"the tokenizer{of} {name} has no {', '.join(missing)}, which {use}{remedy}")
    return tokenizer


def _naming(name: str, missing: Sequence[str]) -> str:
    told = ", ".join(f'{token}="..."' for token in missing)
    return f'; name it with: AutoTokenizer.from_pretrained("{name}", {told}).save_pretrained("FOLDER")'
