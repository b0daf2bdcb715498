"""A checkpoint on disk, whether it can be evaluated, and the classifier that is made of an encoder."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from tutorkd.errors import UserError
from tutorkd.evaluation.problem import Problem, auto_class
from tutorkd.files import written_whole
from tutorkd.hub import (
    CLASSIFICATION,
    check_whole,
    checkpoints_in,
    files_of,
    load_config,
    load_tokenizer,
    loading,
    quiet_transformers,
)
from tutorkd.positions import longest_row
from tutorkd.sentence_encoder import MODULES_FILE

_ROLE = "model"
_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors"]
_FILES += ["[0-9]*_*/model.safetensors"]  # what stands behind an encoder of sentence-transformers


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint's files are, and what tells its weights from others.

    Attributes:
        name: as the user gave it.
        folder: the folder with its files, or its one file in GGUF.
        bytes: size of the weight files on disk.
        identity: the source (absolute path or Hub name), size, and time of change (ns) or Hub revision.
    """

    name: str
    folder: str
    bytes: int
    identity: dict[str, Any]

    @property
    def title(self) -> str:
        """A short name: the last two parts of the source."""
        return "/".join(Path(self.identity["source"]).parts[-2:])

    @property
    def slug(self) -> str:
        """A folder name that is readable and one to a checkpoint."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.title).strip("-.")
        return f"{readable[:80]}-{hashlib.sha256(self.identity['source'].encode()).hexdigest()[:8]}"


def find_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint by path or Hub name, downloading it in the latter case.

    Raises:
        UserError: if there is no such model, it can't be reached, or it has no safetensors weights.
    """
    if files_of(name)[1]:
        return _find_gguf(name)
    local = Path(name).is_dir()
    with loading(name, _ROLE):
        folder = Path(name).resolve() if local else Path(snapshot_download(name, allow_patterns=_FILES))
    whole = folder / "model.safetensors"
    files = [file.stat() for file in ([whole] if whole.is_file() else folder.glob("model-*.safetensors"))]
    if not files:
        exported = "; it was exported to ONNX: name the folder that it was exported from"
        remedy = checkpoints_in(Path(name)) or (exported if any(folder.glob("**/*.onnx")) else "")
        there = {file.name for file in folder.iterdir()}
        if MODULES_FILE in there and "config.json" not in there:  # its encoder alone would have no pooling
            remedy = (
                "; its encoder lies in a folder of its own, as older versions of sentence-transformers wrote it: write "
                f'the model anew, SentenceTransformer("{name}").save_pretrained("FOLDER")'
            )
        raise UserError(f"the model {name} has no weights: there is no model.safetensors in {folder}{remedy}")
    size = sum(file.st_size for file in files)
    if local:
        version = {"source": str(folder), "modified_ns": max(file.st_mtime_ns for file in files)}
    else:
        version = {"source": name, "revision": folder.name}
    return Checkpoint(name, str(folder), size, {**version, "bytes": size})


def _find_gguf(name: str) -> Checkpoint:
    repository, gguf = files_of(name)
    inside = Path(gguf["gguf_file"])
    local = Path(name).is_file()
    with loading(name, _ROLE):
        file = Path(name).resolve() if local else Path(hf_hub_download(repository, inside.as_posix()))
    stat = file.stat()
    version: dict[str, Any] = {"source": str(file) if local else name}
    version |= {"modified_ns": stat.st_mtime_ns} if local else {"revision": file.parents[len(inside.parts) - 1].name}
    return Checkpoint(name, str(file), stat.st_size, {**version, "bytes": stat.st_size})


