"""A fine-tuned classifier as a teacher: the rows with its answers, and a Trainer that learns from these."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, List, Value, concatenate_datasets
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.evaluation.classifier import Classifier, check_trained, load_trained
from tutorkd.evaluation.labelled import text_columns
from tutorkd.evaluation.layers import MatchedLayers
from tutorkd.evaluation.problem import Problem
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.evaluation.soft_targets import matched_classes, task_loss
from tutorkd.hub import load_config

# Columns beside a row's texts and label.
SOFT_TARGET, LABELLED = "soft_target", "labelled"
_ROLE = "teacher"


class TaskTeacher:
    """A classifier whose answers others learn, found to answer the same question as the labels.

    Args:
        soft: which classifier it is, and how it is learned from.
        class_names: of the labels, in the order of a student's logits.

    Raises:
        UserError: if there is no such classifier, or its answers aren't about these classes.
    """

    def __init__(self, soft: SoftTargetArguments, problem: Problem, class_names: Sequence[str]):
        self.soft, self.problem, name = soft, problem, str(soft.distill_from)
        self.checkpoint: Checkpoint = find_checkpoint(name)
        config = load_config(self.checkpoint.folder, _ROLE)
        check_trained(config, name, _ROLE)
        check_checkpoint(self.checkpoint, None, problem)
        self._order = matched_classes(config, name, problem, class_names)

    @cached_property
    def classifier(self) -> Classifier:
        """Its weights, once they are asked for.

        Raises:
            UserError: if its classification head was never trained.
        """
        return load_trained(self.checkpoint.name, _ROLE)

    def matched_layers(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> MatchedLayers | None:
        """What a student learns of its layers, if it is to.

        Raises:
            UserError: as `MatchedLayers`.
        """
        return MatchedLayers(student, tokenizer, self.classifier, self.soft) if self.soft.matches_layers else None

    def taught(self, labelled: Dataset, max_length: int, unlabelled: Dataset | None = None) -> Dataset:
        """Rows with the teacher's logits of them, in the order of the student's, in the column SOFT_TARGET.

        Of a row of words they are a list for each word, as far as any row has answers; NaN where there is none.

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
            none: list[Any] = [{Value: 0.0, ClassLabel: 0}.get(type(feature), [])] * len(unlabelled)
            rows = concatenate_datasets([labelled, unlabelled.add_column("label", none, feature=feature)])
            marks += [0.0] * len(unlabelled)
        teacher = self.classifier
        with tqdm(total=len(rows), desc=f"{self.checkpoint.title}: answering", unit=" rows", dynamic_ncols=True) as bar:
            texts = text_columns(rows)
            logits = teacher.logits(*texts, max_length=max_length, tell=bar.update)[..., self._order]
        answers = list(np.ma.filled(logits, np.nan))
        target = List(Value("float32"), length=len(self._order))
        if self.problem == "token_classification":
            answers = [list(of_row[: len(words)]) for of_row, words in zip(answers, texts[0], strict=True)]
            target = List(target)
        taught = rows.add_column(SOFT_TARGET, answers, feature=target)
        return taught.add_column(LABELLED, marks, feature=Value("float32"))


class TaughtTrainer(Trainer):
    """A Trainer whose rows have the soft targets of a teacher."""

    def __init__(self, *args: Any, teacher: TaskTeacher, layers: MatchedLayers | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._teacher = teacher
        self._layers = layers.to(self.args.device) if layers else None

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """That of the model, and of what is trained beside it."""
        optimizer = super().create_optimizer(model)
        if self._layers:
            beside = {"params": list(self._layers.projection.parameters()), "lr": self.args.learning_rate}
            optimizer.add_param_group({**beside, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of labels, soft targets and layers together; the model's own isn't computed."""
        read = dict(inputs)
        labels, targets, labelled = (read.pop(name) for name in ("labels", SOFT_TARGET, LABELLED))
        outputs: Any
        outputs, of_layers = self._layers.read(model, read) if self._layers else (model(**read), 0.0)
        teacher = self._teacher
        loss = of_layers + task_loss(teacher.problem, outputs.logits, labels, labelled, targets, teacher.soft)
        return (loss, outputs) if return_outputs else loss
