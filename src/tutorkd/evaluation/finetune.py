"""Fine-tuning of an encoder on labelled text with transformers' Trainer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from tqdm.auto import tqdm
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.labelled import labels_of, problem_of_labels, text_columns
from tutorkd.evaluation.tagged_rows import LABELS, TaggedRowsCollator, tokenize_tagged
from tutorkd.evaluation.task_teacher import LABELLED, SOFT_TARGET, TaskTeacher, TaughtTrainer
from tutorkd.runtime import keep_freed_memory
from tutorkd.words import one_line


class FineTuningBar(TrainerCallback):
    """A bar for training: sentences, sentences a second, time left, loss.

    Args:
        title: what stands before the bar.
        sentences: rows seen over the whole training, all epochs together.
    """

    def __init__(self, title: str, sentences: int):
        self.title = title
        self.sentences = sentences
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=self.sentences, desc=f"{self.title}: fine-tuning", unit=" sentences", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        assert self.bar is not None
        self.bar.update(round(self.sentences * state.global_step / state.max_steps) - self.bar.n)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs):
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids in place of the columns ``text`` and ``text_pair``; pairs are cut at their longer part.

    Of labels that are lists of classes 1.0 or 0.0 for each class, as a loss takes them; of words as `tokenize_tagged`.

    Raises:
        UserError: of words, as `tokenize_tagged`.
    """
    problem = problem_of_labels(rows)
    if problem == "token_classification":
        return tokenize_tagged(rows, tokenizer, max_length)
    columns = [column for column in ("text", "text_pair") if column in rows.column_names]
    tokens = rows.map(
        lambda batch: tokenizer(*(batch[column] for column in columns), truncation=True, max_length=max_length),
        batched=True,
        remove_columns=columns,
        keep_in_memory=True,
        desc="tokenising",
    )
    if problem == "multi_label_classification":
        hot = labels_of(rows).astype(np.float32).tolist()
        tokens = tokens.remove_columns("label").add_column("label", hot, feature=List(Value("float32")))
    return tokens


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    args: FineTuneArguments,
    output_dir: str,
    title: str,
    teacher: TaskTeacher | None = None,
) -> Trainer:
    """A Trainer ready to fine-tune ``model`` on tokenised rows; nothing is saved.

    Args:
        teacher: that gave rows their soft targets; by default labels are all that they have.

    Raises:
        UserError: if this device can't do what ``args`` ask for.
    """
    accelerator = torch.accelerator.is_available()
    if not accelerator:
        keep_freed_memory()
    try:
        arguments = TrainingArguments(
            output_dir=output_dir,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=args.per_device_train_batch_size,
            num_train_epochs=args.num_train_epochs,
            lr_scheduler_type="linear",
            warmup_steps=args.warmup_ratio,  # below 1 it is a share of the steps
            train_sampling_strategy="group_by_length",
            seed=args.seed,
            bf16=args.uses_bfloat16(),
            use_cpu=not accelerator,
            dataloader_pin_memory=accelerator,
            accelerator_config={"non_blocking": accelerator},  # nothing waits for copies from pinned memory
            label_names=["labels", SOFT_TARGET, LABELLED],
            save_strategy="no",
            logging_steps=0.05,  # of all steps
            logging_nan_inf_filter=False,  # which would wait for the loss of each step
            disable_tqdm=True,
            report_to="none",
        )
    except ValueError as error:
        raise UserError(f"these settings can't be used here: {one_line(error)}") from error
    if arguments.n_gpu > 1:  # of several GPUs one: spread over all, a step would have as many times the rows
        arguments._n_gpu = 1
    kind: Callable[..., Trainer] = Trainer
    if teacher is not None:
        kind = partial(TaughtTrainer, teacher=teacher, layers=teacher.matched_layers(model, tokenizer))
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=(TaggedRowsCollator if LABELS in train.column_names else DataCollatorWithPadding)(tokenizer),
        processing_class=tokenizer,
        callbacks=[FineTuningBar(title, round(len(train) * args.num_train_epochs))],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run_training(trainer: Trainer) -> float:
    """Train the model, which then computes in float32 again, as it is saved; returns the seconds that it took.

    Under the autocast that Trainer leaves it in, logits have the three digits of bfloat16, so that many are equal.

    Raises:
        UserError: if memory runs out, or the model can't be computed in bfloat16, as some families can't.
    """
    try:
        seconds = trainer.train().metrics["train_runtime"]
    except torch.OutOfMemoryError as error:
        raise UserError(f"memory ran out: lower the rows of a step or max_length ({one_line(error)})") from error
    except RuntimeError as error:
        if not trainer.args.bf16:
            raise
        raise UserError(f"fine-tuning in bfloat16 failed; try --bf16 false ({one_line(error)})") from error
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return seconds


def predict(classifier: Classifier, rows: Dataset, max_length: int) -> np.ndarray:
    """A classifier's logits of labelled rows, or of text alone, as `Classifier.logits` gives them; a bar meanwhile."""
    with tqdm(total=len(rows), desc=f"{classifier.name}: predicting", unit=" rows", leave=False) as bar:
        return classifier.logits(*text_columns(rows), max_length=max_length, tell=bar.update)
