"""What a classifier costs to run and to fine-tune."""

import time
from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.runtime import timed

_WARM_UP = 10
Item = TypeVar("Item")


class Milliseconds(NamedTuple):
    """Time a sentence, over sentences: half of them lie between the quartiles, which a busy machine moves apart."""

    median: float
    first_quartile: float
    third_quartile: float


@torch.inference_mode()
def milliseconds_per_sentence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str | tuple[Any, ...]],
    max_length: int = 128,
) -> Milliseconds:
    """Time to answer for one sentence at a time, as an on-line service would.

    Counted from the string to the logits in main memory, tokenising included; no padding; the model is put in
    evaluation mode and runs where it is and in the precision that it has.

    Args:
        sentences: texts, or tuples of a text and its pair, or of a list of words; the same for all models to be
            compared.
        max_length: longest row in tokens.
    """
    model.eval()

    def answer(sentence: str | tuple[Any, ...]) -> torch.Tensor:
        texts = sentence if isinstance(sentence, tuple) else (sentence,)
        words = isinstance(texts[0], list)
        inputs = tokenizer(
            *texts, is_split_into_words=words, truncation=True, max_length=max_length, return_tensors="pt"
        )
        return model(**inputs.to(model.device)).logits.cpu()

    return milliseconds_a_call(answer, sentences)


def milliseconds_a_call(
    answer: Callable[[Item], object], items: Sequence[Item], warm_up: int = _WARM_UP
) -> Milliseconds:
    """Time to answer for one item at a time, behind ``warm_up`` answers that don't count."""
    times = []
    for item in chain(islice(cycle(items), warm_up), items):
        start = time.perf_counter()
        answer(item)
        times.append(time.perf_counter() - start)
    median, first, third = 1000 * np.quantile(times[warm_up:], [0.5, 0.25, 0.75])
    return Milliseconds(float(median), float(first), float(third))


def fine_tuning_seconds(model: PreTrainedModel, rows: int, length: int, args: FineTuneArguments) -> float:
    """Seconds that fine-tuning an encoder would take, from timing some steps, forward and backward.

    Args:
        rows: of the training data; ``args.max_train_samples`` of them are used.
        length: of a row, in tokens.
    """
    rows = min(rows, args.max_train_samples or rows)
    ids = torch.full((args.per_device_train_batch_size, length), 1, device=model.device)

    def step() -> None:
        model(input_ids=ids).last_hidden_state.sum().backward()

    with torch.autocast(model.device.type, torch.bfloat16, enabled=args.uses_bfloat16()):
        seconds = timed(step, model.device).median
    return seconds * args.num_train_epochs * rows / len(ids)