def check_checkpoint(
    checkpoint: Checkpoint, max_length: int | None, problem: Problem = "single_label_classification"
) -> int | None:
    """Check, without reading weights, that a checkpoint can be fine-tuned on rows of ``max_length`` tokens.

    Args:
        problem: what is to be learned.

    Returns:
        The longest row that it takes, in tokens; None where positions aren't bounded.

    Raises:
        UserError: if its family has no classifier, its tokenizer is missing or another model's, or its
            positions are fewer.
    """
    name = checkpoint.name
    tokenizer = load_tokenizer(checkpoint.folder, _ROLE, needed=CLASSIFICATION)
    with loading(checkpoint.folder, _ROLE):
        config = AutoConfig.from_pretrained(checkpoint.folder)
    if problem == "token_classification":
        what, families = "token", MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    else:
        what, families = "sequence", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in families:
        raise UserError(f"the model {name}: transformers has no {what} classifier for {config.model_type}")
    _check_vocabulary(name, config.vocab_size, tokenizer)
    with torch.device("meta"):
        limit = longest_row(auto_class(problem).from_config(config))
    if limit is not None and max_length is not None and max_length > limit:
        raise UserError(f"max_length {max_length} is longer than the {limit} positions of the model {name}")
    return limit


def check_language_model(checkpoint: Checkpoint, lengths: Mapping[str, int]) -> PreTrainedTokenizerBase:
    """The tokenizer of a causal language model, checked without reading weights.

    Args:
        lengths: of rows in tokens, by the setting that says so.

    Raises:
        UserError: if its tokenizer is missing or another model's, or its positions are fewer.
    """
    name = checkpoint.name
    tokenizer = load_tokenizer(checkpoint.folder, _ROLE, needed=())
    config = load_config(checkpoint.folder, _ROLE)
    _check_vocabulary(name, config.get_text_config().vocab_size, tokenizer)
    with torch.device("meta"):
        limit = longest_row(AutoModelForCausalLM.from_config(config))
    for setting, length in lengths.items():
        if limit is not None and length > limit:
            raise UserError(f"{setting} {length} is longer than the {limit} positions of the model {name}")
    return tokenizer


def _check_vocabulary(name: str, embedded: int, tokenizer: PreTrainedTokenizerBase) -> None:
    if len(tokenizer) > embedded:
        raise UserError(
            f"the model {name} embeds {embedded} tokens, but its tokenizer has {len(tokenizer)}: "
            "give it the tokenizer that it was trained with"
        )


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer whole, or neither."""
    with quiet_transformers(), written_whole(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def load_classifier(
    checkpoint: Checkpoint, class_names: list[str], seed: int, problem: Problem | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder of a checkpoint (bare or with any head) under a new classification head, in float32.

    A head that was trained as a classifier is replaced: its labels, their order and its training are another task's.

    Args:
        class_names: in the order of the logits.
        seed: of the head's initial weights.
        problem: what is to be learned; by default one class a row, or, where there is one name alone, a number.

    Raises:
        UserError: if weights of the encoder are missing or have another shape than its configuration says.
    """
    if problem is None:
        problem = "regression" if len(class_names) == 1 else "single_label_classification"
    of_words = problem == "token_classification"
    # A word stands behind a space, which tokenizers of bytes (GPT-2's, RoBERTa's) make a part of it where told to.
    spaces = {"add_prefix_space": True} if of_words else {}
    tokenizer = load_tokenizer(checkpoint.folder, _ROLE, needed=CLASSIFICATION, **spaces)
    kind = auto_class(problem)
    set_seed(seed)
    # The notice about a newly initialised classifier is expected here; a missing encoder is told below.
    with loading(checkpoint.folder, _ROLE):
        model, info = kind.from_pretrained(
            checkpoint.folder,
            dtype=torch.float32,
            use_safetensors=True,
            id2label=dict(enumerate(class_names)),
            label2id={name: index for index, name in enumerate(class_names)},
            problem_type=None if of_words else problem,  # which transformers says of rows alone
            ignore_mismatched_sizes=True,  # a classifier of other classes is replaced
            output_loading_info=True,
        )
    check_whole(model, info, checkpoint.name, _ROLE)
    model.config.architectures = [type(model).__name__]  # as it will be saved
    body = f"{model.base_model_prefix}."
    head = {key for key in model.state_dict() if not key.startswith(body)}
    if not head.intersection(info["missing_keys"]):
        set_seed(seed)
        fresh = kind.from_config(model.config)
        for name, module in fresh.named_children():
            if name != model.base_model_prefix:
                setattr(model, name, module)
    return model, tokenizer
