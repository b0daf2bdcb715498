"""What one training step must do, counted on tensors that hold shapes and types but no numbers.

    python benchmarks/count.py                                       Tutor-KD, BERT-base to its half, 128 x 128
    python benchmarks/count.py --method minilm-v2 --shape small --rows 32
    python benchmarks/count.py --compiled                            its graphs, as torch.compile fuses them

No GPU is needed, and no memory but for the weights: a step at full size takes seconds on a processor. Printed are, by
stage, the operations that would be launched, the bytes that they would read and write if none were fused, the
floating-point operations of the matrix products by type, and the synchronisations: where the processor would wait for a
GPU. Of a compiled step the passes are counted as Inductor's kernels, which read and write what their operations share
once. They are those that it makes for a processor; for a GPU it fuses much the same.
"""

import argparse
import copy
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from step import SHAPES, Shape, _text, _tokenizer
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering
from torch._subclasses import FakeTensorMode
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from transformers import BertForMaskedLM, BertTokenizer

from tutorkd.config import DistillationConfig
from tutorkd.methods import METHODS
from tutorkd.students import build_student
from tutorkd.trainer import DistillationTrainer

aten = torch.ops.aten
STAGES = ("forward", "teacher", "student", "losses", "backward", "clipping, figures", "optimizer")
# What hands a number, or a shape that depends on numbers, to the processor.
SYNCHRONISING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}
# What makes another view of the same memory, or does nothing.
FREE = {aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten._unsafe_view.default}


@dataclass
class Counts:
    """Of one stage."""

    operations: int = 0
    bytes: int = 0
    flops: dict[torch.dtype, int] = field(default_factory=lambda: defaultdict(int))
    synchronisations: list[str] = field(default_factory=list)


class Counter(TorchDispatchMode):
    """Counts, by stage, what is dispatched within."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = "losses"
        self.counts: dict[str, Counts] = defaultdict(Counts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        counts = self.counts[self.stage]
        if func in SYNCHRONISING or (func is aten.index.Tensor and any(_is_mask(index) for index in args[1])):
            counts.synchronisations.append(_place())
        if func is aten._local_scalar_dense.default:
            return 1.0
        result = func(*args, **kwargs)
        if func in FREE or func.is_view or func.namespace == "prim":
            return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if not func._schema.returns:  # writes in place, as an optimizer does
            given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            written = [given[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            tensors += [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]
        counts.operations += 1
        counts.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if formula := flop_registry.get(func._overloadpacket):
            counts.flops[tensors[0].dtype] += formula(*args, **kwargs, out_val=result)
        return result

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Counts go to ``stage``; a stage within a stage has its own."""
        before, self.stage = self.stage, stage
        try:
            yield
        finally:
            self.stage = before


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _place() -> str:
    """The line of ours, or of the benchmark, that led to an operation."""
    frame = sys._getframe(2)
    while frame is not None and "tutorkd" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}" if frame else "outside tutorkd"


def count_step(method: str, shape: Shape, bfloat16: bool = True, **settings: Any) -> dict[str, Counts]:
    """One step of a method on a full batch of random rows: both passes, clipping, optimizer. By stage.

    ``settings`` are constants of the method. The student's attention is without dropout: on a GPU that is part of the
    fused kernel, here it would be taken apart.
    """
    trainer, rows = _prepared(method, shape, bfloat16, settings)
    counter, fake = Counter(), FakeTensorMode(allow_non_fake_inputs=True)
    _empty(nn.ModuleList([trainer.model, trainer.teacher]), fake)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    with fake:  # the optimizer's state is made in its first step, which isn't the one that is counted
        for parameter in trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    batch = trainer.masking([{**row, "draw": draw} for draw, row in enumerate(rows)])  # numbers decide its shapes
    batch = tree_map_only(Tensor, fake.from_tensor, batch)
    with fake, counter, _stages(counter, trainer):
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, batch)
        with counter.within("backward"):
            loss.backward()
        with counter.within("clipping, figures"):
            trainer._get_grad_norm(trainer.model)
        with counter.within("optimizer"):
            trainer.optimizer.step()
    return dict(counter.counts)


