"""A fine-tuned classifier as it is: its classes, and its answers to texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint
from tutorkd.hub import CLASSIFICATION, load_config, load_model, load_tokenizer

# What a row's label is, in transformers' words: one class, a set of classes, or a number.
Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
LABELS_ARE = {
    "single_label_classification": "one class a row",
    "multi_label_classification": "a list of classes a row",
    "regression": "a number a row",
}
_BATCH = 64


def problem_of(config: PretrainedConfig) -> Problem:
    """What a classifier's logits are; where its configuration doesn't say, one alone is a number."""
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def class_names_of(config: PretrainedConfig) -> list[str]:
    """In the order of the logits."""
    names = cast(dict[int, str], config.id2label)
    return [str(names[code]) for code in range(len(names))]


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
        self, *texts: Sequence[str], max_length: int, tell: Callable[[int], object] = lambda rows: None
    ) -> np.ndarray:
        """Its answers to n texts, or to pairs of them, (n, classes) float32.

        Rows of like length share a batch.

        Args:
            texts: n texts, and those of their pairs where it reads pairs.
            max_length: from which rows are cut, in tokens, or where its positions end.
            tell: called with the number of rows that were answered since.
        """
        length = min(max_length, self.longest or max_length)
        rows = self.tokenizer(*map(list, texts), truncation=True, max_length=length)
        taken = [name for name in self.tokenizer.model_input_names if name in rows]
        order = sorted(range(len(texts[0])), key=lambda row: -len(rows["input_ids"][row]))
        found = np.empty((len(order), len(self.class_names)), np.float32)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            inputs = self.tokenizer.pad(
                {name: [rows[name][row] for row in batch] for name in taken}, return_tensors="pt"
            )
            found[batch] = self.model(**inputs.to(self.model.device)).logits.float().cpu().numpy()
            tell(len(batch))
        return found


def check_trained(config: PretrainedConfig, name: str, role: str = "model") -> None:
    """Check, without reading weights, that a checkpoint is one of a classifier of rows.

    Raises:
        UserError: if its configuration says that it is something else.
    """
    kinds = list(map(str, config.architectures)) if isinstance(config.architectures, list) else []
    if kinds and not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise _untrained(name, role, f"a {kinds[0]}")


def load_trained(name: str, role: str = "model") -> Classifier:
    """Load a fine-tuned classifier by path or Hub name.

    Raises:
        UserError: if there is no such checkpoint, or it has no trained classification head.
    """
    checkpoint = find_checkpoint(name)
    longest = check_checkpoint(checkpoint, None)
    check_trained(load_config(checkpoint.folder, role), name, role)
    model, lacking = load_model(AutoModelForSequenceClassification, checkpoint.folder, role)
    if lacking:
        raise _untrained(name, role, f"without weights of the head, such as {lacking[0]}")
    tokenizer = load_tokenizer(checkpoint.folder, role, needed=CLASSIFICATION)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return Classifier(name, model.eval().requires_grad_(False).to(device), tokenizer, longest)


def _untrained(name: str, role: str, what: str) -> UserError:
    return UserError(
        f"the {role} {name} isn't a fine-tuned classifier, it is {what}; fine-tune it first: "
        f"tutorkd evaluate --models {name} --train ... --validation ... --save_models"
    )
