"""The passes of a training step as graphs that torch.compile makes.

On a GPU they are replayed as CUDA graphs: a launch a pass in place of two thousand, which a processor can't hand over
as fast as the GPU works them off.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import InvalidBackend
from transformers import TrainerCallback

from tutorkd.batch import Batch
from tutorkd.config import PretrainingConfig, shards
from tutorkd.errors import UserError
from tutorkd.masking import MaskingCollator
from tutorkd.padding import TextCollator
from tutorkd.spacing import SpacedCollator
from tutorkd.words import one_line

LEAST_STEPS = 1000  # of a run that is compiled unasked: compiling takes up to two minutes, and saves 40 ms a step
_TURN_OFF = "--torch_compile false trains without compiling"


class Compilation(TrainerCallback):
    """Compiles a module when its training begins, where that is asked for or pays.

    Only batches of one shape go through the compiled passes: as many rows as a batch has, none of them padded, with the
    number of positions that the collator fills them up to. Any other, such as one with a padded row, takes the
    plain passes, which compute the same.

    Args:
        module: what is trained; it is compiled in place.
        masking: makes its batches.
        note: says in a few words what is going on.
    """

    def __init__(
        self,
        module: nn.Module,
        masking: MaskingCollator | SpacedCollator | TextCollator,
        note: Callable[[str], None],
    ):
        self.module, self.masking, self.note = module, masking, note
        self.on = self.asked = self.noted = False
        self.shape: tuple[int, int, int] | None = None  # of the batches that go through the compiled passes

    def on_train_begin(self, args: Any, state, control, **kwargs):
        if self.on or not compiles(args, state.max_steps):
            return
        self.on, self.asked = True, bool(args.torch_compile)
        self.masking.full = args.per_device_train_batch_size
        # One graph a device, whose gradients are exchanged when all are there. And what a layer notes while it runs
        # isn't noted again where it is run a second time for its gradient.
        torch._dynamo.config.optimize_ddp = False
        torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # what is in float32 is meant to be
        mode = args.torch_compile_mode or ("reduce-overhead" if args.device.type == "cuda" else None)
        try:
            self.module.compile(dynamic=False, backend=args.torch_compile_backend or "inductor", mode=mode)
        except (InvalidBackend, RuntimeError) as error:
            raise UserError(f"torch_compile: {one_line(error)}") from error
        self.note("compiling the step, which takes a minute or two")
        self.noted = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.noted:
            self.note("")
            self.noted = False

    def around(self, batch: Batch) -> AbstractContextManager:
        """Within, the module takes the passes that a batch is to go through."""
        return nullcontext() if not self.on or self._takes(batch) else plain()

    def _takes(self, batch: Batch) -> bool:
        if not self.masking.is_full(batch):
            return False
        self.shape = self.shape or batch.shape
        return batch.shape == self.shape

    def give_up(self, error: Exception) -> None:
        """Go on with the plain passes, since torch couldn't compile.

        Raises:
            UserError: if compiling was asked for.
        """
        reason = f"the step couldn't be compiled: {one_line(error)}"
        if self.asked:
            raise UserError(f"{reason}; {_TURN_OFF}") from error
        warnings.warn(f"{reason}; training continues without; {_TURN_OFF} and without this warning", stacklevel=2)
        self.module._compiled_call_impl = None
        self.on, self.masking.full = False, None

    def keep_gradients(self) -> None:
        """Move gradients out of the graph's memory, which its next replay writes to."""
        if self.on:
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()


def plain() -> AbstractContextManager:
    """Within, nothing that was compiled is used."""
    return torch.compiler.set_stance("force_eager")


def compiles(args: PretrainingConfig, steps: int) -> bool:
    """Whether a run of so many steps is compiled: as ``torch_compile`` says, and by default long ones on a GPU.

    One with a sharded teacher, whose layers are gathered between their passes, never is.
    """
    if shards(args):
        return False
    if args.torch_compile is None:
        return args.device.type == "cuda" and steps >= LEAST_STEPS
    return args.torch_compile
