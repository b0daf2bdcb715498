"""A trainer without its text, to be measured."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tutorkd.config import PretrainingConfig
from tutorkd.pretraining.training import Trainer, ready_trainer


@contextmanager
def on_fabricated_rows(
    make: Callable[..., Trainer], tokenizer: PreTrainedTokenizerBase, config: PretrainingConfig
) -> Iterator[Trainer]:
    """A trainer on one row of special tokens; ``tutorkd.cost`` makes the rows that it measures itself.

    Nothing is written into the run's folder, and no repository is made on the Hub, which Trainer would do at once.

    Args:
        make: takes ``args``, ``train_dataset`` and ``eval_dataset``.

    Raises:
        UserError: for settings that can't be trained with.
    """
    row = {"input_ids": tokenizer.all_special_ids[:1] * 2}
    config = copy.copy(config)
    with TemporaryDirectory() as scratch:
        config.output_dir, config.push_to_hub = scratch, False
        yield ready_trainer(make, config, [row], Dataset.from_list([row]))
