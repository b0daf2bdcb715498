"""What a training step costs, counted on one row rather than guessed from sizes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tutorkd.batch import Batch
from tutorkd.compilation import LEAST_STEPS, compiles, plain
from tutorkd.config import PretrainingConfig
from tutorkd.data.taught import TAUGHT
from tutorkd.likeliest import fabricated
from tutorkd.objective import CAUSAL
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.quantization import stored
from tutorkd.runtime import Quartiles, timed
from tutorkd.sharding import gathered_bytes

# What the products of a step reach of ``matmul_rate``. Measured on two cores of a processor, where it was from 40 to
# 82 %; and on an H100 in bfloat16, where a step of Tutor-KD (BERT-base into half its depth, 128 rows of 128 tokens,
# 10.8 TFLOP) took 76 ms, compiled 36 ms, and the rate was from 750 to 790 TFLOP/s.
PROCESSOR_SHARE = 0.5
GPU_SHARE = 0.2
COMPILED_GPU_SHARE = 0.4


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# torch counts the fused attention of a GPU, but not the processor's.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


@dataclass(frozen=True)
class StepCost:
    """Cost of one optimizer step on each device."""

    tokens: int
    flops: float  # floating-point operations of all matrix products, forward, backward and of what the student writes
    static_bytes: int  # weights, gradients, optimizer state
    activation_bytes: int  # of one micro-batch: kept for its backward pass, and a causal teacher's logits beside it

    @property
    def peak_bytes(self) -> int:
        return self.static_bytes + self.activation_bytes


def measure_step(trainer: PackedRowsTrainer, max_length: int) -> StepCost:
    """Run fabricated rows forward and backward, count, and scale to the batch.

    Args:
        trainer: before training; its gradients are cleared again.
        max_length: tokens a row.
    """
    args = trainer.args
    count = _count_batch(trainer, max_length)
    if args.gradient_checkpointing:
        with _checkpointing(trainer):
            again = _count_batch(trainer, max_length)
        # One layer at a time is run again, and what it keeps is there then.
        layer = (count.saved_bytes - again.saved_bytes) // trainer.saved_model.config.num_hidden_layers
        count = _Count(again.flops, again.saved_bytes + layer)
    parameters = _parameters(trainer)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    gathered = logits = 0
    if (teacher := trainer._forward_arguments().get("teacher")) is not None:
        gathered = sum(gathered_bytes(part.model) for part in teacher.parts if part.sharded)
        if teacher.objective is CAUSAL:  # of all positions, over the whole vocabulary; what a masked one says is little
            numbers = args.per_device_train_batch_size * max_length * teacher.config.vocab_size
            logits = numbers * teacher.model.dtype.itemsize
    return StepCost(
        tokens=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size * max_length,
        flops=count.flops * args.gradient_accumulation_steps,
        # a gradient and AdamW's two moments, in float32, beside the weights
        static_bytes=sum(part.nbytes for p in parameters for part in stored(p)) + gathered + 12 * trained,
        activation_bytes=count.saved_bytes + logits,
    )


@contextmanager
def _checkpointing(trainer: PackedRowsTrainer) -> Iterator[None]:
    """Within, the model runs its layers again for their gradient, as Trainer lets it when training begins."""
    model = trainer.saved_model
    # transformers is renaming the second to the first
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    yield
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()


class _Count(NamedTuple):
    flops: float
    saved_bytes: int  # kept for the backward pass, weights left out


def _count_batch(trainer: PackedRowsTrainer, max_length: int) -> _Count:
    one, two = (_count(trainer, rows, max_length) for rows in (1, 2))
    rows = trainer.args.per_device_train_batch_size
    flops = (one.flops + _written_flops(trainer, max_length)) * rows
    # What a second row adds, each row adds; the rest, such as bfloat16 copies of the weights, is there once.
    return _Count(flops, one.saved_bytes + (two.saved_bytes - one.saved_bytes) * (rows - 1))


def _written_flops(trainer: PackedRowsTrainer, max_length: int) -> float:
    """Operations of what the student writes itself, a row, in the mean: chance says which rows it writes."""
    share, flops = trainer._share_written(), 0
    batch = _batch(trainer, 1, max_length)
    with _without_a_trace(trainer):
        while share and not flops:  # until chance has it write
            with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
                trainer._learned_from(trainer.model, batch)
            flops = counter.get_total_flops()
    return share * flops


def _batch(trainer: PackedRowsTrainer, rows: int, max_length: int) -> Batch:
    """The same row with the same masks, so that two cost twice what one does."""
    return trainer._prepare_inputs(trainer.masking([_typical_row(trainer, max_length)] * rows))


def _without_a_trace(trainer: PackedRowsTrainer) -> AbstractContextManager[None]:
    """Within, random numbers may be drawn; those of the run stay as they are."""
    return torch.random.fork_rng([trainer.args.device] if trainer.args.device.type == "cuda" else [])


def _count(trainer: PackedRowsTrainer, rows: int, max_length: int) -> _Count:
    module, batch = trainer.model, _batch(trainer, rows, max_length)
    weights = {part.untyped_storage().data_ptr() for p in _parameters(trainer) for part in stored(p)}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    saved = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with _without_a_trace(trainer), counter:
        with saved:
            loss = _loss(trainer, batch)
        loss.backward()
    module.zero_grad(set_to_none=True)
    return _Count(counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values()))


def _typical_row(trainer: PackedRowsTrainer, max_length: int) -> dict[str, Any]:
    """A fabricated row in the draw that is in the middle of 64 by how many of its positions are chosen."""
    collator = trainer.masking
    rows = [_row(collator, max_length, draw) for draw in range(64)]
    return sorted(rows, key=lambda row: len(collator([row]).masked_positions))[len(rows) // 2]


def _row(collator: Any, max_length: int, draw: int, seed: int = 0) -> dict[str, Any]:
    """A fabricated row of random tokens; where an embedding teacher reads others, as many of these."""
    generator = np.random.Generator(np.random.Philox(seed))
    row = {"input_ids": generator.choice(collator.ordinary_ids, max_length), "draw": draw}
    if taught := getattr(collator, "taught", None):
        row[TAUGHT] = generator.choice(taught.ordinary_ids, max_length)
    if k := getattr(collator, "likeliest", 0):
        row |= fabricated(max_length - 1, k)
    return row


def seconds_a_step(trainer: PackedRowsTrainer, max_length: int) -> float:
    """Time that a step of the run takes here, the median of some forward and backward passes over a full batch, with
    what the student writes itself before them.

    Nothing is compiled: where the run will be, the time is cut by what compiling saves a GPU.
    """
    args = trainer.args
    rows = [_row(trainer.masking, max_length, draw, seed=draw) for draw in range(args.per_device_train_batch_size)]
    batch = trainer._prepare_inputs(trainer.masking(rows))

    def both_passes() -> None:
        _loss(trainer, trainer._learned_from(trainer.model, batch)).backward()
        trainer.model.zero_grad(set_to_none=True)

    with _checkpointing(trainer) if args.gradient_checkpointing else nullcontext():
        seconds = timed(both_passes, args.device).median
    saved = share_of_rate(args.device, False) / share_of_rate(args.device, will_compile(args))
    return seconds * saved * args.gradient_accumulation_steps


def _loss(trainer: PackedRowsTrainer, batch: Batch) -> torch.Tensor:
    """As in a run that isn't compiled."""
    dtype = precision(trainer.args)
    trainer.model.train()
    with plain(), torch.autocast(trainer.args.device.type, dtype, enabled=dtype != torch.float32):
        return trainer.model(batch, **trainer._forward_arguments()).loss


