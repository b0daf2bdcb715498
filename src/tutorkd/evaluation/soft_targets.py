"""A fine-tuned classifier's answers as soft targets for another: which they are, and what is lost where they differ.

With z the student's and t the teacher's logits of a row, y its label, T the temperature and w the weight of the soft
targets, the loss of a row is

    (1 - w) L_label(z, y) + w L_soft(z, t)

                      L_label                       L_soft
    one class         cross-entropy                 T^2 times the cross-entropy of softmax(z / T) to softmax(t / T)
    several classes   binary cross-entropy, mean    T^2 times that of sigmoid(z / T) to sigmoid(t / T), mean
    a number          squared error                 squared error of z to t

and that of a batch the mean over its rows. A row without a label has its second term alone. Where words are classified,
each word is such a row, of one class, which stands at the first of its pieces.

Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2 (arXiv 1503.02531), whose
cross-entropy has the gradient of a Kullback-Leibler divergence; Jiao et al., "TinyBERT", Findings of EMNLP 2020,
section 3.1, the prediction layer, where w = 1 (doi 10.18653/v1/2020.findings-emnlp.372).
"""

import sys
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PretrainedConfig

from tutorkd.errors import UserError
from tutorkd.evaluation.problem import LABELS_ARE, Problem, class_names_of, problem_of
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.methods.soft_targets import soft_cross_entropy
from tutorkd.words import listed


def matched_classes(
    teacher: PretrainedConfig, name: str, problem: Problem, class_names: Sequence[str], whole: bool = True
) -> list[int]:
    """For each of the student's logits the number of the teacher's that is about the same.

    Classes are matched by name, whatever their case and order. The names that transformers gives where nobody gave any,
    LABEL_0 and so on, are those of the classes 0 and so on. Labels that are the numbers of the teacher's classes, as
    ``id2label`` of its config.json counts them, are taken for these, which is told.

    Args:
        name: of the teacher, for messages.
        class_names: in the order of the student's logits.
        whole: whether all of the teacher's classes must be among them.

    Raises:
        UserError: if the teacher answers another kind of question, or its classes aren't these.
    """
    if problem_of(teacher) != problem:
        raise UserError(
            f"{name} can't be learned from: its answers are {LABELS_ARE[problem_of(teacher)]}, but the labels here "
            f"{LABELS_ARE[problem]}"
        )
    if problem == "regression":
        return [0]
    theirs = class_names_of(teacher)
    if theirs == [f"LABEL_{code}" for code in range(len(theirs))] and not {*class_names} <= {*theirs}:
        theirs = [str(code) for code in range(len(theirs))]
    for same in (str, str.casefold):
        numbers = {same(each): number for number, each in enumerate(theirs)}
        wanted = [same(each) for each in class_names]
        told_apart = len(theirs) == len(numbers) and len(wanted) == len(set(wanted))
        if told_apart and numbers.keys() >= set(wanted) and (len(wanted) == len(theirs) or not whole):
            return [numbers[each] for each in wanted]
    numbers = {str(number): number for number in range(len(theirs))}
    if numbers.keys() >= set(class_names) and (len(class_names) == len(theirs) or not whole):
        order = [numbers[each] for each in class_names]
        meant = [f"{label} for {theirs[number]}" for label, number in zip(class_names, order, strict=True)]
        _tell(f"labels: {listed(meant)}, as {name} numbers its classes")
        return order
    raise UserError(
        f"{name} can't be learned from: its classes are {listed(class_names_of(teacher))}, but those of the labels are "
        f"{listed(class_names)}; if they mean the same, give the labels the names of its classes"
    )


@cache
def _tell(words: str) -> None:
    """Once, though training and validation data are read one after the other."""
    tqdm.write(words, file=sys.stderr)


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
    if problem == "regression":
        return F.mse_loss(logits.float(), targets.float())
    if problem == "multi_label_classification":
        answers = (targets.float() / temperature).sigmoid()
        return temperature**2 * F.binary_cross_entropy_with_logits(logits.float() / temperature, answers)
    return soft_cross_entropy(logits, targets, temperature)


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
            Of words (rows, tokens, classes) and (rows, tokens), -100 where no word has its place, and the targets of
            those that have one, row by row, (n, classes).
        labelled: (n,) or (rows,), 1 of a row whose label counts and 0 of one that has none.
    """
    if problem == "token_classification":
        rows, places = (labels != -100).nonzero(as_tuple=True)  # looked for once: each time a GPU is waited for
        labelled, logits, labels = labelled[rows], logits[rows, places], labels[rows, places]
    loss = soft.soft_target_weight * soft_target_loss(problem, logits, targets, soft.temperature)
    if soft.soft_target_weight < 1:
        of_labels = torch.where(labelled.bool(), label_losses(problem, logits, labels), 0.0).mean()
        loss = loss + (1 - soft.soft_target_weight) * of_labels
    return loss
