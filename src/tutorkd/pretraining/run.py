"""A run from its options to a saved model, or to the plan of one."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
from transformers import PreTrainedTokenizerBase

from tutorkd.arguments import check_arguments
from tutorkd.checkpoints import checkpoints
from tutorkd.config import PretrainingConfig
from tutorkd.data import PackedCorpus
from tutorkd.data.texts import Texts
from tutorkd.files import writing, written_whole
from tutorkd.hub import quiet_transformers
from tutorkd.locks import held
from tutorkd.objective import Objective
from tutorkd.pretraining.adapt_arguments import Adaptation
from tutorkd.pretraining.distill_arguments import INITIAL_STUDENT, Distillation
from tutorkd.pretraining.plan import plan
from tutorkd.pretraining.training import ready_trainer, saving, train
from tutorkd.run_folder import RunFolder
from tutorkd.trainer import PackedRowsTrainer


def whole_text(corpus: PackedCorpus) -> tuple[Any, Any]:
    """The rows to train on and those held out, and nothing beside them."""
    return corpus.train, corpus.heldout


class Prepared(NamedTuple):
    """What a run trains with, once all that can be refused before text is tokenized has been."""

    tokenizer: PreTrainedTokenizerBase
    make: Callable[..., PackedRowsTrainer]  # of args, train_dataset and eval_dataset
    lines: list[str]  # what is said of it
    objective: Objective
    initial_student: Callable[[Path], None] | None = None  # writes it, if it is to be saved as it starts
    texts: Texts | None = None  # where texts are rows
    few_steps: Callable[[int], str | None] = lambda steps: None  # what is to be said of so many
    # Of the corpus: its rows to train on and those held out, with what is known of them before training.
    rows: Callable[[PackedCorpus], tuple[Any, Any]] = whole_text
    beside: Mapping[str, list[int]] = MappingProxyType({})  # what a row of two tokens has beside these
    start: Mapping[str, str] = MappingProxyType({})  # what a card says of how it starts, and of its tokenizer
    # Of so many tokens, where a teacher is asked about all text before training: operations, and bytes on disk.
    asking: Callable[[float], tuple[float, float]] | None = None
    own_tokenizer: bool = False  # whether a causal student has another one than its teacher


def run_training(options: Adaptation | Distillation, prepare: Callable[[bool], Prepared]) -> Path:
    """Train, or go on with what an earlier run of the same options left; says how it goes.

    Args:
        prepare: takes whether the models' weights as they start won't be used, since a checkpoint has others or nothing
            is trained.

    Returns:
        The folder of the model.

    Raises:
        Interrupted: if Ctrl-C or SIGTERM stopped the run, which then has a checkpoint.
        UserError: what ``prepare`` raises, or if the folder is another run's, or text or settings can't be used.
    """
    args, text, config = options.args, options.text, options.config
    text.require()
    check_arguments(config)
    with held(Path(config.output_dir), not args.dry_run and config.process_index == 0):
        folder = RunFolder(config.output_dir, options.arguments, args.restart)
        if folder.accumulation != config.gradient_accumulation_steps:
            config.gradient_accumulation_steps = folder.accumulation
            print(f"the run began with another number of processes; a step has as many rows now, {_batches(config)}")
        drop = args.drop_checkpoints and config.should_save  # by one process alone
        if folder.unchanged and folder.finished and not args.dry_run:
            return _told_finished(folder, drop)
        prepared = prepare(args.dry_run or folder.checkpoint is not None)
        print("\n".join(prepared.lines))
        if args.dry_run:
            print(plan(options, prepared))
            return folder.path
        with _bars(not config.disable_tqdm):
            corpus = text.load(prepared.tokenizer, prepared.objective, prepared.texts)
        print("\n".join(text.described(corpus, prepared.texts)))
        folder.check_contents(corpus.digest)
        if folder.finished:
            if config.should_save:
                folder.claim()  # notes where the same text is now
            return _told_finished(folder, drop)
        workers = config.dataloader_num_workers
        with _bars(not config.disable_tqdm):
            rows, heldout = prepared.rows(corpus)
        ready = ready_trainer(prepared.make, config, rows, heldout)
        if config.dataloader_num_workers != workers:
            print(f"text     a stream is read by one data loader worker; the others of the {workers} aren't started")
        about = text.about(corpus)
        ready.about_text = about._replace(facts={**prepared.start, **about.facts})
        if config.should_save:  # one process alone
            folder.claim()
            if prepared.initial_student is not None and not folder.checkpoint:
                _save_initial(prepared.initial_student, prepared.tokenizer, folder)
        train(ready, folder, prepared.few_steps)
        if drop:
            _drop_checkpoints(folder)
    return folder.path


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Within, datasets shows progress bars only if they are wanted."""
    held_back = not shown and not datasets.are_progress_bars_disabled()
    if held_back:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if held_back:
            datasets.enable_progress_bars()


def _batches(config: PretrainingConfig) -> str:
    """How a step's rows are shared, in words."""
    number, rows = config.gradient_accumulation_steps, config.per_device_train_batch_size
    return f"{number} batch{'es' * (number > 1)} of {rows} a process"


def _told_finished(folder: RunFolder, drop_checkpoints: bool) -> Path:
    print(f"{folder.path} is finished; --restart runs it again")
    if drop_checkpoints:
        _drop_checkpoints(folder)
    return folder.path


def _drop_checkpoints(folder: RunFolder) -> None:
    """Remove what only a run that isn't finished needs: the model, its log and whose they are stay."""
    there = checkpoints(folder.path)
    with writing(folder.path):
        for checkpoint in there:
            shutil.rmtree(checkpoint)
    if there:
        print(f"removed  {', '.join(checkpoint.name for checkpoint in there)} of {folder.path}")


def _save_initial(write: Callable[[Path], None], tokenizer: PreTrainedTokenizerBase, folder: RunFolder) -> None:
    with saving(folder), quiet_transformers(), written_whole(folder.path / INITIAL_STUDENT) as scratch:
        write(scratch)
        tokenizer.save_pretrained(scratch)
