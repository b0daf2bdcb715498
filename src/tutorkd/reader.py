"""A language model as a reader: hidden states, attention inputs and logits from one call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from tutorkd.capture import AttentionInputs, Recording, no_padding, take_attention
from tutorkd.objective import CAUSAL, objective_of
from tutorkd.sharding import is_sharded, outline
from tutorkd.step import at_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Handed(BaseModelOutputWithPastAndCrossAttentions):
    """What a body gives, and None for all else that some head hands on of it, such as where tokens were routed."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _PassThrough(nn.Module):
    """Stands where a language model has its body, and hands on the hidden states that it is given."""

    def forward(self, *args, inputs_embeds: Tensor, **kwargs) -> _Handed:
        return _Handed(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> _PassThrough:
        """Itself: some language models call the decoder inside their body (OPT)."""
        return self


class Head(nn.Module):
    """The head of any language model, on hidden states (k, d) -> logits (k, V).

    A language model whose body is taken out is its head, in every family; no architecture is spelled out.
    The parameters are shared with ``model``; ``copy.deepcopy`` gives an independent head.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        shell = outline(model) if is_sharded(model) else copy.copy(model)
        for name in ("forward", "_old_forward", "_hf_hook"):  # accelerate's, which would run the whole model
            vars(shell).pop(name, None)
        shell._parameters, shell._buffers = model._parameters, model._buffers
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


class Ask(NamedTuple):
    """What losses read of a model's layers beside its logits; nothing else is kept."""

    hidden: Sequence[int] = ()  # layers whose hidden states are read, in rising order; 0 is the embedding output
    attention: Sequence[int] = ()  # layers whose queries and keys are read, counted from 1, in rising order
    values: bool = False  # whether the values of these layers are read too
    logits: bool = True  # whether the head is run where positions are given


class Reading(NamedTuple):
    """What one pass gives; what wasn't asked for is empty or None."""

    hidden: tuple[Tensor, ...]  # (B, L, d) each, as ``Ask.hidden``
    attention: tuple[AttentionInputs, ...]  # as ``Ask.attention``
    features: Tensor  # (k, d), the last hidden states that logits are computed from, where positions were given
    logits: Tensor  # (k, V)
    last: Tensor  # (B, L, d), what the body gives, which is there anyway


class Reader(nn.Module):
    """A model of transformers behind one call, in which its body and its head run, as teacher and as student.

    Args:
        model: an encoder, or a language model with a head. Its modules and weights are the reader's own; if attention
            is to be read, ``prepare_layers`` has prepared it.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.config = model.config
        self.objective = objective_of(model)
        if has_head(model):
            self.head = Head(model)
        with suppress(ValueError):  # a family whose attention can't be read may still be trained without
            take_attention(self.body)

    @property
    def body(self) -> PreTrainedModel:
        """The model without its head."""
        return cast("PreTrainedModel", self.model.base_model)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        ask: Ask = Ask(),  # noqa: B008
        positions: Tensor | None = None,
    ) -> Reading:
        """Read rows once, fused attention on.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), or None where nothing is padded.
            ask: what is wanted of the layers.
            positions: (k,), indices into the flattened (B * L) of the tokens about which logits are wanted; by default
                the head, which a model must have that is asked for them, isn't run.
        """
        depth = self.config.num_hidden_layers
        inner = any(layer != depth for layer in ask.hidden)
        recording = Recording(ask.attention, ask.values)
        asked: dict[str, Any] = {"output_hidden_states": True} if inner else {}
        asked["use_cache"] = False
        if ask.attention:
            asked["recording"] = recording
        if attention_mask is None and self.objective is CAUSAL:
            attention_mask = no_padding(self.body, input_ids)
        output = self.body(input_ids=input_ids, attention_mask=attention_mask, **asked)
        recording.close()
        last = output.last_hidden_state.to(input_ids.device)  # from a model that is spread over devices
        hidden = tuple(output.hidden_states[layer] if inner else last for layer in ask.hidden)
        features = logits = cast(Tensor, None)  # whoever reads them has asked for them
        if positions is not None:
            features = at_positions(last, self.objective.logit_positions(positions))
            if ask.logits:
                logits = self.head(features)
        return Reading(hidden, tuple(recording.kept), features, logits, last)


def has_head(model: PreTrainedModel) -> bool:
    """Whether a model gives logits over its vocabulary, and isn't a body alone."""
    return model.base_model is not model and model.get_output_embeddings() is not None
