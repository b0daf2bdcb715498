"""A model that gives a vector for a text: found, loaded, and its vectors of what is measured on."""

import hashlib
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModel

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.evaluation.embedding_scores import Sides
from tutorkd.evaluation.pairs import Data, ScoredPairs, Search
from tutorkd.hub import load_model, loading
from tutorkd.kinds import kind_of_checkpoint
from tutorkd.runtime import usable_device
from tutorkd.sentence_encoder import SETTINGS_FILES, check_sentence_encoder, has_modules, load_sentence_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODULES = "[0-9]*_*"  # folders of what stands behind the encoder


@dataclass
class EmbeddingModel:
    """A checkpoint, and its vectors once they are asked for."""

    checkpoint: Checkpoint
    mean_pooled: bool
    longest: int | None  # of a plain encoder, in tokens
    data: Data
    folder: str = ""  # of its result

    @cached_property
    def encoder(self) -> "SentenceTransformer":
        """Where the machine computes, in float32.

        Raises:
            UserError: if it isn't whole.
        """
        folder = self.checkpoint.folder
        model = (
            _mean_pooled(self.checkpoint, self.longest) if self.mean_pooled else load_sentence_encoder(folder, "model")
        )
        return model.eval().to(usable_device())

    @cached_property
    def vectors(self) -> tuple[dict[str, Sides], float]:
        """Of each data set, and how many texts a second that were.

        Raises:
            UserError: if they aren't finite.
        """
        start, texts = time.perf_counter(), 0
        found: dict[str, Sides] = {}
        for name, data in self.data.items():
            found[name], count = _encode(self.encoder, data)
            texts += count
            if not all(np.isfinite(side).all() for side in found[name]):
                raise UserError(f"the vectors of {self.checkpoint.name} aren't finite: its weights are damaged")
        return found, texts / (time.perf_counter() - start)


def find_embedding_model(name: str, data: Data) -> EmbeddingModel:
    """A folder of sentence-transformers or a plain encoder, of which no weights are read yet.

    Raises:
        UserError: if there is no such model, or it can't be used.
    """
    mean_pooled = not has_modules(name)
    if mean_pooled and kind_of_checkpoint(name) == "causal":
        raise UserError(
            f"{name} is a causal language model, which gives no vector of a text: give it --text or --tasks"
        )
    checkpoint = find_checkpoint(name)
    if mean_pooled:
        return EmbeddingModel(checkpoint, mean_pooled, check_checkpoint(checkpoint, None), data)
    check_sentence_encoder(name, "model")
    return EmbeddingModel(_with_modules(checkpoint), mean_pooled, None, data)


def _with_modules(checkpoint: Checkpoint) -> Checkpoint:
    """The same with what stands behind the encoder: sizes of weights, and what tells them and their settings."""
    folder = Path(checkpoint.folder)
    weights = [file.stat() for file in sorted(folder.glob(f"{_MODULES}/*.safetensors"))]
    files = sorted({file for pattern in (*SETTINGS_FILES, f"{_MODULES}/config.json") for file in folder.glob(pattern)})
    texts = [file.read_bytes() for file in files]
    modules = hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]
    size = sum(file.st_size for file in weights)
    identity = {**checkpoint.identity, "modules": modules, "modules_bytes": size}
    if "modified_ns" in identity:  # a folder's; one of the Hub has a revision
        identity["modified_ns"] = max([identity["modified_ns"], *(file.st_mtime_ns for file in weights)])
    return replace(checkpoint, bytes=checkpoint.bytes + size, identity=identity)


def _mean_pooled(checkpoint: Checkpoint, longest: int | None) -> "SentenceTransformer":
    """A plain encoder with means over its last hidden states, as sentence-transformers takes one.

    Raises:
        UserError: if it isn't whole.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    load_model(AutoModel, checkpoint.folder, "model")  # which, unlike the package, tells weights that are missing
    with loading(checkpoint.folder, "model"):
        settings = {"dtype": torch.float32, "use_safetensors": True}
        body = Transformer(checkpoint.folder, max_seq_length=longest, model_kwargs=settings)
    return SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "mean")], device="cpu")


def _encode(encoder: "SentenceTransformer", data: ScoredPairs | Search) -> tuple[Sides, int]:
    """Vectors, and of how many texts: each is read once."""
    if isinstance(data, Search):
        sides = encoder.encode_query(data.queries), encoder.encode_document(data.passages)
        return sides, len(data.queries) + len(data.passages)
    numbers = {text: number for number, text in enumerate(dict.fromkeys([*data.first, *data.second]))}
    vectors = encoder.encode(list(numbers))
    first, second = (vectors[[numbers[text] for text in texts]] for texts in (data.first, data.second))
    return (first, second), len(numbers)
