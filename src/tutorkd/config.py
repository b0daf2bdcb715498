"""Configurations, in Trainer's own terms."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from tutorkd.methods.tutor_kd import TutorKDSettings

# Settings that nothing else checks before the first step, and their smallest and largest value.
_RANGES = {
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm"), (0, math.inf)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "mlm_probability"), (0, 1)),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, math.inf)),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_rows", "max_nonfinite_steps"), (1, math.inf)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    "dataloader_num_workers": (0, math.inf),
}
_LESS_IS_BETTER = ("perplexity", "kl_to_teacher")  # of what looks at held-out rows give


@dataclass
class PretrainingConfig(TrainingArguments):
    """``TrainingArguments`` for training on masked rows of text.

    Optimizer defaults are those of the authors' released code of Tutor-KD: AdamW, learning rate 5e-4, epsilon 1e-6,
    weight decay 0.01, linear warm-up over 1 % of the steps and linear decay.

    Raises:
        ValueError: for a setting out of its range.
    """

    _argument_group_name = "training"

    output_dir: str = field(default="tutorkd-run", metadata={"help": "Folder for checkpoints and the model (a path)."})

    # What Trainer has, with other defaults.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of AdamW."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of AdamW."})
    weight_decay: float = field(
        default=0.01, metadata={"help": "Weight decay of AdamW, but not of biases and LayerNorms."}
    )
    warmup_steps: float = field(
        default=0.01, metadata={"help": "Steps of linear warm-up; below 1, a share of all steps."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the corpus, unless max_steps is set."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows in a batch on each device."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Held-out rows in a batch on each device."})
    logging_steps: float = field(
        default=50, metadata={"help": "Steps between lines of the log; below 1, a share of all steps."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave off: steps whose gradient isn't finite are skipped and counted."}
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Number of checkpoints to keep; the oldest are deleted."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave off: batches are made by us."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars and no table of the log."})
    torch_compile: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Compile the step; by default in long runs on a GPU."},
    )
    dataloader_num_workers: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Processes that make batches; by default 4 on a GPU, else 0."},
    )

    # What Trainer hasn't.
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of ordinary tokens that are masked."})
    eval_rows: int = field(default=256, metadata={"help": "Number of rows in each look at held-out text."})
    max_nonfinite_steps: int = field(
        default=5, metadata={"help": "Stop after this many steps in a row with a gradient that isn't finite."}
    )

    def __post_init__(self):
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and (not least <= value <= most or math.isinf(value)):
                highest = "" if math.isinf(most) else f", the most {most}"
                raise ValueError(f"{name} can't be {value}: the least is {least}{highest}")
        if self.mlm_probability == 0:
            raise ValueError("mlm_probability can't be 0: nothing would be masked")
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError(f"max_steps can't be {self.max_steps}: give 1 or more, or -1 to go by num_train_epochs")
        if not 0 < self.num_train_epochs < math.inf:
            raise ValueError(f"num_train_epochs can't be {self.num_train_epochs}: it must be above 0")
        if (
            self.greater_is_better is None
            and (self.metric_for_best_model or "").removeprefix("eval_") in _LESS_IS_BETTER
        ):
            self.greater_is_better = False  # of all but losses Trainer takes more for better
        # transformers is renaming the first of each to the second; either is taken, without a notice about it.
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            if getattr(self, new, False) is None:
                setattr(self, new, getattr(self, old))
        # Trainer refuses bf16 on a processor unless it is told that the processor is meant.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if 0 < gpus < processes and not self.use_cpu:
            raise ValueError(
                f"{processes} processes for {gpus} GPU{'s' * (gpus > 1)}: each needs one of its own; start {gpus}, or "
                "set use_cpu"
            )
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 0 if self.use_cpu else min(4, os.cpu_count() or 1)
        with compiling_left_to_us(self):
            super().__post_init__()
        # A stream's batches are read by each process itself: a batch holds flat positions and can't be sliced.
        assert isinstance(self.accelerator_config, AcceleratorConfig)
        self.accelerator_config.dispatch_batches = False
        # Batches lie in pinned memory there, and nothing waits for their copies.
        self.accelerator_config.non_blocking = self.dataloader_pin_memory and not self.use_cpu

    @property
    def device(self) -> torch.device:
        """Where this process trains. One of several processes on the processor gets "cpu:0" from accelerate, which
        torch 2.11 can't load a checkpoint to.
        """
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


@contextmanager
def compiling_left_to_us(args: PretrainingConfig) -> Iterator[None]:
    """Within, transformers and accelerate, which would compile in their own ways, don't see that it is asked for."""
    asked = args.torch_compile, args.torch_compile_backend, args.torch_compile_mode
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
    try:
        yield
    finally:
        args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = asked


@dataclass
class DistillationConfig(PretrainingConfig):
    """For training a student from a frozen teacher, by any method.

    Example:
        >>> from tutorkd import DistillationConfig
        >>> args = DistillationConfig(output_dir="student", max_steps=1000, teacher_dtype="bfloat16")
        >>> args.max_steps, args.teacher_format
        (1000, torch.bfloat16)
    """

    teacher_dtype: Literal["auto", "float32", "bfloat16", "int8"] = field(
        default="auto",
        metadata={"help": "Number format of the frozen teacher; auto: bfloat16 if bf16 is on; int8 is for its layers."},
    )
    shard_teacher: bool = field(
        default=False,
        metadata={"help": "Spread a teacher that is too large for one device over the processes of the run."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.shard_teacher:
            return
        if self.teacher_dtype == "int8":
            raise ValueError(
                "teacher_dtype can't be int8 with shard_teacher, which only slices numbers of 16 or 32 bits: leave one "
                "of them out"
            )
        if self.world_size == 1:
            raise ValueError(
                "shard_teacher can't be true for a single process: start one process for each device with torchrun, or "
                "leave it out"
            )
        if self.device.type == "cpu" and torch.accelerator.is_available():
            raise ValueError(
                "shard_teacher can't be true with use_cpu on a machine that has a GPU, unless it is hidden with "
                "CUDA_VISIBLE_DEVICES="
            )
        if self.torch_compile:
            raise ValueError(
                "torch_compile can't be true with shard_teacher, whose layers are gathered between their passes: leave "
                "one of them out"
            )

    @property
    def teacher_format(self) -> torch.dtype:
        """Number format of the teacher; of one whose layers are in 8 bits that of the rest, and of what it computes."""
        low = self.teacher_dtype == "bfloat16" or (self.teacher_dtype in ("auto", "int8") and self.bf16)
        return torch.bfloat16 if low else torch.float32


def shards(args: PretrainingConfig) -> bool:
    """Whether a run has a teacher that is spread over its processes."""
    return isinstance(args, DistillationConfig) and args.shard_teacher


@dataclass
class TutorKDConfig(DistillationConfig, TutorKDSettings):
    """Training and Tutor-KD's constants in one, for ``TutorKDTrainer``.

    Example:
        >>> from tutorkd import TutorKDConfig
        >>> args = TutorKDConfig(output_dir="student", max_steps=1000, modified_logit_weight=10)
        >>> args.max_steps, args.modified_logit_weight, args.hidden_state_weight
        (1000, 10, 0.5)
    """
