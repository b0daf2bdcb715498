"""What is given to trainers and can't be trained with here, and one setting that needs our help."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any, cast

from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.config import PretrainingConfig
from tutorkd.errors import UserError, kind_of
from tutorkd.options.trainer_options import REFUSED_FROM_PYTHON, REFUSED_PARTS
from tutorkd.step import Figure

_HELD_OUT = "eval_"  # before the names of what looks at held-out rows give


def check_trainable(args: Any, kind: type[PretrainingConfig], tokenizer: Any, parts: Iterable[str]) -> None:
    """Refuse what isn't what a trainer takes.

    Args:
        args: must be of this ``kind``.
        tokenizer: must be one.
        parts: names of what ``Trainer`` is to be given beside.

    Raises:
        UserError: naming what is needed.
    """
    if not isinstance(args, kind):
        raise UserError(
            f"args are needed as a {kind.__name__}, which takes all that TrainingArguments takes, not as "
            f"{kind_of(args)}"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"processing_class must be a tokenizer, AutoTokenizer.from_pretrained(...), not {kind_of(tokenizer)}"
        )
    for part in parts:
        if part in REFUSED_PARTS:
            raise UserError(f"{part} can't be given: {REFUSED_PARTS[part]}")


def check_arguments(args: PretrainingConfig) -> None:
    """Refuse arguments that would train otherwise than they say.

    Raises:
        UserError: with what to set instead.
    """
    _refuse_sharding(args)
    for field in fields(args):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in REFUSED_FROM_PYTHON and getattr(args, field.name) != default:
            raise UserError(f"{field.name} can't be set: {REFUSED_FROM_PYTHON[field.name]}")
    if args.fp16 and args.device.type == "cpu":  # accelerate would train in float32 and say nothing
        raise UserError("fp16 needs a GPU; on a processor use bf16, or leave both out")
    if args.n_gpu > 1:
        raise UserError(
            "several GPUs in one process would need DataParallel, which this trainer doesn't do: start one process for "
            "each GPU with `accelerate launch` or `torchrun`, or show it only one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def check_best(args: PretrainingConfig, figures: Sequence[Figure]) -> None:
    """Refuse to choose the best checkpoint, or a learning rate, by what no look at held-out rows gives.

    Args:
        figures: all of the log.

    Raises:
        UserError: naming those that there are.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    wanted = args.metric_for_best_model.removeprefix(_HELD_OUT)
    known = [each.name.removeprefix(_HELD_OUT) for each in figures if each.name.startswith(_HELD_OUT)]
    if wanted not in known:
        raise UserError(
            f"metric_for_best_model: looks at held-out rows give no {wanted} here; set it to {' or '.join(known)}"
        )


def _refuse_sharding(args: PretrainingConfig) -> None:
    """Refuse engines that spread a model over devices, whether the arguments or ``accelerate launch`` ask for them.

    Raises:
        UserError: with what to start instead.
    """
    asked = [name for name in ("fsdp", "deepspeed", "parallelism_config") if getattr(args, name)]
    launched = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
    asked += [name for name in (*launched, "ACCELERATE_USE_PARALLELISM_CONFIG") if parse_flag_from_env(name)]
    if asked:
        raise UserError(
            f"{asked[0]} can't be used: each device holds a whole copy of the model here; start one process for each "
            "device with torchrun, or with an accelerate configuration for several devices without FSDP and DeepSpeed; "
            "--shard_teacher spreads a teacher that is too large for one device"
        )


def prepare_for_checkpointing(module: nn.Module, model: PreTrainedModel, args: PretrainingConfig) -> None:
    """Let Trainer, which asks ``module`` for gradient checkpointing, find it at ``model``.

    Raises:
        UserError: if the model can't, or in the way that runs the forward pass without gradients.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing: transformers has none for a {type(model).__name__}; leave it out")
    # Queries, keys and values are taken during the forward pass; they have a gradient only if it is kept there.
    if cast(dict, args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
        raise UserError("gradient_checkpointing_kwargs: use_reentrant can't be true here; leave it out")
    for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
        if hasattr(model, name):
            setattr(module, name, getattr(model, name))
