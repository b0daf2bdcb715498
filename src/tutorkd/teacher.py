"""The frozen teacher: its body on whole rows, its MLM head on the masked positions alone."""

import copy
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tutorkd.capture import AttentionInputs, prepare_for_capture, record_attention
from tutorkd.errors import UserError
from tutorkd.hub import load_model


class _PassThrough(nn.Module):
    """Stands where a masked language model has its body, and hands on the hidden states that it is given."""

    def forward(self, *args, inputs_embeds: Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class MLMHead(nn.Module):
    """The MLM head of any masked language model, on hidden states (k, d) -> logits (k, V).

    A masked language model whose body is taken out is its head, in every family; no architecture is spelled out.
    The parameters are shared with ``model``; ``copy.deepcopy`` gives an independent head.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        shell = copy.copy(model)
        shell._modules = dict(model._modules)
        setattr(shell, model.base_model_prefix, _PassThrough())
        self.model = shell

    def forward(self, hidden: Tensor) -> Tensor:
        return self.model(inputs_embeds=hidden.unsqueeze(0)).logits.squeeze(0)

    def reset_parameters(self) -> None:
        """Start over at random, as the family's own initialisation does."""
        for module in self.model.modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]
            self.model._init_weights(module)


class EncoderStates(NamedTuple):
    """What one pass of an encoder gives to the internal-representation losses."""

    hidden: tuple[Tensor, ...]  # (B, L, d) each: the embedding output, then every layer's
    attention: list[AttentionInputs]  # one a layer


def encoder_states(encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> EncoderStates:
    """One pass of an encoder prepared by ``prepare_for_capture`` over (B, L), fused attention on."""
    with record_attention() as attention:
        output = encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    return EncoderStates(output.hidden_states, attention)


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


class Teacher(nn.Module):
    """A frozen masked language model, split into body and head.

    Args:
        model: any masked language model with a trained head. It stays as it is: its weights are read, and shared where
            ``dtype`` allows, but whether they are trained, its mode, configuration and number format are its own.
        dtype: number format of the weights; the model's by default.

    Raises:
        UserError: if its attention can't be captured.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None):
        super().__init__()
        model = frozen(model, dtype)
        self.config = model.config
        self.body = cast(PreTrainedModel, model.base_model)
        self.head = MLMHead(model)
        prepare_for_capture(self.body, "teacher")

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode: the teacher has no dropout."""
        return super().train(False)

    @torch.no_grad()
    def last_hidden_state(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, L) -> (B, L, d), and nothing else kept."""
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    @torch.no_grad()
    def states(self, input_ids: Tensor, attention_mask: Tensor | None) -> EncoderStates:
        """Hidden states and attention inputs of every layer."""
        return encoder_states(self.body, input_ids, attention_mask)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """MLM logits at chosen positions: (k, d) -> (k, V)."""
        return self.head(hidden)


def load_teacher(name: str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> Teacher:
    """Load a masked language model by Hub name or path, refusing one whose MLM head was never trained.

    Raises:
        UserError: if there is no such model, it can't be reached, its head is missing, or its family doesn't work.
    """
    model, missing = load_model(AutoModelForMaskedLM, name, "teacher", dtype, trust_remote_code)
    if missing:
        raise UserError(
            f"the teacher {name} has no trained MLM head ({len(missing)} weights are missing, such as {missing[0]}); "
            f"train one with: tutorkd adapt --model {name} --corpus YOUR_TEXT --output_dir teacher"
        )
    return Teacher(model)
