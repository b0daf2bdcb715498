"""A fine-tuned classifier's answers as soft targets for another: which they are, and what is lost where they differ.

With z the student's and t the teacher's logits of a row, y its label, T the temperature and w the weight of the soft
targets, the loss of a row is

    (1 - w) L_label(z, y) + w L_soft(z, t)

                      L_label                       L_soft
    one class         cross-entropy                 T^2 times the cross-entropy of softmax(z / T) to softmax(t / T)
    several classes   binary cross-entropy, mean    T^2 times that of sigmoid(z / T) to sigmoid(t / T), mean
    a number          squared error                 squared error of z to t

and that of a batch the mean over its rows. A row without a label has its second term alone.

Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2 (arXiv 1503.02531), whose
cross-entropy has the gradient of a Kullback-Leibler divergence; Jiao et al., "TinyBERT", Findings of EMNLP 2020,
section 3.1, the prediction layer, where w = 1 (doi 10.18653/v1/2020.findings-emnlp.372).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from tutorkd.errors import UserError
from tutorkd.evaluation.classifier import LABELS_ARE, Problem, class_names_of, problem_of
from tutorkd.methods.internal import RelationSettings
from tutorkd.methods.soft_targets import check_temperature, soft_cross_entropy


@dataclass
class SoftTargetWeights(RelationSettings):
    """What of a teacher is learned beside the labels, and how much."""

    _argument_group_name = "soft targets"

    soft_target_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of the soft targets' loss (0 to 1); the labels' loss has the rest."},
    )
    temperature: float = field(
        default=2.0,
        metadata={"help": "Temperature T of both models' logits in the soft targets' loss; regression has none."},
    )
    hidden_state_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the loss between the student's hidden states and those of the teacher's matching layers."
        },
    )
    attention_score_weight: float = field(
        default=0.0, metadata={"help": "Weight of the same for attention scores, which needs equal numbers of heads."}
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        if not 0 <= self.soft_target_weight <= 1:
            raise UserError(f"soft_target_weight must be from 0 to 1, not {self.soft_target_weight:g}")
        check_temperature(self.temperature)
        for name in ("hidden_state_weight", "attention_score_weight", "relation_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name):g}")

    def settings(self) -> dict[str, Any]:
        """What a result depends on."""
        layers = ("hidden", "attention", "relation")
        told = {key: value for key, value in asdict(self).items() if value or not key.startswith(layers)}
        if not self.relation_weight:
            del told["relation_heads"]
        return told

    @property
    def matches_layers(self) -> bool:
        """Whether the student learns more than the teacher's answers."""
        return self.hidden_state_weight > 0 or self.attention_score_weight > 0 or self.relation_weight > 0


@dataclass
class SoftTargetArguments(SoftTargetWeights):
    """The same, and from whom."""

    distill_from: str | None = field(
        default=None,
        metadata={"help": "Fine-tuned classifier whose answers the models learn (a path or Hub name)."},
    )


@dataclass
class TaskDistillationArguments(SoftTargetArguments):
    """The same, on text without labels too."""

    unlabelled: str | None = field(
        default=None,
        metadata={
            "help": "Text of the domain without labels, learned from the soft targets alone: a csv, jsonl or parquet "
            "file with the text's columns, or the train split of name:config."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        super().__post_init__()
        if self.unlabelled is not None and self.distill_from is None:
            raise UserError("text without labels is learned from a classifier's answers: name it with --distill_from")
        if self.unlabelled is not None and self.soft_target_weight == 0:
            raise UserError("text without labels has soft targets alone: give a soft_target_weight above 0")


def matched_classes(
    teacher: PretrainedConfig, name: str, problem: Problem, class_names: Sequence[str], whole: bool = True
) -> list[int]:
    """For each of the student's logits the number of the teacher's that is about the same.

    Classes are matched by name, whatever their case and order. The names that transformers gives where nobody gave any,
    LABEL_0 and so on, are those of the classes 0 and so on.

    Args:
        name: of the teacher, for messages.
        class_names: in the order of the student's logits.
        whole: whether all of the teacher's classes must be among them.

    Raises:
        UserError: if the teacher answers another kind of question, or its classes aren't these.
    """
    if problem_of(teacher) != problem:
        raise UserError(
            f"{name} can't be learned from: its answers are {LABELS_ARE[problem_of(teacher)]}, the labels here "
            f"{LABELS_ARE[problem]}"
        )
    if problem == "regression":
        return [0]
    theirs = class_names_of(teacher)
    if theirs == [f"LABEL_{code}" for code in range(len(theirs))]:
        theirs = [str(code) for code in range(len(theirs))]
    for same in (str, str.casefold):
        numbers = {same(each): number for number, each in enumerate(theirs)}
        wanted = [same(each) for each in class_names]
        told_apart = len(theirs) == len(numbers) and len(wanted) == len(set(wanted))
        if told_apart and numbers.keys() >= set(wanted) and (len(wanted) == len(theirs) or not whole):
            return [numbers[each] for each in wanted]
    raise UserError(
        f"{name} can't be learned from: its classes are {', '.join(class_names_of(teacher))}, those of the labels "
        f"{', '.join(class_names)}; where they mean the same, give id2label in its config.json these names"
    )


def label_losses(problem: Problem, logits: Tensor, labels: Tensor) -> Tensor:
    """L_label of each row, (n,) float32.

    Args:
        logits: (n, classes).
        labels: class codes (n,); 1 or 0 for each class (n, classes); or numbers (n,).
    """
    logits = logits.float()
    if problem == "regression":
        return (logits.squeeze(-1) - labels.float()).square()
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return F.cross_entropy(logits, labels, reduction="none")


def soft_target_loss(problem: Problem, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """L_soft, the mean over rows, () float32.

    Args:
        logits: (n, classes), the student's.
        targets: (n, classes), the teacher's logits; no gradient flows to them.
        temperature: T > 0.
    """
    if problem == "single_label_classification":
        return soft_cross_entropy(logits, targets, temperature)
    logits, targets = logits.float(), targets.float()
    if problem == "regression":
        return F.mse_loss(logits, targets)
    answers = (targets / temperature).sigmoid()
    return temperature**2 * F.binary_cross_entropy_with_logits(logits / temperature, answers)


def task_loss(
    problem: Problem,
    logits: Tensor,
    labels: Tensor,
    labelled: Tensor,
    targets: Tensor,
    soft: SoftTargetArguments,
) -> Tensor:
    """The loss of a batch, () float32.

    Args:
        logits, labels, targets: as ``label_losses`` and ``soft_target_loss`` take them.
        labelled: (n,), 1 of a row whose label counts and 0 of one that has none.
    """
    loss = soft.soft_target_weight * soft_target_loss(problem, logits, targets, soft.temperature)
    if soft.soft_target_weight < 1:
        of_labels = torch.where(labelled.bool(), label_losses(problem, logits, labels), 0.0).mean()
        loss = loss + (1 - soft.soft_target_weight) * of_labels
    return loss
