"""The checkpoint that is exported: which of its parts, and what they give."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint
from tutorkd.evaluation.problem import ROWS, WORDS, Problem, problem_of
from tutorkd.export.sentence import HIDDEN_STATES, VECTOR, SentenceVectors, encoder_of, load_encoder
from tutorkd.hub import CLASSIFICATION, load_config, load_model, load_tokenizer
from tutorkd.kinds import kind_of_config
from tutorkd.sentence_encoder import is_sentence_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CAUSAL_CLASSES = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
_HEADS = {ROWS: AutoModelForSequenceClassification, WORDS: AutoModelForTokenClassification}


@dataclass(frozen=True)
class Source:
    """A classifier of rows or of tokens with its head, a sentence encoder, or the encoder of any other checkpoint.

    Attributes:
        model: in float32; of a sentence encoder the one that reads the text.
        tokenizer: cuts rows where the model's positions end.
        head: how the class of the model's head ends, None of an encoder.
        longest: row that the model takes, in tokens; None where it isn't bounded.
        sentence_encoder: None of any other checkpoint.
    """

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: str | None
    longest: int | None
    sentence_encoder: "SentenceTransformer | None" = None

    @property
    def graph(self) -> nn.Module:
        """What is exported: a function of the model's inputs whose first outputs are ``outputs``."""
        return SentenceVectors(self.sentence_encoder) if self.sentence_encoder else self.model

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs; the last one is what the model is for."""
        if self.sentence_encoder:
            return [HIDDEN_STATES, VECTOR]
        return ["logits" if self.head else HIDDEN_STATES]

    @property
    def classified(self) -> Problem | None:
        """How the output's logits are about classes; None where it is hidden states, a vector or scores."""
        problem = None if self.head is None else problem_of(self.model.config)
        return None if problem == "regression" else problem

    @property
    def left_out(self) -> str | None:
        """The class whose head is left out, if there is one."""
        if self.sentence_encoder:
            return None
        whole = next(iter(self.model.config.architectures or []), None)
        return whole if self.head is None and whole != type(self.model).__name__ else None


def load_source(checkpoint: Checkpoint) -> Source:
    """Load what is exported of a checkpoint.

    Raises:
        UserError: if it isn't a whole encoder, such as a causal language model, its head has no weights, or its
            tokenizer is missing.
    """
    config = load_config(checkpoint.folder, "model")
    named = config.architectures or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UserError(f"the model {checkpoint.name}: architectures in its config.json isn't a list of names")
    of_sentences = is_sentence_encoder(checkpoint.folder)
    if not of_sentences and kind_of_config(config) == "causal" and not _CAUSAL_CLASSES.isdisjoint(named):
        raise UserError(
            f"the model {checkpoint.name} is a causal language model, and export writes files of encoders alone; what "
            "runs decoders on a device converts their folders itself, as llama.cpp does with convert_hf_to_gguf.py"
        )
    longest = check_checkpoint(checkpoint, None, problem_of(config))
    if of_sentences:
        return _sentence_source(checkpoint, longest)
    tokenizer = load_tokenizer(checkpoint.folder, "model", needed=CLASSIFICATION)
    if longest:  # so that whoever runs the files can cut rows without knowing the model
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    head, kind = _head(config)
    model, lacking = load_model(kind, checkpoint.folder, "model")
    if head and lacking:
        raise UserError(
            f"the model {checkpoint.name} lacks weights of its head, such as {lacking[0]}: fine-tune it first"
        )
    return Source(checkpoint, model, tokenizer, head, longest)


def _sentence_source(checkpoint: Checkpoint, positions: int | None) -> Source:
    encoder = load_encoder(checkpoint)
    limits = [limit for limit in (positions, encoder.max_seq_length) if limit]
    longest = min(limits) if limits else None
    tokenizer = encoder.tokenizer
    if longest:
        tokenizer.model_max_length = longest
    return Source(checkpoint, encoder_of(encoder), tokenizer, None, longest, encoder)


def _head(config: PretrainedConfig) -> tuple[str | None, Any]:
    """Which of the heads that are kept a checkpoint has, and what loads it."""
    for head, kind in _HEADS.items():
        if any(name.endswith(head) for name in config.architectures or []):
            return head, kind
    return None, AutoModel
