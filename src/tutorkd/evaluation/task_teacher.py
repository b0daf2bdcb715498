"""A fine-tuned classifier as a teacher: the rows with its answers, and a Trainer that learns from these."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, List, Value, concatenate_datasets
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Trainer

from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.evaluation.classifier import Problem, check_trained, load_trained, problem_of
from tutorkd.evaluation.labelled import text_columns
from tutorkd.evaluation.soft_targets import SoftTargetArguments, matched_classes, task_loss
from tutorkd.hub import load_config

# Columns beside a row's texts and label.
SOFT_TARGET, LABELLED = "soft_target", "labelled"
_ROLE = "teacher"


class TaskTeacher:
    """A classifier whose answers others learn, found to answer the same question as the labels.

    Args:
        name: a path or Hub name.
        class_names: of the labels, in the order of a student's logits.

    Raises:
        UserError: if there is no such classifier, or its answers aren't about these classes.
    """

    def __init__(self, name: str, problem: Problem, class_names: Sequence[str]):
        self.checkpoint: Checkpoint = find_checkpoint(name)
        check_checkpoint(self.checkpoint, None)
        config = load_config(self.checkpoint.folder, _ROLE)
        check_trained(config, name, _ROLE)
        self._order = matched_classes(config, name, problem, class_names)

    def taught(self, labelled: Dataset, max_length: int, unlabelled: Dataset | None = None) -> Dataset:
        """Rows with the teacher's logits of them, in the order of the student's, in the column SOFT_TARGET.

        They are computed once: the teacher is frozen, so that a text has one answer. It reads texts with its own
        tokenizer.

        Args:
            labelled: texts and labels; there may be none.
            max_length: from which rows are cut, in tokens, or where the teacher's positions end.
            unlabelled: further rows, whose texts are in the same columns.

        Returns:
            The rows of both, with LABELLED 1 of the first and 0 of the second.

        Raises:
            UserError: if its classification head was never trained.
        """
        rows, marks = labelled, [1.0] * len(labelled)
        if unlabelled is not None:
            feature = labelled.features["label"]
            none = [0.0 if isinstance(feature, Value) else 0] * len(unlabelled)
            rows = concatenate_datasets([labelled, unlabelled.add_column("label", none, feature=feature)])
            marks += [0.0] * len(unlabelled)
        teacher = load_trained(self.checkpoint.name, _ROLE)
        with tqdm(total=len(rows), desc=f"{self.checkpoint.title}: answering", unit=" rows", dynamic_ncols=True) as bar:
            logits = teacher.logits(*text_columns(rows), max_length=max_length, tell=bar.update)
        answers = list(logits[:, self._order])
        taught = rows.add_column(SOFT_TARGET, answers, feature=List(Value("float32"), length=len(self._order)))
        return taught.add_column(LABELLED, marks, feature=Value("float32"))


class TaughtTrainer(Trainer):
    """A Trainer whose rows have soft targets."""

    def __init__(self, *args: Any, soft: SoftTargetArguments, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._soft = soft

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of labels and soft targets together; the model's own isn't computed."""
        read = dict(inputs)
        labels, targets, labelled = (read.pop(name) for name in ("labels", SOFT_TARGET, LABELLED))
        outputs = model(**read)
        problem = problem_of(self.accelerator.unwrap_model(model).config)
        loss = task_loss(problem, outputs.logits, labels, labelled, targets, self._soft)
        return (loss, outputs) if return_outputs else loss
