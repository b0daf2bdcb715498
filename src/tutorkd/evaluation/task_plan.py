"""What ``tutorkd distill-task`` would do, before it does it."""

import math
from dataclasses import replace
from typing import cast

from datasets import Dataset
from transformers import PreTrainedModel

from tutorkd.evaluation.cost import answering_seconds, fine_tuning_seconds, mean_length
from tutorkd.evaluation.task_distillation import TaskDistillation
from tutorkd.evaluation.task_student import make_student
from tutorkd.pretraining.distillation import told
from tutorkd.students import sizes_of, told_sizes
from tutorkd.words import duration

_BATCH = 32  # of which the teacher is timed


def task_plan(task: TaskDistillation) -> dict[str, str]:
    """Models, rows, steps and time, by what they are called; the student is made, and thrown away.

    Raises:
        UserError: if there is no such student, or it can't learn from this teacher; or if the folder holds another run.
    """
    args, teacher = task.args, task.classifier
    stage = {"first stage": told(task.first)} if task.first else {}
    finished = task.finished()
    student, tokenizer, start = make_student(args.student, teacher, sizes_of(args), args.seed)
    task.teacher.matched_layers(student, tokenizer)
    rows = len(task.train) + len(task.unlabelled or ())
    steps = math.ceil(rows / args.per_device_train_batch_size) * args.num_train_epochs
    plan = {
        "teacher": f"{teacher.name}: {told_sizes(teacher.model)}",
        "student": f"{args.student}: {told_sizes(student)}; {start}",
        **stage,
        "rows": f"{len(task.train):,} to train on, {len(task.validation):,} to measure on",
        **({"without labels": f"{len(task.unlabelled):,} rows"} if task.unlabelled else {}),
        "classes": ", ".join(teacher.class_names),
        "steps": f"{math.ceil(steps):,}, of {args.per_device_train_batch_size} rows",
    }
    if finished:
        return plan | {"time": f"the student is finished, in {task.folder}; its files and the table are left"}
    length = mean_length(task.train if len(task.train) else cast(Dataset, task.unlabelled), tokenizer, args.max_length)
    learning = fine_tuning_seconds(_body(student), rows, length, replace(args, max_train_samples=None))
    answering = answering_seconds(_body(teacher.model), rows + len(task.validation), length, _BATCH)
    seconds = learning + answering
    after = "the int8 file and the table" + (", and before it the first stage, as it says above" if task.first else "")
    return plan | {"time": f"about {duration(seconds)} on this machine, and then {after}"}


def _body(model: PreTrainedModel) -> PreTrainedModel:
    return cast(PreTrainedModel, model.base_model)
