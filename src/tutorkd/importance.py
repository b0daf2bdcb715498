"""Which dimensions of a model matter on a text: what a narrower student keeps of its teacher.

The importance of input j of a linear layer with weights W (out, in) is ::

    r_j = ‖W_:j‖₂ · √E[x_j²]

the size of what it adds to the layer's outputs, the mean over the tokens of a text. It is Wanda's score of single
weights, |W_ij| ‖x_j‖₂, taken together for the column (Sun et al., "A Simple and Effective Pruning Approach for Large
Language Models", ICLR 2024, arXiv 2306.11695, equation 1). That a forward pass over a little text decides which
neurons, heads and hidden dimensions stay follows Muralidharan et al., "Compact Language Models via Pruning and
Knowledge Distillation", NeurIPS 2024 (arXiv 2407.14679), section 2.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tutorkd.sharding import whole
from tutorkd.sizes import Sizes, layer_of, stack_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutorkd.teacher import Teacher

TOKENS = 16_384  # that are read, about
LEAST = 1e-30  # divided by, in place of 0

Place = tuple[str, int]  # a weight's name, and one of its dimensions


class Importance(NamedTuple):
    """Of a model's dimensions, on the processor. A layer's name is empty where all layers share one."""

    hidden: Tensor  # (hidden,): the mean over the layers that read hidden states, each with a mean of 1
    heads: dict[str, Tensor]  # layer: (heads,)
    neurons: dict[str, Tensor]  # layer: (neurons of its feed-forward network,)
    # Where these dimensions stand in the layers' weights; all others as long as the hidden size are hidden dimensions.
    of_heads: frozenset[Place]
    of_neurons: frozenset[Place]
    readers: dict[str, str]  # layer: the module that reads its neurons


@torch.no_grad()
def read_some(
    teacher: Teacher, batches: Iterable[tuple[Tensor, Tensor | None]], tell: Callable[[int], object] = lambda _: None
) -> None:
    """Have a teacher read a text.

    Args:
        batches: token ids (B, L) and attention mask, on the device on which the teacher reads. Reading ends after about
            ``TOKENS`` tokens.
        tell: is told after each batch how many tokens were read of it.
    """
    left = TOKENS
    for ids, mask in batches:
        real = torch.ones_like(ids) if mask is None else mask
        read = real.sum(1).cumsum(0)
        rows = int((read < left).sum()) + 1  # however many a batch has, the same are read
        teacher(ids[:rows], None if mask is None else mask[:rows])
        tell(int(read[:rows][-1]))
        left -= int(read[-1])
        if left <= 0:
            break


@contextmanager
def watching(body: PreTrainedModel, reader: PreTrainedModel | None = None) -> Iterator[Watch]:
    """Within, what a model reads is watched, whoever has it read.

    Args:
        body: a model without its head, in evaluation mode.
        reader: that reads in its place, if its weights come to it only while they are used (``Teacher.visiting``).

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from tutorkd.importance import watching
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
        >>> body = BertModel(BertConfig(num_hidden_layers=2, **sizes)).eval()
        >>> with watching(body) as watch:
        ...     _ = body(torch.tensor([[101, 7592, 102]]))
        >>> found = watch.importance()
        >>> found.hidden.shape, found.neurons["encoder.layer.1"].shape
        (torch.Size([8]), torch.Size([16]))
    """
    watch, reader = Watch(body), reader or body
    hooks = [module.register_forward_hook(watch.hook(name, module)) for name, module in reader.named_modules()]
    hooks.append(reader.register_forward_pre_hook(watch.begin, with_kwargs=True))
    try:
        yield watch
    finally:
        for each in hooks:
            each.remove()


class Watch:
    """What the linear layers of a model are given while it reads.

    What is what shows as the model runs, in any family: a linear layer reads hidden states if they come out of a norm,
    out of what stands before the layers, or out of one that makes factorised embeddings wider, or if nothing was
    computed of hidden states that it could read in their place; another one reads what attention or the feed-forward
    network computed of what the layers before it wrote.
    """

    def __init__(self, body: PreTrainedModel):
        self.body, self.sizes, self.stack = body, Sizes.of(body.config), stack_of(body)
        self.mask = torch.empty(0)  # (B, L), of the batch that is read
        self.energy: dict[str, Tensor] = {}  # by module: the sum of the squares of its inputs, (in,)
        self.readers: dict[str, str] = {}  # by module: what its inputs are
        self.attention: dict[str, str] = {}  # by layer: the first module that reads something else than hidden states
        self.of_heads: set[Place] = set()
        self.of_neurons: set[Place] = set()
        self._written: list[tuple[str, list[Place]]] = []  # layer, and places, of hidden states that no layer read yet
        # Kept alive for a while, so that no other tensor can be where one of them was.
        self._hidden_states: deque[Tensor] = deque(maxlen=4)
        self._outputs: deque[Tensor] = deque(maxlen=4)

    def begin(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """What is called before each pass of the model: notes which tokens are real."""
        self.mask = real_tokens(inputs, named)

    def hook(self, name: str, module: nn.Module) -> Callable[..., None]:
        """What is called after each pass of a module."""
        weight = getattr(module, "weight", None)
        a_norm = isinstance(weight, Tensor) and weight.dim() == 1

        def seen(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
                return
            if isinstance(module, nn.Linear | Conv1D):
                self._linear(name, isinstance(module, Conv1D), inputs[0], output)
            elif a_norm and self._written and _among(inputs[0], self._outputs):  # of queries or keys
                self._written[-1][1].append((f"{name}.weight", 0))
            elif a_norm or layer_of(name, self.stack) is None:  # or of embeddings
                self._hidden_states.append(output)

        return seen

    def _linear(self, name: str, transposed: bool, x: Tensor, output: Tensor) -> None:
        if x.shape[:-1].numel() != self.mask.numel():
            return
        layer, written, read = layer_of(name, self.stack), int(transposed), int(not transposed)
        known = _among(x, self._hidden_states)
        if known or (layer is not None and not self._written and x.shape[-1] == self.sizes.hidden):
            if not known:  # sums, of which no module is seen (OLMo 2), or out of a norm without weights (OLMo)
                self._hidden_states.append(x)
            if x.shape[-1] != self.sizes.hidden:  # factorised embeddings, made as wide as hidden states
                self._hidden_states.append(output)
                return
            self.readers[name] = "hidden"
            if layer is not None:
                self._outputs.append(output)
                self._written.append((layer, [(f"{name}.weight", written), (f"{name}.bias", 0)]))
        elif layer is None:
            return
        else:
            first = self.attention.setdefault(layer, name) == name  # of a layer, attention is computed first
            heads = first and x.shape[-1] == self.sizes.of_queries
            self.readers[name] = "heads" if heads else "neurons"
            places = self.of_heads if heads else self.of_neurons
            places.add((f"{name}.weight", read))
            places.update(place for of, found in self._written if of == layer for place in found)
            self._written.clear()
        energy = of_real(x, self.mask).square().sum(0)
        self.energy[name] = self.energy[name] + energy if name in self.energy else energy

    @torch.no_grad()
    def importance(self) -> Importance | None:
        """Of all that was read.

        Returns:
            None if it can't be told what the dimensions are: without linear layers behind norms, with two feed-forward
            networks in a layer, or with matrices of relative positions.
        """
        hidden: list[Tensor] = []
        heads: dict[str, Tensor] = {}
        neurons: dict[str, Tensor] = {}
        readers: dict[str, str] = {}
        for name, kind in self.readers.items():
            importance = self._of_inputs(name)
            if kind == "hidden":
                hidden.append(importance / importance.mean().clamp_min(LEAST))
                continue
            layer = layer_of(name, self.stack)
            if layer is None or layer in (heads if kind == "heads" else neurons):
                return None
            if kind == "heads":
                heads[layer] = importance.square().view(self.sizes.heads, -1).sum(1)
            else:
                neurons[layer], readers[layer] = importance, name
        if not hidden or self._unread_squares():
            return None
        places = frozenset(self.of_heads), frozenset(self.of_neurons)
        return Importance(torch.stack(hidden).mean(0), heads, neurons, *places, readers)

    def _unread_squares(self) -> bool:
        """Whether layers have matrices of which nothing tells whose dimensions are theirs, such as those of relative
        positions in DeBERTa, which may be of heads.
        """
        square = (self.sizes.hidden, self.sizes.hidden)
        return any(
            isinstance(module, nn.Linear) and module.weight.shape == square and name not in self.readers
            for name, module in self.body.named_modules()
            if layer_of(name, self.stack)
        )

    def _of_inputs(self, name: str) -> Tensor:
        module = self.body.get_submodule(name)
        weight = whole(cast(Tensor, module.weight)).float()
        norms = weight.norm(dim=1 if isinstance(module, Conv1D) else 0)
        return norms.cpu() * self.energy[name].sqrt().cpu()


def real_tokens(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Which tokens aren't padding, (B, L), by what a model is called with."""
    named = {**dict(zip(("input_ids", "attention_mask"), inputs, strict=False)), **named}
    ids, mask = named["input_ids"], named.get("attention_mask")
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()


def of_real(x: Tensor, mask: Tensor) -> Tensor:
    """What a module is given or gives at tokens that aren't padding: (n, d), float32, where rows may be flattened.

    Args:
        x: (B, L, d) or (B * L, d).
        mask: (B, L), as of ``real_tokens``, on any device.
    """
    return x.flatten(0, -2)[mask.flatten().to(x.device)].float()


def most_important(importance: Tensor, wanted: int) -> list[int]:
    """The places of the largest, rising."""
    return importance.topk(wanted).indices.sort().values.tolist()


def _among(x: Tensor, others: Iterable[Tensor]) -> bool:
    return any(x.data_ptr() == other.data_ptr() for other in others)
