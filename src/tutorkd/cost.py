"""What a training step costs, counted on one row rather than guessed from sizes."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tutorkd.masked_rows import MaskedRowsTrainer


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
    flops: float  # floating-point operations of all matrix products, forward and backward
    static_bytes: int  # weights, gradients, optimizer state
    activation_bytes: int  # kept for the backward pass of one micro-batch

    @property
    def peak_bytes(self) -> int:
        return self.static_bytes + self.activation_bytes


def measure_step(trainer: MaskedRowsTrainer, max_length: int) -> StepCost:
    """Run fabricated rows forward and backward, count, and scale to the batch.

    Args:
        trainer: before training; its gradients are cleared again.
        max_length: tokens a row.
    """
    args = trainer.args
    one, two = (_count(trainer, rows, max_length) for rows in (1, 2))
    parameters = _parameters(trainer)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    rows = args.per_device_train_batch_size
    return StepCost(
        tokens=rows * args.gradient_accumulation_steps * args.world_size * max_length,
        flops=one.flops * rows * args.gradient_accumulation_steps,
        # a gradient and AdamW's two moments, in float32, beside the weights
        static_bytes=sum(p.numel() * p.element_size() for p in parameters) + 12 * trained,
        # what a second row adds, each row adds; the rest, such as bfloat16 copies of the weights, is there once
        activation_bytes=one.saved_bytes + (two.saved_bytes - one.saved_bytes) * (rows - 1),
    )


class _Count(NamedTuple):
    flops: int
    saved_bytes: int  # kept for the backward pass, weights left out


def _count(trainer: MaskedRowsTrainer, rows: int, max_length: int) -> _Count:
    args, module = trainer.args, trainer.model
    # The same row with the same masks, so that two cost twice what one does.
    batch = trainer._prepare_inputs(trainer.masking([_typical_row(trainer, max_length)] * rows))
    weights = {parameter.untyped_storage().data_ptr() for parameter in _parameters(trainer)}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    autocast = torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16)
    saved = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with torch.random.fork_rng([args.device] if args.device.type == "cuda" else []), counter:
        with autocast, saved:
            loss = module(batch, **trainer._forward_arguments()).loss
        loss.backward()
    module.zero_grad(set_to_none=True)
    return _Count(counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values()))


def _typical_row(trainer: MaskedRowsTrainer, max_length: int) -> dict[str, Any]:
    """A fabricated row in the draw that masks as nearly as may be the share of it that is masked on average."""
    collator = trainer.masking
    ids = np.random.Generator(np.random.Philox(0)).choice(collator.ordinary_ids, max_length)
    rows = [{"input_ids": ids, "draw": draw} for draw in range(64)]
    wanted = trainer.args.mlm_probability * max_length
    return min(rows, key=lambda row: abs(len(collator([row]).masked_positions) - wanted))


def seconds_a_step(trainer: MaskedRowsTrainer, max_length: int) -> float:
    """Time of one forward and backward pass over a full batch here, after one to warm up."""
    rows = trainer.args.per_device_train_batch_size
    ids = np.random.Generator(np.random.Philox(0)).choice(trainer.masking.ordinary_ids, (rows, max_length))
    batch = trainer._prepare_inputs(trainer.masking([{"input_ids": row, "draw": draw} for draw, row in enumerate(ids)]))
    autocast = torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.args.bf16)
    for _ in range(2):
        start = _now(trainer.args.device)
        with autocast:
            loss = trainer.model(batch, **trainer._forward_arguments()).loss
        loss.backward()
        trainer.model.zero_grad(set_to_none=True)
    return (_now(trainer.args.device) - start) * trainer.args.gradient_accumulation_steps


def _parameters(trainer: MaskedRowsTrainer) -> list[nn.Parameter]:
    parts = [trainer.model, *trainer._forward_arguments().values()]
    return list({id(p): p for part in parts for p in part.parameters()}.values())


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 1024) -> float:
    """Floating-point operations a second of a square matrix product on this machine, the best of five."""
    a = torch.randn(size, size, device=device).to(dtype)
    rates = []
    for _ in range(5):
        start = _now(device)
        a @ a
        rates.append(2 * size**3 / (_now(device) - start))
    return max(rates)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
