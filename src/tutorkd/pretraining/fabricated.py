"""A trainer without its text, to be measured."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import MappingProxyType

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tutorkd.config import PretrainingConfig
from tutorkd.pretraining.training import Trainer, ready_trainer


@contextmanager
def on_fabricated_rows(
    make: Callable[..., Trainer],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainingConfig,
    beside: Mapping[str, list[int]] = MappingProxyType({}),
) -> Iterator[Trainer]:
    """A trainer on one row of special tokens; ``tutorkd.cost`` makes the rows that it measures itself.

    Nothing is written into the run's folder, and no repository is made on the Hub, which Trainer would do at once.

    Args:
        make: takes ``args``, ``train_dataset`` and ``eval_dataset``.
        beside: what the row has beside its ids.

    Raises:
        UserError: for settings that can't be trained with.
    """
    row = {"input_ids": tokenizer.all_special_ids[:1] * 2, **beside}
    config = copy.copy(config)
    with TemporaryDirectory() as scratch:
        config.output_dir, config.push_to_hub = scratch, False
        yield ready_trainer(make, config, [row], Dataset.from_list([row]))
