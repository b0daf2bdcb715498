"""What ``tutorkd adapt`` is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutorkd.config import PretrainingConfig
from tutorkd.options.parser import OptionParser
from tutorkd.options.trainer_options import FIRST, SELDOM
from tutorkd.pretraining import corpus
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.runtime import prefers_bfloat16

DESCRIPTION = (
    "Trains an encoder, and an MLM head if it has none, by masked-language modelling on your text, or a causal "
    "language model by next-token prediction. It starts from a checkpoint (--model) or from random weights "
    "(--config_name). The result can be the teacher of tutorkd distill."
)


@dataclass
class AdaptArguments:
    """What becomes a teacher."""

    _argument_group_name = "model"

    model: str = field(default="", metadata={"help": "Model to adapt: a Hub name or a path."})
    config_name: str | None = field(
        default=None,
        metadata={
            "help": "Instead of --model: a configuration (a Hub name or a path) for a model with random weights. Its "
            "vocabulary and special tokens are taken from the tokenizer."
        },
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, if it isn't the model's own: a Hub name or a path."}
    )
    restart: bool = field(default=False, metadata={"help": "Delete what an earlier run left in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Print settings, sizes and costs without training."})
    drop_checkpoints: bool = field(default=False, metadata={"help": "Remove the checkpoints of a finished run."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with the checkpoint."})


@dataclass(frozen=True)
class Adaptation:
    """The options of one run of ``tutorkd adapt``."""

    args: AdaptArguments
    text: CorpusArguments
    config: PretrainingConfig

    @property
    def arguments(self) -> list[Any]:
        """All of them, which together tell one run from another."""
        return [self.args, self.text, self.config]


def parser() -> OptionParser:
    """Options of ``tutorkd adapt``."""
    defaults = {"output_dir": "tutorkd-teacher", "eval_strategy": "steps", "bf16": prefers_bfloat16()}
    return OptionParser(
        "adapt",
        DESCRIPTION,
        [AdaptArguments, CorpusArguments, PretrainingConfig],
        defaults,
        first=["model", "config_name", "tokenizer_name", "corpus", "max_length", *FIRST, "dry_run", "restart"],
        seldom=[*corpus.SELDOM, *SELDOM, "drop_checkpoints", "trust_remote_code"],
    )


def read_adaptation(
    argv: Sequence[str], recipe: Mapping[str, Any] | None = None, where: str = "the recipe"
) -> Adaptation:
    """Options from flags and a recipe, as ``OptionParser.read`` takes them."""
    return Adaptation(*parser().read(argv, recipe, where))
