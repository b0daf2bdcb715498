"""What the neurons that a narrower student leaves out added is taken over by those that it keeps, by least squares.

The last layer of a feed-forward network makes ``W x + b`` of its neurons x. Of the neurons K that are kept ::

    V, c = argmin  mean over tokens ‖V x_K + c - (W x + b)‖² + λ ‖V - W_K‖²

Source: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017 (arXiv 1707.06168),
section 3.1: outputs are reconstructed from the channels that stay. That the solution is held near W_K, so that a short
text can't spoil it, is our addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tutorkd.importance import LEAST, Importance, most_important, of_real, real_tokens
from tutorkd.sharding import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DECAY = 1e-2  # λ, in means of the squares of the neurons that stay


@contextmanager
def refitting(
    body: PreTrainedModel, importance: Importance, neurons: int, reader: PreTrainedModel | None = None
) -> Iterator[Refit]:
    """Within, what a model reads says how its feed-forward networks do best with fewer neurons.

    Args:
        importance: of the model's dimensions.
        neurons: that are kept of each layer, the most important; 0 if no layer is to be fitted.
        reader: as of ``watching``.
    """
    refit, reader = Refit(body, importance, neurons), reader or body
    hooks: list[Any] = [reader.register_forward_pre_hook(refit.begin, with_kwargs=True)]
    hooks += [reader.get_submodule(name).register_forward_hook(refit.hook(name)) for name in refit.kept]
    try:
        yield refit
    finally:
        for each in hooks:
            each.remove()


class _Sums:
    """Over tokens, of the k kept neurons x and of what the others add to the n outputs, r."""

    def __init__(self, x: Tensor, r: Tensor):
        self.tokens, self.x, self.r, self.xx, self.xr = len(x), x.sum(0), r.sum(0), x.mT @ x, x.mT @ r

    def add(self, other: _Sums) -> None:
        """In place."""
        for name in ("tokens", "x", "r", "xx", "xr"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Refit:
    """What the last layers of a model's feed-forward networks are given, and give, while it reads."""

    def __init__(self, body: PreTrainedModel, importance: Importance, neurons: int):
        self.body = body
        self.mask = torch.empty(0)  # (B, L), of the batch that is read
        self.kept = {
            name: torch.tensor(most_important(importance.neurons[layer], neurons))
            for layer, name in importance.readers.items()
            if 0 < neurons < len(importance.neurons[layer])
        }
        self._sums: dict[str, _Sums] = {}

    def begin(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """What is called before each pass of the model."""
        self.mask = real_tokens(inputs, named)

    def hook(self, name: str) -> Callable[..., None]:
        """What is called after each pass of one of these layers."""

        def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            device, kept = output.device, self.kept[name]
            x, y = of_real(inputs[0], self.mask), of_real(output, self.mask)
            weight, bias = _weights(self.body.get_submodule(name))
            x = x[:, kept.to(device)]
            rest = y - x @ weight[:, kept.to(weight.device)].mT.to(device)
            sums = _Sums(x, rest if bias is None else rest - bias.to(device))
            if name in self._sums:
                self._sums[name].add(sums)
            else:
                self._sums[name] = sums

        return seen

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """By their names: the weights that the model would have if the other neurons were silent, on the processor."""
        found: dict[str, Tensor] = {}
        for name, sums in self._sums.items():
            module, kept = self.body.get_submodule(name), self.kept[name]
            weight, bias = (None if each is None else each.cpu().double() for each in _weights(module))
            assert weight is not None
            x, r = ((each / sums.tokens).cpu().double() for each in (sums.x, sums.r))
            xx, xr = ((each / sums.tokens).cpu().double() for each in (sums.xx, sums.xr))
            decay = (_DECAY * xx.diagonal().mean()).clamp_min(LEAST) * torch.eye(len(xx)).to(xx)
            if bias is not None:
                xx, xr = xx - x.outer(x), xr - x.outer(r)
            more = torch.linalg.solve(xx + decay, xr).mT
            weight[:, kept] += more
            if bias is not None:
                found[f"{name}.bias"] = (bias + r - more @ x).float()
            found[f"{name}.weight"] = (weight.mT if isinstance(module, Conv1D) else weight).float()
        return found


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W (out, in) and b (out,)."""
    weight = whole(cast(Tensor, module.weight)).float()
    bias = getattr(module, "bias", None)
    return weight.mT if isinstance(module, Conv1D) else weight, None if bias is None else whole(bias).float()