def precision(args: PretrainingConfig) -> torch.dtype:
    """The number format of the step's matrix products."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def will_compile(args: PretrainingConfig) -> bool:
    """Whether the run will be compiled; one that goes by epochs is taken for a long one."""
    return compiles(args, args.max_steps if args.max_steps > 0 else LEAST_STEPS)


def share_of_rate(device: torch.device, compiled: bool) -> float:
    """What the matrix products of a step reach of ``matmul_rate``, about."""
    if device.type != "cuda":
        return PROCESSOR_SHARE
    return COMPILED_GPU_SHARE if compiled else GPU_SHARE


def _parameters(trainer: PackedRowsTrainer) -> list[nn.Parameter]:
    parts = [trainer.model, *filter(None, trainer._forward_arguments().values())]
    return list({id(p): p for part in parts for p in part.parameters()}.values())


def matmul_rate(dtype: torch.dtype, device: torch.device) -> Quartiles:
    """Floating-point operations a second of square matrix products on this machine.

    On a GPU they are wide enough to fill it, and several are under way at once, so that launching them doesn't count.
    """
    size, at_once = (8192, 4) if device.type == "cuda" else (1024, 1)
    a = torch.randn(size, size, device=device, dtype=dtype)

    def round_() -> None:
        for _ in range(at_once):
            a @ a

    return timed(round_, device).rate(at_once * 2 * size**3)
