"""What a causal language model writes, how fast, and in how much memory."""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.continuation import DRAWN, continued, ends_of, up_to_end
from tutorkd.evaluation.cost import milliseconds_in_turns
from tutorkd.evaluation.heldout import NOT_SCORED, Row
from tutorkd.runtime import Quartiles

AT_ONCE = 16
_WARM_UP = 1
_SECONDS_BETWEEN_LOOKS = 0.002


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    new_tokens: int,
    seed: int,
    tell: Callable[[int], object] = lambda prompts: None,
) -> list[Row]:
    """What a model writes behind prompts, drawn from its own distribution at temperature 1.

    Args:
        new_tokens: longest continuation; one that ends by itself is shorter, and its end counts as a token of it.
        seed: of the draws; the process's own random numbers stay as they are.
        tell: called with the number of prompts that were continued since.

    Returns:
        A row for each prompt, in which the continuation is scored and the prompt isn't.
    """
    ends = _ends(model, tokenizer)
    settings = {**DRAWN, "max_new_tokens": new_tokens, "eos_token_id": ends or None}
    rows = []
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for first in range(0, len(prompts), AT_ONCE):
            batch = prompts[first : first + AT_ONCE]
            for prompt, written in zip(batch, _generate(model, batch, settings), strict=True):
                written = up_to_end(written, ends)
                rows.append(Row([*prompt, *written[:-1]], [NOT_SCORED] * (len(prompt) - 1) + written))
            tell(len(batch))
    return rows


def generation_speed(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    new_tokens: int,
    tell: Callable[[int], object] = lambda prompts: None,
) -> Quartiles:
    """Tokens a second that a model writes for one prompt at a time, with its cache, each time the likeliest token.

    Reading the prompt counts in the time. A prompt to warm up doesn't.
    """

    def answer(prompt: list[int]) -> None:
        _generate(model, [prompt], _greedy(new_tokens))
        tell(1)

    (took,) = milliseconds_in_turns([answer], prompts, _WARM_UP)
    return took.rate(1000 * new_tokens)


def generation_bytes(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> int:
    """Weights, and what writing behind one prompt takes at its peak beside them.

    On a GPU the latter is what torch allocates; elsewhere it is by how much the process's resident memory grows, looked
    at every 2 ms, with what was freed before given back to the system first where the C library can.
    """
    _generate(model, [prompt], _greedy(1))  # which reads weights from the disk that are only mapped so far
    weights = sum({each.data_ptr(): each.nbytes for each in (*model.parameters(), *model.buffers())}.values())
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        _generate(model, [prompt], _greedy(new_tokens))
        return weights + torch.cuda.max_memory_allocated(model.device) - before
    with suppress(OSError, AttributeError):  # another system or C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with _resident_memory() as looks:
        _generate(model, [prompt], _greedy(new_tokens))
    return weights + max(looks) - looks[0]


@contextmanager
def _resident_memory() -> Iterator[list[int]]:
    """The process's resident memory at the beginning, during the block and at its end, in bytes."""
    process, done = psutil.Process(), threading.Event()
    looks = [process.memory_info().rss]

    def look() -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            looks.append(process.memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        done.set()
        thread.join()
        looks.append(process.memory_info().rss)


def _greedy(new_tokens: int) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": new_tokens, "eos_token_id": None}


@torch.inference_mode()
def _generate(model: PreTrainedModel, prompts: Sequence[list[int]], settings: dict[str, Any]) -> list[list[int]]:
    """What the model writes behind each prompt."""
    return continued(model, prompts, settings).tolist()


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text, by the tokenizer and by the checkpoint's settings for generation."""
    ends = [tokenizer.eos_token_id, *ends_of(model.generation_config)]
    return sorted({end for end in ends if end is not None})
