"""Embedding models: folders of sentence-transformers, by Hub name or path, with one-line errors."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.constants import CONFIG_NAME
from transformers.utils import cached_file, has_file

from tutorkd.errors import UserError
from tutorkd.hub import files_of, load_model, loading

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MODULES_FILE = "modules.json"  # lists what stands behind the encoder: pooling, dense, normalisation


def is_sentence_encoder(name: str, role: str = "model") -> bool:
    """Whether a checkpoint is a folder of sentence-transformers: whether it has a modules.json, of which nothing is
    read.

    Raises:
        UserError: if there is no such model, or it can't be reached.
    """
    folder, gguf = files_of(name)
    with loading(name, role):
        there = not gguf and has_file(folder, MODULES_FILE, local_files_only=is_offline_mode())
        if not there and not Path(folder).is_dir():
            hf_hub_download(folder, CONFIG_NAME)  # fails where it isn't the file that is missing, but the model
    return there


def load_sentence_encoder(
    name: str, role: str, trust_remote_code: bool = False, dtype: torch.dtype | str = torch.float32
) -> "SentenceTransformer":
    """A folder of sentence-transformers as a model on the processor.

    Args:
        dtype: number format of the weights; "auto" for that of the checkpoint.

    Raises:
        UserError: if sentence-transformers isn't installed, there is no such model, it can't be reached or read, is
            none of sentence-transformers, or isn't whole.
    """
    if find_spec("sentence_transformers") is None:
        raise UserError(
            f"the {role} {name} is read by the package sentence-transformers: pip install 'tutorkd[embedding]'"
        )
    if not is_sentence_encoder(name, role):
        raise UserError(f"the {role} {name} isn't a model of sentence-transformers: it has no {MODULES_FILE}")
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
        modules = Path(str(cached_file(name, MODULES_FILE)))
        place = json.loads(modules.read_text(encoding="utf-8"))[0]["path"]
    if (body := encoder.transformers_model) is not None:  # loaded again, only to see whether weights are missing
        load_model(type(body), name, role, "auto", trust_remote_code, subfolder=place)
    return encoder
