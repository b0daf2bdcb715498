"""A model of sentence-transformers as it is exported: its encoder, and what makes one vector of the hidden states."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.files import written_whole
from tutorkd.sentence_encoder import SETTINGS_FILES, load_sentence_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

HIDDEN_STATES, VECTOR = "last_hidden_state", "sentence_embedding"
_OF_A_MODULE = ("*.json", "*.safetensors")


class SentenceVectors(nn.Module):
    """A function of tensors that gives hidden states, (rows, tokens, d), and a vector for each row, (rows, e)."""

    def __init__(self, encoder: "SentenceTransformer"):
        super().__init__()
        self.body: nn.Module = encoder_of(encoder)
        self.rest = nn.ModuleList(list(encoder)[1:])

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(**inputs)[0]
        features: dict[str, Any] = {"attention_mask": inputs["attention_mask"], "token_embeddings": hidden}
        for module in self.rest:
            features = module(features)
        return hidden, features[VECTOR]


def load_encoder(checkpoint: Checkpoint) -> "SentenceTransformer":
    """Load a model whose vectors can be made of one encoder's hidden states.

    Raises:
        UserError: if it isn't one, or can't be loaded.
    """
    encoder = load_sentence_encoder(checkpoint.folder, "model").eval()
    if any(getattr(module, "include_prompt", True) is False for module in encoder):
        raise UserError(
            f"the model {checkpoint.name} leaves its prompt out of the vector (include_prompt), which an ONNX file "
            "can't do, because it isn't told how long a prompt is"
        )
    return encoder


def encoder_of(encoder: "SentenceTransformer") -> PreTrainedModel:
    """What reads the text."""
    return cast(PreTrainedModel, encoder[0].model)


def copy_modules(checkpoint: Checkpoint, out: Path, scratch: Path) -> None:
    """Put beside an export what sentence-transformers reads, to which the ONNX file gives hidden states.

    Args:
        out: folder of the export, which gets the folders of the modules.
        scratch: gets the files that belong into that folder itself.
    """
    folder = Path(checkpoint.folder)
    for file in _files(folder, *SETTINGS_FILES):
        shutil.copyfile(file, scratch / file.name)
    for module in sorted(folder.glob("[0-9]*_*/")):
        with written_whole(out / module.name) as inner:
            for file in _files(module, *_OF_A_MODULE):
                shutil.copyfile(file, inner / file.name)


def _files(folder: Path, *patterns: str) -> Iterator[Path]:
    return (file for pattern in patterns for file in folder.glob(pattern))
