"""The checkpoint that is trimmed, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import transformers
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.hub import load_config, load_model, load_tokenizer, quiet_transformers
from tutorkd.kinds import check_one_stack
from tutorkd.sentence_encoder import is_sentence_encoder, load_sentence_encoder, note_scoring


class Source(NamedTuple):
    """A checkpoint as it is trimmed.

    Attributes:
        model: what reads the text, with its head if it has one.
        whole: of sentence-transformers, the model with what stands behind it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    whole: Any | None

    @property
    def needed(self) -> set[int]:
        """Ids of the tokens in its prompts, which stay whatever the text."""
        prompts = self.whole.prompts.values() if self.whole else ()
        return {number for prompt in prompts if prompt for number in self.tokenizer(prompt)["input_ids"]}

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        with quiet_transformers():
            if self.whole is None:
                self.model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
            else:
                self.whole[0].processor = self.tokenizer
                self.whole.save_pretrained(str(folder), create_model_card=False)


def load_source(checkpoint: Checkpoint) -> Source:
    """Load a checkpoint of any kind.

    Raises:
        UserError: if it isn't a whole model of one of transformers' classes, with a fast tokenizer.
    """
    name = checkpoint.folder
    config = check_one_stack(load_config(name, "model"), checkpoint.name, "model", needed=("vocab_size",))
    if is_sentence_encoder(name):
        whole = load_sentence_encoder(name, "model", dtype="auto")
        return Source(cast(PreTrainedModel, whole.transformers_model).eval(), whole.tokenizer, whole)
    model, lacking = load_model(_class(config, checkpoint.name), name, "model", "auto")
    if lacking:
        raise UserError(f"the model {checkpoint.name} lacks weights of its head, such as {lacking[0]}")
    note_scoring(model, name, "model")
    tokenizer = load_tokenizer(name, "model", needed=())
    if not tokenizer.is_fast:
        raise UserError(f"the model {checkpoint.name} has no fast tokenizer (one with a tokenizer.json)")
    return Source(model.eval(), tokenizer, None)


def _class(config: PretrainedConfig, name: str) -> Any:
    """The class of transformers that a checkpoint was saved by."""
    architecture = next(iter(config.architectures or []), None)
    kind = getattr(transformers, str(architecture), None) if architecture else AutoModel
    if kind is None:
        raise UserError(f"the model {name} is a {architecture}, which transformers doesn't have: it can't be trimmed")
    return kind
