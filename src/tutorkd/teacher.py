"""The frozen teacher."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import AutoModel

from tutorkd.capture import prepare_layers
from tutorkd.errors import UserError
from tutorkd.hub import load_config, load_model
from tutorkd.kinds import check_one_stack, kind_of_config, objective_of_config
from tutorkd.objective import CAUSAL, MASKED, Objective
from tutorkd.quantization import quantise
from tutorkd.reader import Ask, Head, Reader, Reading
from tutorkd.sharding import is_sharded, load_sharded, outline, run_sharded, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    """A frozen language model, masked or causal, or an encoder without a head for methods that use no logits.

    Args:
        model: any language model with a trained head, or any encoder. It isn't changed: the teacher reads its weights
            (and shares their memory if ``dtype`` allows it), but the model keeps its mode, its configuration, its
            number format and which of its weights are trained. A model of ``load_sharded`` becomes the teacher's own.
        dtype: number format of the weights; the model's by default.
        headless: whether the model's head was never trained and must not be used.
        mlm: a teacher with a head and the same vocabulary, which gives the logits instead of this one; hidden states
            and attention inputs still come from this one.

    Attributes:
        quantised: whether the matrices of its layers are in 8 bits.

    Raises:
        UserError: if a masked model needs more than tokens, or ``mlm`` has no head or another vocabulary.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from tutorkd import Teacher
        >>> sizes = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
        >>> teacher = Teacher(BertForMaskedLM(BertConfig(num_hidden_layers=4, **sizes)))
        >>> rows = torch.tensor([[2, 7, 9, 3], [2, 8, 6, 3]])
        >>> reading = teacher(rows, positions=torch.tensor([1, 5]))  # the second token of each row
        >>> reading.last.shape, reading.logits.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 30]))
        >>> reading.logits.requires_grad
        False
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype | None = None,
        headless: bool = False,
        mlm: Teacher | None = None,
    ):
        super().__init__(model if is_sharded(model) else frozen(model, dtype))
        if headless:
            del self.head
        self.quantised = False
        self.mlm = mlm
        if mlm is not None:
            _check_mlm(mlm, self.config.vocab_size)
        if self.objective is MASKED:
            self.prepare_layers(attention=False)

    @property
    def name(self) -> str:
        """Where it was loaded from, for messages."""
        return self.config.name_or_path or f"a {type(self.model).__name__}"

    @property
    def parts(self) -> list[Teacher]:
        """Itself and, where that is another, the one that answers where logits are asked for."""
        return [self] if self.mlm is None else [self, self.mlm]

    @property
    def answers(self) -> bool:
        """Whether there is a head to be asked for logits."""
        return self.mlm is not None or hasattr(self, "head")

    def prepare_layers(self, attention: bool) -> None:
        """Prepare it for being asked about its layers (``tutorkd.capture.prepare_layers``).

        Raises:
            UserError: if its attention can't be read, or it needs more than tokens.
        """
        read = partial(run_sharded, self.model, self.body) if self.sharded else None
        prepare_layers(self.body, "teacher", read, attention)

    @property
    def sharded(self) -> bool:
        """Whether each process of the run holds a slice of every weight; then all of them call it together."""
        return is_sharded(self.model)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode: the teacher has no dropout."""
        return super().train(False)

    @property
    def placed(self) -> bool:
        """Whether whoever loaded its model put parts of it on several devices (``device_map``)."""
        return len(set(getattr(self.model, "hf_device_map", {}).values())) > 1

    def _apply(self, *args: Any, **kwargs: Any) -> Teacher:
        """As any module's, which moves it, but one that was placed stays where it is."""
        if not self.placed:
            return super()._apply(*args, **kwargs)
        if self.mlm is not None:
            self.mlm._apply(*args, **kwargs)
        return self

    def quantise(self) -> None:
        """Round the matrices of its layers to 8 bits; a model that it was made of stays as it is."""
        for part in self.parts:
            quantise(part.model)
            part.quantised = True

    def visiting(self, device: torch.device) -> Teacher:
        """A teacher that reads on a device which may be too small for it: the same weights, which stay where they are,
        but for each layer's while it runs. One that was placed reads where it is.
        """
        if all(part.placed for part in self.parts):
            return self
        visitor = frozen(self)
        for part in visitor.parts:
            if not part.placed:
                cpu_offload(part.model, device)
        return visitor

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        ask: Ask = Ask(),  # noqa: B008
        positions: Tensor | None = None,
    ) -> Reading:
        """As a ``Reader``'s, without gradients. A teacher in 16 bits computes in these throughout, as it would alone;
        autocast, which would keep what its layers hand on in float32, is for weights in float32. What one that was
        placed gives is brought to the device of ``input_ids``.

        Features and logits are those of ``mlm`` where there is one, which alone runs where nothing else is asked for.
        """
        if self.mlm is None or positions is None:
            return self._read(input_ids, attention_mask, ask, positions)
        said = self.mlm(input_ids, attention_mask, Ask(logits=ask.logits), positions)
        if not ask.hidden and not ask.attention:
            return said
        return self._read(input_ids, attention_mask, ask)._replace(features=said.features, logits=said.logits)

    def _read(self, input_ids: Tensor, *args: Any) -> Reading:
        low = self.model.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(input_ids.device.type, enabled=False) if low else nullcontext():
            if self.sharded:
                return run_sharded(self.model, super().forward, input_ids, *args)
            reading = super().forward(input_ids, *args)
            return send_to_device(reading, input_ids.device) if self.placed else reading

    @torch.no_grad()
    def copy_of_head(self) -> Head:
        """An independent head, whole in each process: of the one that answers where logits are asked for."""
        if self.mlm is not None:
            return self.mlm.copy_of_head()
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
    objective: Objective | None = None,
    mlm: Teacher | None = None,
) -> Teacher:
    """Load a language model by Hub name or path; if an encoder has no trained head, only its body teaches.

    Args:
        objective: whether it is a masked or a causal one; by default its checkpoint tells.
        sharded: spread it over the processes of the run, all of which call this together.
        mlm: answers in its place where logits are asked for (``Teacher``).

    Raises:
        UserError: if there is no such model, it can't be reached, the head of a causal one is missing, it is an
            encoder-decoder or several models in one, or its family doesn't work.

    Example:
        A masked language model of four layers lies in the folder "teacher".

        >>> from tutorkd import load_teacher
        >>> teacher = load_teacher("teacher")
        >>> teacher.config.num_hidden_layers, teacher.answers
        (4, True)
    """
    config = check_one_stack(load_config(name, "teacher", trust_remote_code), name, "teacher")
    objective = objective or objective_of_config(config)
    kind = objective.model_class
    if objective is MASKED and kind_of_config(config) is None:  # a family without an MLM head
        kind = AutoModel
    if sharded:
        model, missing = load_sharded(kind, name, dtype, trust_remote_code)
    else:
        model, missing = load_model(kind, name, "teacher", dtype, trust_remote_code)
    if missing and objective is CAUSAL:
        raise UserError(
            f"the teacher {name} has no trained {objective.head} ({len(missing)} weights are missing, such as "
            f"{missing[0]}); train one with: tutorkd adapt --model {name} --corpus YOUR_TEXT --output_dir teacher"
        )
    return Teacher(model, headless=bool(missing), mlm=mlm)


def _check_mlm(mlm: Teacher, vocabulary: int) -> None:
    if not mlm.answers:
        raise UserError(
            f"the MLM teacher {mlm.name} has no trained {MASKED.head}: name a model that has one, such as one that "
            "tutorkd adapt trained"
        )
    if mlm.config.vocab_size != vocabulary:
        raise UserError(
            f"teacher and MLM teacher must share a vocabulary: {vocabulary} tokens against {mlm.config.vocab_size}"
        )
