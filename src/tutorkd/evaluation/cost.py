"""What a classifier costs to run and to fine-tune."""

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import fmean
from typing import Any, TypeVar

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.labelled import text_columns
from tutorkd.runtime import Quartiles, timed

_SAMPLE = 200  # rows whose length is looked at
_WARM_UP = 10
_TURN = 8  # items, long enough that a model finds its weights in the cache again
Item = TypeVar("Item")


def milliseconds_per_sentence(
    models: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    sentences: Sequence[str | tuple[Any, ...]],
    max_length: int = 128,
) -> list[Quartiles]:
    """Milliseconds in which each model answers for one sentence at a time, as an on-line service would.

    Counted from the string to the logits in main memory, tokenising included; no padding; a model is put in evaluation
    mode and runs where it is and in the precision that it has.

    Args:
        models: with their tokenizers.
        sentences: texts, or tuples of a text and its pair, or of a list of words.
        max_length: longest row in tokens.
    """
    return milliseconds_in_turns([_answering(*each, max_length) for each in models], sentences)


def _answering(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[str | tuple[Any, ...]], torch.Tensor]:
    model.eval()

    @torch.inference_mode()
    def answer(sentence: str | tuple[Any, ...]) -> torch.Tensor:
        texts = sentence if isinstance(sentence, tuple) else (sentence,)
        words = isinstance(texts[0], list)
        inputs = tokenizer(
            *texts, is_split_into_words=words, truncation=True, max_length=max_length, return_tensors="pt"
        )
        return model(**inputs.to(model.device)).logits.cpu()

    return answer


def milliseconds_in_turns(
    answers: Sequence[Callable[[Item], object]], items: Sequence[Item], warm_up: int = _WARM_UP
) -> list[Quartiles]:
    """Milliseconds in which each function answers for one item at a time, behind ``warm_up`` answers that don't count.

    They take turns of some items each, so that whatever else the machine does meanwhile slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in answers]
    for answer in answers:
        for item in islice(cycle(items), warm_up):
            answer(item)
    for start in range(0, len(items), _TURN):
        for answer, of_answer in zip(answers, times, strict=True):
            for item in items[start : start + _TURN]:
                began = time.perf_counter()
                answer(item)
                of_answer.append(time.perf_counter() - began)
    return [Quartiles(*(1000 * each for each in Quartiles.of(of_answer))) for of_answer in times]


def mean_length(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Tokens of a row, cut at ``max_length``, in the mean of some; columns as `load_task` gives them."""
    # Shuffled, since rows may lie in the order of their sources, with lengths of their own.
    texts = text_columns(rows.shuffle(seed=0).select(range(min(len(rows), _SAMPLE))))
    words = isinstance(texts[0][0], list)
    tokens = tokenizer(*texts, is_split_into_words=words, truncation=True, max_length=max_length)
    return round(fmean(map(len, tokens["input_ids"])))


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


def answering_seconds(model: PreTrainedModel, rows: int, length: int, batch: int) -> float:
    """Seconds in which an encoder would read rows of ``length`` tokens, ``batch`` at a time, from timing some."""
    ids = torch.full((batch, length), 1, device=model.device)

    @torch.inference_mode()
    def read() -> None:
        model(input_ids=ids)

    return timed(read, model.device).median * rows / batch
