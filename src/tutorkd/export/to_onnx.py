"""ONNX files of a model: float32 by torch's exporter, int8 by ONNX Runtime's dynamic quantisation."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _FirstOutputs(nn.Module):
    """A model as a function of tensors in order, which returns its first ``count`` outputs alone."""

    def __init__(self, model: nn.Module, names: Sequence[str], count: int):
        super().__init__()
        self.model, self.names, self.count = model, names, count

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(**dict(zip(self.names, inputs, strict=True)))[: self.count])


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the tokenizer gives and the model takes, such as ``input_ids`` and ``attention_mask``."""
    taken = inspect.signature(model.forward).parameters
    return [name for name in tokenizer.model_input_names if name in taken]


def write_float32(model: nn.Module, names: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Write a model as ONNX, for any number of rows and tokens.

    Args:
        names: of its inputs, each (rows, tokens) of int64.
        outputs: names of its first outputs.
    """
    model.eval()
    example = torch.ones(2, 8, dtype=torch.int64)  # of any values: the graph doesn't depend on them
    axes = {0: "rows", 1: "tokens"}
    with _quiet():
        program = torch.onnx.export(
            _FirstOutputs(model, names, len(outputs)),
            tuple(example.clone() for _ in names),
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes=(tuple(axes for _ in names),),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path)


def write_int8(float32: Path, path: Path) -> None:
    """Write the same graph with weights in 8 bits, a scale an output channel, and activations rounded as they come."""
    model = onnx.load(float32)
    # A weight has its own shape. The exporter notes it a second time, and some versions of ONNX Runtime, which turn the
    # weights of a Gemm round, leave that note as it was and then find that the two differ.
    weights = {weight.name for weight in model.graph.initializer}
    noted = [value for value in model.graph.value_info if value.name not in weights]
    model.graph.ClearField("value_info")
    model.graph.value_info.extend(noted)
    with _quiet():
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the notices of the two libraries about each other and about their own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
