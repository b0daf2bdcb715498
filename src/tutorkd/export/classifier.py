"""An exported classifier behind the calls of a transformers model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from tutorkd.export.check import onnx_answer


class OnnxClassifier(nn.Module):
    """ONNX Runtime on the processor, which is asked as the checkpoint would be.

    Args:
        path: of the file.
        names: of its inputs.
        config: of the checkpoint.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, names: Sequence[str], config: PretrainedConfig):
        super().__init__()
        self.config = config
        self._names, self._answer = names, onnx_answer(path, "logits")

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits (n, classes) of n padded rows."""
        given = {name: inputs[name].numpy() for name in self._names}
        return SequenceClassifierOutput(logits=torch.from_numpy(self._answer(given)))
