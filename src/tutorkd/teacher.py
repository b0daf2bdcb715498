"""The frozen teacher."""

import copy
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutorkd.capture import prepare_for_capture
from tutorkd.errors import UserError
from tutorkd.hub import load_model
from tutorkd.objective import MASKED, Objective
from tutorkd.quantization import quantise
from tutorkd.reader import Head, Reader, Reading
from tutorkd.sharding import is_sharded, load_sharded, outline, run_sharded, whole

Frozen = TypeVar("Frozen", bound=nn.Module)


def frozen(module: Frozen, dtype: torch.dtype | None = None) -> Frozen:
    """The same module apart, without gradients and in evaluation mode; ``module`` stays as it is.

    Modules and configuration are copies. The weights are ``module``'s own memory, but for those that have another
    ``dtype``: these are copied. What a checkpoint doesn't hold, such as the frequencies of rotary embeddings, keeps its
    precision, as it does where a model is loaded.
    """
    weights = {}
    for weight in module.state_dict(keep_vars=True).values():
        value = weight.detach().to(dtype) if dtype and weight.is_floating_point() else weight.detach()
        weights[id(weight)] = nn.Parameter(value, requires_grad=False) if isinstance(weight, nn.Parameter) else value
    return copy.deepcopy(module, weights).eval()


class Teacher(Reader):
    """A frozen language model, masked or causal.

    Args:
        model: any language model with a trained head. It stays as it is: its weights are read, and shared where
            ``dtype`` allows, but whether they are trained, its mode, configuration and number format are its own. One
            of ``load_sharded`` is the teacher's own, in the number format that it was loaded in.
        dtype: number format of the weights; the model's by default.

    Attributes:
        quantised: whether the matrices of its layers are in 8 bits.

    Raises:
        UserError: if the attention of a masked model can't be captured.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None):
        super().__init__(model if is_sharded(model) else frozen(model, dtype))
        self.quantised = False
        if self.objective is MASKED:
            self.prepare_for_capture()

    def prepare_for_capture(self) -> None:
        """See that its attention can be read, as a masked one's always can.

        Raises:
            UserError: if it can't.
        """
        read = partial(run_sharded, self.model, self.body) if self.sharded else None
        prepare_for_capture(self.body, "teacher", read)

    @property
    def sharded(self) -> bool:
        """Whether each process of the run holds a slice of every weight; then all of them call it together."""
        return is_sharded(self.model)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode: the teacher has no dropout."""
        return super().train(False)

    @property
    def placed(self) -> bool:
        """Whether whoever loaded its model put parts of it on several devices (``device_map``)."""
        return len(set(getattr(self.model, "hf_device_map", {}).values())) > 1

    def to(self, *args: Any, **kwargs: Any) -> "Teacher":
        """As any module's, but one that was placed stays where it is."""
        return self if self.placed else super().to(*args, **kwargs)

    def quantise(self) -> None:
        """Round the matrices of its layers to 8 bits; a model that it was made of stays as it is."""
        quantise(self.model)
        self.quantised = True

    def visiting(self, device: torch.device) -> "Teacher":
        """A teacher that reads on a device which may be too small for it: the same weights, which stay where they are,
        but for each layer's while it runs. One that was placed reads where it is.
        """
        if self.placed:
            return self
        visitor = frozen(self)
        cpu_offload(visitor.model, device)
        return visitor

    @torch.no_grad()
    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Reading:
        """As a ``Reader``'s, without gradients. A teacher in 16 bits computes in these throughout, as it would alone;
        autocast, which would keep what its layers hand on in float32, is for weights in float32. What one that was
        placed gives is brought to the device of ``input_ids``.
        """
        low = self.model.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(input_ids.device.type, enabled=False) if low else nullcontext():
            if self.sharded:
                return run_sharded(self.model, super().forward, input_ids, *args, **kwargs)
            reading = super().forward(input_ids, *args, **kwargs)
            return send_to_device(reading, input_ids.device) if self.placed else reading

    @torch.no_grad()
    def copy_of_head(self) -> Head:
        """An independent head, whole in each process."""
        if not self.sharded:
            return remove_hook_from_module(copy.deepcopy(self.head), recurse=True)
        empty, weights = Head(outline(self.model)), self.head.state_dict()
        places = empty.state_dict(keep_vars=True)
        return copy.deepcopy(
            empty, {id(place): nn.Parameter(whole(weights[name]).cpu()) for name, place in places.items()}
        )


def load_teacher(
    name: str,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    sharded: bool = False,
    objective: Objective = MASKED,
) -> Teacher:
    """Load a language model by Hub name or path, refusing one whose head was never trained.

    Args:
        objective: whether it is a masked or a causal one.
        sharded: spread it over the processes of the run, all of which call this together.

    Raises:
        UserError: if there is no such model, it can't be reached, its head is missing, or its family doesn't work.
    """
    if sharded:
        model, missing = load_sharded(objective.model_class, name, dtype, trust_remote_code)
    else:
        model, missing = load_model(objective.model_class, name, "teacher", dtype, trust_remote_code)
    if missing:
        raise UserError(
            f"the teacher {name} has no trained {objective.head} ({len(missing)} weights are missing, such as "
            f"{missing[0]}); train one with: tutorkd adapt --model {name} --corpus YOUR_TEXT --output_dir teacher"
        )
    return Teacher(model)
