"""A small classifier out of a large one: its layers, its head, and rows whose classes are in its order."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tutorkd.evaluation.checkpoint import find_checkpoint, load_classifier
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.labelled import as_numbers, names_of_labels, problem_of_labels, recoded
from tutorkd.evaluation.problem import auto_class
from tutorkd.evaluation.soft_targets import matched_classes
from tutorkd.importance import Importance
from tutorkd.reader import Reader
from tutorkd.slices import Slices
from tutorkd.students import has_weights, initialise_from_teacher, start_from_text, student_config


def make_student(
    name: str,
    teacher: Classifier,
    sizes: Mapping[str, int],
    seed: int,
    first: Path | None = None,
    read: Callable[[], object] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A classifier to be trained, with the teacher's classes in its order.

    Args:
        name: "thin" or another preset, made of the teacher's layers and head as far as shapes allow; or an encoder with
            weights, by path or Hub name, which keeps these and gets a new head.
        sizes: overrides of a preset's, by the names of transformers' configurations.
        seed: of what isn't copied.
        first: folder of the student that a first stage made of ``name``, which gets the teacher's head.
        read: has the teacher read some of the task's rows, by which a narrower student's slices are chosen; None where
            the student is only looked at, whose slices are then evenly spaced.

    Returns:
        The model, the tokenizer of its texts, and how it starts, in words.

    Raises:
        UserError: if there is no such student, or it can't have these sizes.
    """
    model, tokenizer, start = _made(name, teacher, sizes, seed, first, read)
    if hasattr(teacher.model.config, "sentence_transformers"):  # what its CrossEncoder does to a score
        model.config.sentence_transformers = teacher.model.config.sentence_transformers
    return model, tokenizer, start


def _made(
    name: str,
    teacher: Classifier,
    sizes: Mapping[str, int],
    seed: int,
    first: Path | None,
    read: Callable[[], object] | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    if first is not None:
        model, tokenizer = load_classifier(find_checkpoint(str(first)), teacher.class_names, seed, teacher.problem)
        copied = _copy_head(model, teacher.model)
        return model, tokenizer, f"the first stage's, with {copied} tensors of the teacher's head"
    if has_weights(name):
        model, tokenizer = load_classifier(find_checkpoint(name), teacher.class_names, seed, teacher.problem)
        return model, tokenizer, f"the weights of {name} under a new head"
    config = student_config(name, teacher.model.config, sizes)
    own = teacher.model.config
    config.id2label, config.label2id = own.id2label, own.label2id
    if teacher.problem != "token_classification":
        config.problem_type = teacher.problem
    set_seed(seed)
    student = auto_class(teacher.problem).from_config(config, dtype=torch.float32)
    reader, importance = Reader(teacher.model), None
    body = initialise_from_teacher(student.base_model, reader)
    start = body.ahead_of_text
    if body.sliced and read is not None:
        body, importance = start_from_text(student.base_model, reader, read)
        start = str(body)
    copied = _copy_head(student, teacher.model, importance)
    return student, teacher.tokenizer, f"{start}; {copied} tensors of the head"


@torch.no_grad()
def _copy_head(student: PreTrainedModel, teacher: PreTrainedModel, importance: Importance | None = None) -> int:
    """Copy what isn't the body, or slices of it, where names and shapes allow; returns how many tensors that were."""
    slices = Slices(teacher.config, student.config, importance)
    body, there = f"{student.base_model_prefix}.", teacher.state_dict()
    own = {name: weight for name, weight in student.state_dict().items() if not name.startswith(body) and name in there}
    return sum(slices.copy(name, there[name], weight) for name, weight in own.items())


def in_order_of(teacher: Classifier, rows: Dataset) -> Dataset:
    """Labelled rows with the teacher's classes, matched by name; numbers are as they are, also if they are whole.

    Raises:
        UserError: if a class isn't one of the teacher's, or the labels are of another kind.
    """
    if teacher.problem == "regression":
        rows = as_numbers(rows)
    problem = problem_of_labels(rows)
    order = matched_classes(teacher.model.config, teacher.name, problem, names_of_labels(rows), whole=False)
    if problem == "regression":
        return rows
    return recoded(rows, order, teacher.class_names)


def no_rows(teacher: Classifier, columns: list[str]) -> Dataset:
    """Labelled rows of which there are none, beside text that is learned from the teacher alone.

    Args:
        columns: of the text.
    """
    text = List(Value("string")) if teacher.problem == "token_classification" else Value("string")
    features = {**dict.fromkeys(columns, text), "label": _label_feature(teacher)}
    return Dataset.from_dict({name: [] for name in features}, features=Features(features))


def _label_feature(teacher: Classifier) -> ClassLabel | List | Value:
    if teacher.problem == "regression":
        return Value("float32")
    one = ClassLabel(names=teacher.class_names)
    return one if teacher.problem == "single_label_classification" else List(one)
