"""Queries, keys and values of any model, taken where transformers hands them to the attention function.

Every model that goes through transformers' attention interface calls one function with its queries, keys and values.
Registering one of our own that notes them and then runs the fused kernel serves all families at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from tutorkd.errors import UserError
from tutorkd.hub import quiet_transformers
from tutorkd.words import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "sdpa_captured"
WORKING_FAMILIES = (
    "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, ALBERT, ModernBERT, EuroBERT; of causal models Llama, "
    "Qwen, Mistral, GPT-2"
)


class AttentionInputs(NamedTuple):
    """What one attention layer was given; rotary embeddings already applied."""

    query: Tensor  # (B, H, L, head dimension), as are key and value
    key: Tensor
    value: Tensor  # None where it wasn't asked for
    # Of a causal layer or one with a sliding window, True where the query (L) attends the key (L): broadcasts to
    # (B, 1, L, L), bool. None of a layer whose queries attend all real keys.
    window: Tensor | None = None


class Recording:
    """What the attention layers of a prepared model are given in one pass, to which it is handed as ``recording``.

    It travels in the keyword arguments that transformers' models hand down to their attention function, so a pass that
    is compiled into one graph can be recorded too.

    Args:
        layers: keep these alone, counted from 1; by default all.
        values: keep values too, not queries and keys alone.
    """

    def __init__(self, layers: Collection[int] | None = None, values: bool = True):
        self.layers, self.values = layers, values
        self.seen = 0
        self.kept: list[AttentionInputs] = []  # first layer first

    def wants_next(self) -> bool:
        """Counts a layer; returns whether it is one to be kept."""
        self.seen += 1
        return self.layers is None or self.seen in self.layers

    def close(self) -> None:
        """The pass is over: layers that are run again, for their gradients, aren't kept again."""
        self.layers = ()


def _captured_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args,
    recording: Recording | None = None,
    **kwargs,
):
    if recording is not None and recording.wants_next():
        groups = query.shape[1] // key.shape[1]
        window = None
        causal = getattr(module, "is_causal", False)
        if causal or kwargs.get("sliding_window") is not None:
            # There is no mask where the window holds the whole row, or all before.
            length = query.shape[2] if causal else 1
            everything = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
            window = everything if attention_mask is None else attention_mask
        kept_value = repeat_kv(value, groups) if recording.values else cast(Tensor, None)
        recording.kept.append(AttentionInputs(query, repeat_kv(key, groups), kept_value, window))
    return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)


@cache
def _register() -> None:
    """Make the capturing function known to transformers, once there is a model: this loads all that models are made of,
    which whoever asks for help alone shouldn't wait for.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(**kwargs) -> Tensor | None:
        """As transformers', but for two things. There is none where all is attended, or all before: transformers makes
        one while it is compiled, with which attention wouldn't be fused. And whether a mask of whole rows on a GPU
        hides anything isn't looked up, for which the GPU would be waited for: where there is one, there is padding.
        """
        real, whole = kwargs["attention_mask"], kwargs["q_length"] == kwargs["kv_length"]
        if real is not None and not any(real.stride()):  # of `no_padding`
            real = kwargs["attention_mask"] = None
        skippable = kwargs.get("allow_is_bidirectional_skip") or (kwargs.get("allow_is_causal_skip") and whole)
        if skippable and real is None and kwargs.get("local_size") is None:
            return None
        if whole and real is not None and real.device.type != "cpu":
            kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(**kwargs)

    AttentionInterface.register(IMPLEMENTATION, _captured_sdpa)
    AttentionMaskInterface.register(IMPLEMENTATION, mask)


def take_attention(model: PreTrainedModel) -> None:
    """Route the attention of ``model`` through the capturing function; fused attention stays on.

    Raises:
        ValueError: if the family doesn't go through transformers' attention interface.
    """
    _register()
    with quiet_transformers():
        model.set_attn_implementation(IMPLEMENTATION)


def no_padding(model: PreTrainedModel, input_ids: Tensor) -> Tensor | None:
    """The attention mask of rows (B, L) without padding; None if ``take_attention`` hasn't prepared the model.

    A causal model that is given none looks at its positions for rows that several texts share, for which a GPU would be
    waited for, and while it is compiled makes a mask for them. This one is a single number in the place of B * L, by
    whose strides it is known without being read.
    """
    if model.config._attn_implementation != IMPLEMENTATION:
        return None
    return torch.ones((), dtype=torch.bool, device=input_ids.device).expand(input_ids.shape)


def shared_window(first: AttentionInputs, second: AttentionInputs) -> Tensor | None:
    """The pairs that both layers attend, as ``AttentionInputs.window``; None if neither has a window."""
    windows = [inputs.window for inputs in (first, second) if inputs.window is not None]
    return torch.stack(torch.broadcast_tensors(*windows)).all(0) if windows else None


def prepare_layers(
    model: PreTrainedModel, role: str, read: Callable[..., Any] | None = None, attention: bool = True
) -> None:
    """Prepare ``model`` for being asked about its layers: for their hidden states and, with ``attention``, by routing
    theirs through the capturing function and seeing that every layer's comes there.

    Args:
        model: an encoder, base model or with a head.
        role: "teacher" or "student", for the message.
        read: runs the model on one row; by default the model itself.

    Raises:
        UserError: if the family doesn't go through transformers' attention interface, or needs more than tokens.
    """
    layers = model.config.num_hidden_layers
    problem = UserError(
        f"the {role} is a {type(model).__name__}, whose attention doesn't go through transformers' attention "
        "interface and so can't be compared: choose a method that doesn't read it (kd, distilbert, mlm, embedding), or "
        "leave it out (--attention_score_weight 0, --relation_weight 0); families with which all methods work: "
        f"{WORKING_FAMILIES}"
    )
    try:
        if attention:
            take_attention(model)
    except ValueError as error:
        raise problem from error
    training = model.training
    model.eval()
    recording = Recording()
    with torch.no_grad():
        token = model.config.pad_token_id
        ids = torch.full((1, 2), 1 if token == 0 else 0, device=model.device)
        # transformers puts its hooks for hidden states into a model when these are first asked for, which can't be done
        # while it is compiled.
        try:
            recorded = {"recording": recording} if attention else {}
            (read or model)(input_ids=ids, output_hidden_states=True, **recorded)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"the {role} is a {type(model).__name__}, which can't read tokens without other inputs "
                f"({one_line(error)[:200]}); families that work: {WORKING_FAMILIES}"
            ) from error
    model.train(training)
    if attention and len(recording.kept) != layers:
        raise problem
