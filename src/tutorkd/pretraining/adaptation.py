"""An encoder into a teacher, by masked-language-model training on the user's text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from tutorkd.config import PretrainingConfig
from tutorkd.errors import UserError
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.objective import MODEL_CLASS
from tutorkd.options.parser import OptionParser
from tutorkd.positions import check_positions
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.pretraining.run import Prepared, run_training
from tutorkd.runtime import prefers_bfloat16
from tutorkd.trainer import MaskedLMTrainer

DESCRIPTION = (
    "Trains an encoder, and an MLM head if it has none, by masked-language modelling on your text. The result is a "
    "teacher for tutorkd distill."
)


@dataclass
class AdaptArguments:
    """What becomes a teacher."""

    _argument_group_name = "model"

    model: str = field(default="", metadata={"help": "Encoder to adapt: a Hub name or a path."})
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
        raise UserError("no model: name the encoder to adapt with --model")
    return run_training([args, text, config], text, config, args.restart, args.dry_run, lambda: _prepare(options))


def _prepare(options: Adaptation) -> Prepared:
    args, text = options.args, options.text
    tokenizer = load_tokenizer(args.model, "model", args.trust_remote_code)
    lines = text.check(tokenizer)
    set_seed(options.config.seed)  # an MLM head that isn't there starts at random
    model, missing = load_model(MODEL_CLASS, args.model, "model", trust_remote_code=args.trust_remote_code)
    check_positions(model, "model", text.max_length)
    head = "starts at random" if missing else "goes on from the checkpoint's"
    lines.append(f"model    {args.model}: {model.num_parameters() / 1e6:.1f} M parameters, its MLM head {head}")
    return Prepared(tokenizer, partial(MaskedLMTrainer, model, processing_class=tokenizer), lines)
