"""A frozen model with the weights of its layers in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.utils import is_torchao_available

from tutorkd.errors import UserError
from tutorkd.sharding import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_quantizer() -> None:
    """See that what quantises is installed.

    Raises:
        UserError: if it isn't.
    """
    if not is_torchao_available():
        raise UserError("teacher_dtype int8 needs torchao: pip install 'tutorkd[int8]'")


def quantise(model: PreTrainedModel) -> None:
    """Round the matrices of a model's layers to 8 bits, in place: whole numbers, and a float32 scale for each row.

    What is computed with them stays in the number format of the rest. Embeddings, head, norms and biases stay as they
    are, and with them what is tied to one another.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # an extra

    quantize_(layer_stack(model.base_model), Int8WeightOnlyConfig(set_inductor_config=False))
    for weight in model.parameters():
        if len(stored(weight)) == 1:  # else it would keep the whole file that it is mapped from in memory
            weight.data = weight.data.clone()


def quantised_bytes(model: PreTrainedModel) -> int:
    """Size of a model's weights were they quantised: of each matrix that is a byte a number, and for each row a scale
    in float32 and its zero in a byte.
    """
    matrices = [part.weight for part in layer_stack(model.base_model).modules() if isinstance(part, nn.Linear)]
    rounded = {id(matrix): matrix.numel() + 5 * len(matrix) for matrix in matrices}
    return sum(rounded.get(id(weight), weight.numel() * weight.element_size()) for weight in model.parameters())


def stored(weight: Tensor) -> list[Tensor]:
    """The plain tensors in which this process holds a weight: a slice of a sharded one, numbers and scales of one in 8
    bits, else the weight itself.
    """
    from torch.distributed.tensor import DTensor  # which takes a second

    if isinstance(weight, DTensor):
        return [weight.to_local()]
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [getattr(weight, name) for name in names]
