"""Embedding models: folders of sentence-transformers, by Hub name or path, with one-line errors."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.constants import CONFIG_NAME
from transformers.utils import cached_file, has_file

from tutorkd.errors import UserError
from tutorkd.hub import files_of, load_model, loading

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

MODULES_FILE = "modules.json"  # lists what stands behind the encoder: pooling, dense, normalisation
_SETTINGS_FILE = "config_sentence_transformers.json"  # of each of the package's three kinds of models
# What says how a text becomes a vector: the parts, prompts, the longest row.
SETTINGS_FILES = (MODULES_FILE, _SETTINGS_FILE, "sentence_*_config.json")
_DENSE_VECTORS, _PAIRS = "SentenceTransformer", "CrossEncoder"


def is_sentence_encoder(name: str, role: str = "model") -> bool:
    """Whether a checkpoint is a folder of sentence-transformers with models of texts. A CrossEncoder is a classifier of
    pairs, whatever is beside it.

    Raises:
        UserError: if there is no such model, or it can't be reached.
    """
    return has_modules(name, role) and _kind(name, role) != _PAIRS


def note_scoring(model: "PreTrainedModel", name: str, role: str) -> None:
    """Put what makes scores of a CrossEncoder's logits, which stands beside its weights, into the model's own
    configuration, where sentence-transformers looks for it too. Nothing is done to other models.

    Raises:
        UserError: if what stands there can't be read.
    """
    if getattr(model.config, "num_labels", 0) != 1 or not has_modules(name, role) or _kind(name, role) != _PAIRS:
        return
    with loading(name, role):
        function = _read(name, _SETTINGS_FILE).get("activation_fn")
    if isinstance(function, str):
        model.config.sentence_transformers = {"activation_fn": function}


def has_modules(name: str, role: str = "model") -> bool:
    """Whether a checkpoint is a folder of sentence-transformers, of whichever of its kinds of models.

    Raises:
        UserError: if there is no such model, or it can't be reached.
    """
    folder, gguf = files_of(name)
    with loading(name, role):
        there = not gguf and has_file(folder, MODULES_FILE, local_files_only=is_offline_mode())
        if not there and not Path(folder).is_dir():
            hf_hub_download(folder, CONFIG_NAME)  # fails where it isn't the file that is missing, but the model
    return there


def _kind(name: str, role: str) -> str:
    """Which of the package's kinds of models a folder with modules is, as it calls them."""
    with loading(name, role):
        if has_file(name, _SETTINGS_FILE, local_files_only=is_offline_mode()):
            return str(_read(name, _SETTINGS_FILE).get("model_type", _DENSE_VECTORS))
    return _DENSE_VECTORS


def check_sentence_encoder(name: str, role: str, trust_remote_code: bool = False) -> None:
    """Check, without reading weights, that a checkpoint gives a dense vector for a text.

    The package itself would turn its models of other kinds into such ones, whose vectors nobody trained.

    Raises:
        UserError: if it is none of sentence-transformers or another kind of its models, it can't be reached or read, or
            has modules of its own code where that isn't trusted.
    """
    if not has_modules(name, role):
        raise UserError(f"the {role} {name} isn't a model of sentence-transformers: it has no {MODULES_FILE}")
    with loading(name, role):
        types = [str(module["type"]) for module in _read(name, MODULES_FILE)]
    kind = _kind(name, role)
    if kind == _PAIRS:
        raise UserError(
            f"the {role} {name} is a CrossEncoder, which scores pairs of texts and gives no vector of one: take a "
            f"{_DENSE_VECTORS}, or use it as a classifier of pairs: tutorkd distill-task --text_pair_column ..."
        )
    if kind != _DENSE_VECTORS:
        raise UserError(
            f"the {role} {name} is a {kind}, which doesn't give one dense vector for a text: take a {_DENSE_VECTORS}"
        )
    own = [each for each in types if not each.startswith("sentence_transformers.")]
    if own and not trust_remote_code:
        raise UserError(
            f"the {role} {name} has a module of a class of its own, {own[0]}, whose code would be run: read it, and "
            "give --trust_remote_code to tutorkd distill; models whose modules are all sentence-transformers' work "
            "without"
        )


def _read(name: str, file: str) -> Any:
    return json.loads(Path(str(cached_file(name, file))).read_text(encoding="utf-8"))


def load_sentence_encoder(
    name: str, role: str, trust_remote_code: bool = False, dtype: torch.dtype | str = torch.float32
) -> "SentenceTransformer":
    """A folder of sentence-transformers as a model on the processor.

    Args:
        dtype: number format of the weights; "auto" for that of the checkpoint.

    Raises:
        UserError: if sentence-transformers isn't installed, as ``check_sentence_encoder``, or if it isn't whole.
    """
    if find_spec("sentence_transformers") is None:
        raise UserError(
            f"the {role} {name} is read by the package sentence-transformers: pip install 'tutorkd[embedding]'"
        )
    check_sentence_encoder(name, role, trust_remote_code)
    with loading(name, role):
        # Imported late, since the package is large and optional.
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(
            name,
            device="cpu",
            local_files_only=Path(name).is_dir() or is_offline_mode(),  # else it asks the Hub what it knows of a folder
            trust_remote_code=trust_remote_code,
            model_kwargs={"dtype": dtype, "use_safetensors": True},  # the other format is pickle
        )
        place = _read(name, MODULES_FILE)[0]["path"]
    if (body := encoder.transformers_model) is not None:  # loaded again, only to see whether weights are missing
        load_model(type(body), name, role, "auto", trust_remote_code, subfolder=place)
    return encoder
