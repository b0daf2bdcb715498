"""A model into a teacher, by training on the user's text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from tutorkd.config import PretrainingConfig
from tutorkd.errors import UserError
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.kinds import objective_of_checkpoint
from tutorkd.objective import CAUSAL
from tutorkd.options.parser import OptionParser
from tutorkd.positions import check_positions
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.pretraining.run import Prepared, run_training
from tutorkd.runtime import prefers_bfloat16
from tutorkd.trainer import CausalLMTrainer, MaskedLMTrainer

DESCRIPTION = (
    "Trains an encoder, and an MLM head if it has none, by masked-language modelling on your text, or a causal "
    "language model by next-token prediction. The result is a teacher for tutorkd distill."
)


@dataclass
class AdaptArguments:
    """What becomes a teacher."""

    _argument_group_name = "model"

    model: str = field(default="", metadata={"help": "Model to adapt: a Hub name or a path."})
    restart: bool = field(default=False, metadata={"help": "Throw away what an earlier run left in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Print the settings, sizes and costs, and stop."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with the checkpoint."})


@dataclass(frozen=True)
class Adaptation:
    """The options of one run of ``tutorkd adapt``."""

    args: AdaptArguments
    text: CorpusArguments
    config: PretrainingConfig


def parser() -> OptionParser:
    """Options of ``tutorkd adapt``."""
    defaults = {"output_dir": "tutorkd-teacher", "eval_strategy": "steps", "bf16": prefers_bfloat16()}
    return OptionParser("adapt", DESCRIPTION, [AdaptArguments, CorpusArguments, PretrainingConfig], defaults)


def read_adaptation(
    argv: Sequence[str], recipe: Mapping[str, Any] | None = None, where: str = "the recipe"
) -> Adaptation:
    """Options from flags and a recipe, as ``OptionParser.read`` takes them."""
    return Adaptation(*parser().read(argv, recipe, where))


def adapt(options: Adaptation) -> Path:
    """Train the teacher, or print the plan; returns its folder.

    Raises:
        Interrupted: if a signal stopped the run.
        UserError: if model, text or settings can't be used.
    """
    args, text, config = options.args, options.text, options.config
    if not args.model:
        raise UserError("no model: name the model to adapt with --model")
    return run_training([args, text, config], text, config, args.restart, args.dry_run, lambda: _prepare(options))


def _prepare(options: Adaptation) -> Prepared:
    args, text = options.args, options.text
    objective = objective_of_checkpoint(args.model, args.trust_remote_code)
    tokenizer = load_tokenizer(args.model, "model", args.trust_remote_code, objective.special_tokens)
    lines = text.check(tokenizer, objective)
    set_seed(options.config.seed)  # a head that isn't there starts at random
    model, missing = load_model(objective.model_class, args.model, "model", trust_remote_code=args.trust_remote_code)
    check_positions(model, "model", text.max_length)
    head = "starts at random" if missing else "goes on from the checkpoint's"
    lines.append(f"model    {args.model}: {model.num_parameters() / 1e6:.1f} M parameters, its {objective.head} {head}")
    trainer = CausalLMTrainer if objective is CAUSAL else MaskedLMTrainer
    return Prepared(tokenizer, partial(trainer, model, processing_class=tokenizer), lines, objective)
