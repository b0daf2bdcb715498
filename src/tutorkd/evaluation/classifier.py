"""A fine-tuned classifier as it is: its classes, and its answers to texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint
from tutorkd.evaluation.problem import ROWS, WORDS, Problem, architectures_of, auto_class, class_names_of, problem_of
from tutorkd.evaluation.tags import tokenize_words
from tutorkd.hub import CLASSIFICATION, load_config, load_model, load_tokenizer
from tutorkd.kinds import kind_of_config
from tutorkd.runtime import usable_device
from tutorkd.sentence_encoder import note_scoring

_BATCH = 64


@dataclass(frozen=True)
class Classifier:
    """A fine-tuned classifier, frozen and in evaluation mode.

    Attributes:
        name: as the user gave it.
        model: in float32, where the machine computes.
        longest: row that it takes, in tokens; None where that isn't bounded.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    longest: int | None

    @property
    def problem(self) -> Problem:
        return problem_of(self.model.config)

    @property
    def class_names(self) -> list[str]:
        return class_names_of(self.model.config)

    @torch.inference_mode()
    def logits(
        self, *texts: Sequence[Any], max_length: int, tell: Callable[[int], object] = lambda rows: None
    ) -> np.ndarray:
        """Its answers to n texts, or to pairs of them, (n, classes) float32.

        Those to n lists of words are (n, words, classes), as far as any list has answers, and masked where there is
        none: behind the last word of a row, where a row is cut, and of a word of which the tokenizer leaves nothing.

        Rows of like length share a batch.

        Args:
            texts: n texts, and those of their pairs where it reads pairs; or n lists of words.
            max_length: from which rows are cut, in tokens, or where its positions end.
            tell: called with the number of rows that were answered since.

        Raises:
            UserError: of words, if the tokenizer doesn't say which word a piece is of.
        """
        length = min(max_length, self.longest or max_length)
        places: list[dict[int, int]] = []
        found: np.ndarray
        if self.problem == "token_classification":
            rows, places = tokenize_words(self.tokenizer, texts[0], length)
            words = 1 + max(chain.from_iterable(places), default=-1)
            # zeros, since what is computed with them is computed behind the mask too
            found = np.ma.array(np.zeros((len(texts[0]), words, len(self.class_names)), np.float32), mask=True)
        else:
            rows = self.tokenizer(*map(list, texts), truncation=True, max_length=length)
            found = np.empty((len(texts[0]), len(self.class_names)), np.float32)
        taken = [name for name in self.tokenizer.model_input_names if name in rows]
        order = sorted(range(len(texts[0])), key=lambda row: -len(rows["input_ids"][row]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            inputs = self.tokenizer.pad(
                {name: [rows[name][row] for row in batch] for name in taken}, return_tensors="pt"
            )
            logits = self.model(**inputs.to(self.model.device)).logits.float().cpu().numpy()
            if places:
                for row, of_tokens in zip(batch, logits, strict=True):
                    found[row, list(places[row])] = of_tokens[list(places[row].values())]
            else:
                found[batch] = logits
            tell(len(batch))
        return found


def check_trained(config: PretrainedConfig, name: str, role: str = "model") -> None:
    """Check, without reading weights, that a checkpoint is one of a classifier of rows or of words.

    Raises:
        UserError: if its configuration says that it is something else.
    """
    kinds = architectures_of(config)
    if kinds and not any(kind.endswith((ROWS, WORDS)) for kind in kinds):
        raise _untrained(config, name, role, f"a {kinds[0]}")


def load_trained(name: str, role: str = "model") -> Classifier:
    """Load a fine-tuned classifier by path or Hub name.

    Raises:
        UserError: if there is no such checkpoint, or it has no trained classification head.
    """
    checkpoint = find_checkpoint(name)
    config = load_config(checkpoint.folder, role)
    check_trained(config, name, role)
    longest = check_checkpoint(checkpoint, None, problem_of(config))
    model, lacking = load_model(auto_class(problem_of(config)), checkpoint.folder, role)
    if lacking:
        raise _untrained(config, name, role, f"without weights of the head, such as {lacking[0]}")
    tokenizer = load_tokenizer(checkpoint.folder, role, needed=CLASSIFICATION)
    note_scoring(model, checkpoint.folder, role)
    return Classifier(name, model.eval().requires_grad_(False).to(usable_device()), tokenizer, longest)


def _untrained(config: PretrainedConfig, name: str, role: str, what: str) -> UserError:
    how = f": tutorkd evaluate --models {name} --train ... --validation ... --save_models"
    if kind_of_config(config) == "causal":  # which `evaluate` measures as it is
        how = " with transformers, as an AutoModelForSequenceClassification"
    return UserError(f"the {role} {name} isn't a fine-tuned classifier, it is {what}; fine-tune it first{how}")
