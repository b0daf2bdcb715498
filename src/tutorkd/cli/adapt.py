"""``tutorkd adapt``: an encoder into a teacher, by masked-language-model training on the user's text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForMaskedLM, set_seed

from tutorkd.cli.corpus import CorpusArguments
from tutorkd.cli.options import OptionParser
from tutorkd.cli.plan import print_plan
from tutorkd.cli.training import check_positions, ready_trainer, told_finished, train
from tutorkd.config import PretrainingConfig
from tutorkd.errors import UserError
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.locks import held
from tutorkd.run_folder import RunFolder
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


def parser() -> OptionParser:
    """Options of the command."""
    defaults = {"output_dir": "tutorkd-teacher", "eval_strategy": "steps", "bf16": prefers_bfloat16()}
    return OptionParser("adapt", DESCRIPTION, [AdaptArguments, CorpusArguments, PretrainingConfig], defaults)


def adapt(args: AdaptArguments, text: CorpusArguments, config: PretrainingConfig) -> Path:
    """Run the command; returns the folder of the teacher."""
    if not args.model:
        raise UserError("no model: name the encoder to adapt with --model")
    text.require()
    with held(Path(config.output_dir), not args.dry_run and config.process_index == 0):
        return _adapt(args, text, config)


def _adapt(args: AdaptArguments, text: CorpusArguments, config: PretrainingConfig) -> Path:
    folder = RunFolder(config.output_dir, [args, text, config], args.restart)
    if folder.unchanged and folder.finished and not args.dry_run:
        return told_finished(folder)
    tokenizer = load_tokenizer(args.model, "model", args.trust_remote_code)
    text.check(tokenizer)
    set_seed(config.seed)  # an MLM head that isn't there starts at random
    model, missing = load_model(AutoModelForMaskedLM, args.model, "model", trust_remote_code=args.trust_remote_code)
    check_positions(model, "model", text.max_length)
    head = "starts at random" if missing else "goes on from the checkpoint's"
    print(f"model    {args.model}: {model.num_parameters() / 1e6:.1f} M parameters, its MLM head {head}")

    def trainer(**rows) -> MaskedLMTrainer:
        return MaskedLMTrainer(model, config, processing_class=tokenizer, **rows)

    if args.dry_run:
        print_plan([args, text, config], trainer, tokenizer, text, config)
        return folder.path
    corpus = text.load(tokenizer)
    folder.check_contents(corpus.digest)
    if folder.finished:
        if config.should_save:
            folder.claim()  # notes where the same text is now
        return told_finished(folder)
    ready = ready_trainer(trainer, corpus.train, corpus.heldout)
    if config.should_save:  # one process alone
        folder.claim()
    train(ready, folder)
    return folder.path


def run(argv: Sequence[str]) -> int:
    adapt(*parser().read(argv))
    return 0
