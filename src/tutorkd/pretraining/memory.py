"""What a run takes of a device's memory with its teacher in this or that setting, and which of them fits."""

import os
from typing import NamedTuple

import psutil
import torch
from transformers import TrainingArguments

from tutorkd.cost import StepCost
from tutorkd.objective import EMBEDDING
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.quantization import quantised_bytes
from tutorkd.sharding import gathered_bytes, weight_bytes


class Setting(NamedTuple):
    """A way to hold the teacher."""

    name: str
    flags: str  # that ask for it
    peak_bytes: int  # of each process


def settings(trainer: PackedRowsTrainer, cost: StepCost) -> list[Setting]:
    """The run as it is and, if it has a teacher, with that held otherwise; in the order in which they are tried."""
    ways = [Setting("as it is", "as it is", cost.peak_bytes)]
    teacher, processes = trainer._forward_arguments().get("teacher"), trainer.args.world_size
    if teacher is None:
        return ways
    models = [part.model for part in teacher.parts]
    whole, rounded, gathered = (sum(map(size, models)) for size in (weight_bytes, quantised_bytes, gathered_bytes))
    sharded = whole // processes + gathered
    now = sharded if teacher.sharded else rounded if teacher.quantised else whole
    rest = cost.peak_bytes - now
    if teacher.sharded:
        ways.append(Setting("whole teacher", "--shard_teacher false", rest + whole))
    if teacher.model.dtype == torch.float32 and not teacher.quantised:
        ways.append(Setting("bfloat16 teacher", "--teacher_dtype bfloat16", rest + now // 2))
    if teacher.objective is EMBEDDING:
        return ways
    if processes > 1 and not teacher.sharded:
        ways.append(Setting("sharded teacher", "--shard_teacher true", rest + sharded))
    if not teacher.quantised:
        ways.append(Setting("int8 teacher", "--teacher_dtype int8", rest + rounded))
    return ways


def in_parts(args: TrainingArguments, cost: StepCost, there: int) -> Setting | None:
    """The same step in the fewest parts of equal size that each fit into ``there`` bytes; None where none do."""
    rows, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
    for n in (n for n in range(2, rows + 1) if rows % n == 0):
        peak = cost.static_bytes + cost.activation_bytes // n
        if peak <= there:
            flags = f"--per_device_train_batch_size {rows // n} --gradient_accumulation_steps {parts * n}"
            return Setting(f"{rows // n} rows at once", flags, peak)
    return None


def device_bytes(device: torch.device) -> int:
    """Memory that each process has for itself: a GPU's, or its share of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def memory_facts(ways: list[Setting], there: int) -> dict[str, str]:
    """Lines for the plan, by name: what each takes, and the first that fits into ``there`` bytes."""
    into = f"into {there / 2**30:.1f} GiB"
    fits = next((f"{way.flags}, {into}" for way in ways if way.peak_bytes <= there), None)
    first, *others = (f"about {way.peak_bytes / 2**30:.1f} GiB" for way in ways)
    return {
        "peak memory": f"{first} a device",
        **{f"  {way.name}": fact for way, fact in zip(ways[1:], others, strict=True)},
        "fits": fits or f"none of these, {into}; shorter rows (--max_length) or --gradient_checkpointing need less",
    }
