"""A model spread over the processes of a run: each holds a slice of every weight.

transformers reads the slices from the files, so no process ever holds the whole, and torch's FSDP gathers what runs.
FSDP takes a second to be loaded, which whoever asks for help alone shouldn't wait for: it is imported where it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutorkd.errors import UserError
from tutorkd.hub import files_of, load_config, load_model, loading
from tutorkd.runtime import return_freed_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_sharded(
    kind: Any, name: str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """A frozen model of ``kind``, an auto class, on this process's device, holding a slice of each weight.

    All processes of the run call this together. A layer is gathered while it runs; what stands outside of the layers,
    such as embeddings and head, during a whole pass (``run_sharded``).

    Returns:
        The model, and the names of the head's weights that the checkpoint lacks.

    Raises:
        UserError: as ``load_model``.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method
    from transformers.distributed import DistributedConfig

    config = cast(Any, load_config(name, "teacher", trust_remote_code))
    if files_of(name)[1]:
        raise UserError(
            f"the teacher {name} is a GGUF file, which can't be read in slices: leave shard_teacher out, or "
            "save it as safetensors first"
        )
    with loading(name, "teacher"), torch.device("meta"):  # without memory: it tells what the layers are called
        empty = kind.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    config.base_model_fsdp_plan = {f"{_longest_list(empty.base_model)}.*": "free_full_weight"}
    if not torch.accelerator.is_available():
        return_freed_memory()
    processes = DistributedConfig(fsdp_size=dist.get_world_size())
    model, missing = load_model(
        kind, name, "teacher", dtype, trust_remote_code, config=config, distributed_config=processes
    )
    model.requires_grad_(False)
    sharded = cast(Any, model)
    sharded.set_reshard_after_forward(True)  # else embeddings and head stay gathered, for a backward pass
    sharded.run = lambda function, *args, **kwargs: function(*args, **kwargs)
    register_fsdp_forward_method(model, "run")
    return model, missing


def _longest_list(model: nn.Module) -> str:
    """Name of the module list with the most items: its items are the layers."""
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    return max(lists, key=lists.__getitem__)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``load_sharded`` gave the model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def outline(model: PreTrainedModel) -> PreTrainedModel:
    """A model without memory for its weights, of the class that a sharded one had before."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


@torch.no_grad()
def run_sharded(model: nn.Module, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, which runs parts of a sharded model; all processes call it together."""
    result = cast(Any, model).run(function, *args, **kwargs)
    # torch takes note of each pass for the backward pass to come. None comes here, and the notes would only pile up.
    state = cast(Any, model)._get_fsdp_state()
    state._comm_ctx.post_forward_order.clear()
    for each in state._state_ctx.all_states:
        if each._fsdp_param_group is not None:
            each._fsdp_param_group._post_forward_indices.clear()
    return result


def whole(weight: Tensor) -> Tensor:
    """All of a weight: of a sharded one gathered, for which all processes call this together; of one in 8 bits the
    numbers that it stands for; else itself.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(weight, DTensor):
        return weight.full_tensor()
    return weight.dequantize() if hasattr(weight, "__tensor_flatten__") else weight


def layer_stack(body: nn.Module) -> nn.Module:
    """The list of an encoder's layers; of those that all share one, that one's."""
    return body.get_submodule(_longest_list(body))


def gathered_bytes(model: PreTrainedModel) -> int:
    """What a pass of a sharded model holds gathered at once: all outside of the layers and the largest layer, and again
    as much for the buffers that their slices arrive in.
    """
    body = model.base_model
    layers = [weight_bytes(layer) for layer in layer_stack(body).children()]
    return 2 * (weight_bytes(model) - sum(layers) + max(layers))


def weight_bytes(model: nn.Module) -> int:
    """Size of all of a model's weights, whoever holds them."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