def count_graphs(method: str, shape: Shape, bfloat16: bool = True, **settings: Any) -> dict[str, Counts]:
    """Kernels, and the bytes that they read and write, of a step whose passes are compiled. By stage."""
    trainer, rows = _prepared(method, shape, bfloat16, settings)
    trainer.masking.full = shape.rows
    batch = trainer.masking([{**row, "draw": draw} for draw, row in enumerate(rows)])
    counts = {"forward": Counts(), "backward": Counts()}

    def counted(graph: GraphLowering) -> Any:
        """In place of a module of kernels: one whose results, of the right shapes, hold what was in memory."""
        graph._update_scheduler()
        stage = counts["backward" if graph.is_backward else "forward"]
        stage.bytes, nodes, _ = graph.count_bytes()
        stage.operations = sum(size > 0 for _, size in nodes)
        results = [
            node.meta["val"] if isinstance(node, Node) else None for node in graph.module.graph.output_node().args[0]
        ]

        def call(arguments: list[Any]) -> list[Any]:
            arguments.clear()
            tensors = [isinstance(result, Tensor) for result in results]
            return [
                torch.empty_strided(result.shape, result.stride(), dtype=result.dtype) if is_tensor else result
                for result, is_tensor in zip(results, tensors, strict=True)
            ]

        return SimpleNamespace(call=call, runner=None, __file__="", key=None, path=None)

    compiled = torch.compile(trainer.model.train(), fullgraph=True, dynamic=False)
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        patch.object(GraphLowering, "compile_to_module", counted),
    ):
        with trainer.accelerator.autocast():
            loss = compiled(batch, **trainer._forward_arguments()).loss
        loss.backward()
    plain = count_step(method, shape, bfloat16, **settings)
    return counts | {stage: plain[stage] for stage in ("clipping, figures", "optimizer")}


def _prepared(
    method: str, shape: Shape, bfloat16: bool, settings: dict[str, Any]
) -> tuple[DistillationTrainer, list[dict[str, Any]]]:
    """A method's trainer, its student's attention without dropout, and the rows of a full batch."""
    shape = replace(shape, teacher=copy.deepcopy(shape.teacher))
    shape.teacher.attention_probs_dropout_prob = 0.0
    tokenizer = _tokenizer(shape.teacher.vocab_size)
    rows = _text(shape, tokenizer)[: shape.rows]
    with tempfile.TemporaryDirectory() as folder:
        return _trainer(method, METHODS[method].settings(**settings), shape, folder, bfloat16, rows, tokenizer), rows


def _trainer(
    method: str,
    settings: Any,
    shape: Shape,
    folder: str,
    bfloat16: bool,
    rows: list[dict[str, Any]],
    tokenizer: BertTokenizer,
) -> DistillationTrainer:
    student = build_student("half", shape.teacher, head=settings.student_head)
    config = DistillationConfig(folder, per_device_train_batch_size=shape.rows, use_cpu=True, bf16=bfloat16)
    teacher = BertForMaskedLM(shape.teacher)
    return DistillationTrainer(student, teacher, config, rows, tokenizer, method=method, settings=settings)


def _empty(module: nn.Module, fake: FakeTensorMode) -> None:
    """Take the numbers out of all weights and buffers; one that stands in two places still does."""
    emptied: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = emptied.setdefault(tensor, fake.from_tensor(tensor))


@contextmanager
def _stages(counter: Counter, trainer: DistillationTrainer) -> Iterator[None]:
    """Within, what teacher and student do in their forward passes is counted as theirs."""
    hooks, within = [], []
    for stage, module in (("teacher", trainer.teacher.body), ("student", trainer.saved_model.base_model)):

        def enter(*_: Any, stage: str = stage) -> None:
            within.append(counter.within(stage))
            within[-1].__enter__()

        def leave(*_: Any) -> None:
            within.pop().__exit__(None, None, None)

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def print_counts(title: str, counts: dict[str, Counts]) -> None:
    """A table, and where the processor would wait."""
    dtypes = sorted({dtype for each in counts.values() for dtype in each.flops}, key=str)
    table = Table(title=title, title_justify="left")
    table.add_column("stage", no_wrap=True)
    headings = [f"TFLOP in {str(dtype).removeprefix('torch.')}" for dtype in dtypes]
    for heading in ("operations", "GB", *headings, "synchronisations"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [(stage, [counts[stage]]) for stage in STAGES if stage in counts]
    for name, parts in [*rows, ("step", list(counts.values()))]:
        if name == "step":
            table.add_section()
        table.add_row(
            name,
            f"{sum(part.operations for part in parts):,}",
            f"{sum(part.bytes for part in parts) / 1e9:,.1f}",
            *(f"{sum(part.flops[dtype] for part in parts) / 1e12:,.2f}" for dtype in dtypes),
            f"{sum(len(part.synchronisations) for part in parts)}",
        )
    Console(width=max(Console().width, 120)).print(table)
    for stage, each in counts.items():
        for place in each.synchronisations:
            print(f"the processor would wait in {place} ({stage})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="tutor-kd", help="default: tutor-kd")
    parser.add_argument("--shape", choices=SHAPES, default="base", help="default: base")
    parser.add_argument("--rows", type=int, default=128, help="rows of 128 tokens a step; default 128")
    parser.add_argument("--float32", action="store_true", help="count in float32 instead of bfloat16")
    parser.add_argument("--compiled", action="store_true", help="count the kernels that torch.compile makes")
    args = parser.parse_args()
    shape = replace(SHAPES[args.shape], rows=args.rows)
    counted = count_graphs if args.compiled else count_step
    title = f"{METHODS[args.method].title}, {shape}{', compiled' * args.compiled}"
    print_counts(title, counted(args.method, shape, not args.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
