"""What ``tutorkd distill`` is told, as one ``Distillation``."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tutorkd.checkpoints import FIRST_STAGE
from tutorkd.config import DistillationConfig
from tutorkd.errors import UserError
from tutorkd.hub import load_config
from tutorkd.kinds import objective_of_config
from tutorkd.methods import (
    AUTO,
    CAUSAL_METHODS,
    EMBEDDING_METHODS,
    METHODS,
    choose_method,
    methods_for,
    named_method,
    objective_of_method,
)
from tutorkd.objective import CAUSAL, EMBEDDING, MASKED, Objective
from tutorkd.options.parser import OptionParser
from tutorkd.options.recipes import FIRST_STAGE_SECTION, load_recipe
from tutorkd.options.trainer_options import FIRST, REFUSED, SELDOM
from tutorkd.pretraining import corpus
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.runtime import prefers_bfloat16
from tutorkd.sentence_encoder import is_sentence_encoder
from tutorkd.settings import resolved
from tutorkd.students import PRESETS, SIZES, Start

DESCRIPTION = (
    "Distils a masked, a causal or an embedding model into a small one, with Tutor-KD (EMNLP 2022) or another method. "
    "For the options of a method: tutorkd distill --method METHOD --help"
)
INITIAL_STUDENT = "initial_student"  # folder of the student as it starts, in that of the run


@dataclass
class DistillArguments:
    """Teacher and student."""

    _argument_group_name = "teacher and student"

    method: str = field(
        default=AUTO,
        metadata={
            "help": f"{', '.join(METHODS)}; for decoders {', '.join(CAUSAL_METHODS)}; or "
            f"{', '.join(EMBEDDING_METHODS)}; auto: {named_method(AUTO, MASKED)} for an encoder, "
            f"{named_method(AUTO, CAUSAL)} for a decoder, {named_method(AUTO, EMBEDDING)} for a folder of "
            "sentence-transformers."
        },
    )
    teacher: str = field(default="", metadata={"help": "Encoder, causal or embedding model: a Hub name or a path."})
    mlm_teacher: str | None = field(
        default=None,
        metadata={"help": "A model whose MLM head replaces the teacher's."},
    )
    objective: Literal["auto", "masked", "causal"] = field(
        default="auto", metadata={"help": "Kind of the models; auto: the teacher's kind."}
    )
    student: str = field(
        default="thin",
        metadata={"help": f"{', '.join(PRESETS)}, or a Hub name or path of a config or checkpoint."},
    )
    student_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Hub name or path of a tokenizer that isn't the teacher's, for a decoder that starts from its "
            "layers; with --method kd --teacher_top_k."
        },
    )
    student_layers: int | None = field(default=None, metadata={"help": "Layers of the student, a number."})
    student_hidden_size: int | None = field(default=None, metadata={"help": "Hidden size, in dimensions."})
    student_heads: int | None = field(default=None, metadata={"help": "Attention heads a layer, a number."})
    student_intermediate_size: int | None = field(
        default=None, metadata={"help": "Size of the feed-forward layers, in dimensions."}
    )
    student_embedding_size: int | None = field(
        default=None, metadata={"help": "Size of the factorised embeddings, in dimensions, where the family has them."}
    )
    student_init: Start = field(
        default="auto",
        metadata={
            "help": "How the student starts: from the teacher's layers and embeddings where shapes allow it, from "
            "random weights, or auto: from its own weights if it is a checkpoint, else from the teacher's."
        },
    )
    save_initial_student: bool = field(
        default=False,
        metadata={"help": f"Also save the student before training, in output_dir/{INITIAL_STUDENT}, for comparison."},
    )
    restart: bool = field(default=False, metadata={"help": "Delete what an earlier run left in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Print settings, sizes and costs without training."})
    drop_checkpoints: bool = field(default=False, metadata={"help": "Remove the checkpoints of a finished run."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with a checkpoint."})


@dataclass(frozen=True)
class Distillation:
    """The options of one run of ``tutorkd distill``.

    Attributes:
        settings: the method's constants, an instance of its dataclass in ``METHODS``, ``CAUSAL_METHODS`` or
            ``EMBEDDING_METHODS``.
        objective: what teacher and student are.
        first: a run that makes the student which this one goes on with.
    """

    args: DistillArguments
    text: CorpusArguments
    settings: Any
    config: DistillationConfig
    objective: Objective = MASKED
    first: "Distillation | None" = None

    @property
    def arguments(self) -> list[Any]:
        """All of them, which together tell one run from another."""
        return [self.args, self.text, self.settings, self.config]

    def going_on(self, student: Path) -> "Distillation":
        """The same, with a student that was made before."""
        changes: dict[str, Any] = {**dict.fromkeys(SIZES), "student": str(student), "student_init": "auto"}
        return replace(self, args=replace(self.args, **changes), first=None)


def parser(method: str = AUTO, objective: Objective = MASKED) -> OptionParser:
    """Options of ``tutorkd distill``, the method's constants among them.

    Raises:
        UserError: if there is no such method for models of this objective.
    """
    settings, method = choose_method(method, objective).settings, named_method(method, objective)
    defaults = {"output_dir": "tutorkd-student", "eval_strategy": "steps", "bf16": prefers_bfloat16()}
    of_teacher = ["mlm_teacher", "objective", "student_embedding_size", "teacher_dtype", "shard_teacher"]
    return OptionParser(
        "distill",
        DESCRIPTION,
        [DistillArguments, CorpusArguments, DistillationConfig, settings],
        defaults,
        first=["teacher", "student", "method", "corpus", "max_length", *FIRST, "dry_run", "restart"],
        sections=[FIRST_STAGE_SECTION],
        elsewhere=_of_other_methods(method, objective),
        seldom=[*of_teacher, *corpus.SELDOM, *SELDOM, "drop_checkpoints", "trust_remote_code"],
    )


def parsers(method: str) -> Iterator[OptionParser]:
    """Options of ``tutorkd distill`` for each kind of models, with another method's constants where it has no such."""
    for objective in (MASKED, CAUSAL, EMBEDDING):
        methods = methods_for(objective)
        yield parser(method if method in methods else next(iter(methods)), objective)


def _of_other_methods(method: str, objective: Objective) -> dict[str, str]:
    """The constants that this method hasn't, and which methods have them: for such models or, if none, for others."""
    own = {each.name for each in fields(methods_for(objective)[method].settings)}
    told: dict[str, str] = {}
    others = [each for each in (MASKED, CAUSAL, EMBEDDING) if each is not objective]
    for kind in (objective, *others):
        found: dict[str, list[str]] = {}
        for name, other in methods_for(kind).items():
            for each in fields(other.settings):
                found.setdefault(each.name, []).append(name)
        where = f", not of {method}" if kind is objective else f" for {kind.noun}s"
        for key in found.keys() - own - told.keys():
            told[key] = f"--method {' or '.join(found[key])}{where}"
    return told


def read_distillation(
    argv: Sequence[str], recipe: Mapping[str, Any] | None = None, where: str = "the recipe"
) -> Distillation:
    """Options from flags and a recipe, as ``OptionParser.read`` takes them, with the constants of the method in them.

    Raises:
        UserError: if there is no such method, and what ``OptionParser.read`` raises, for a first stage too.
    """
    chosen = _chosen(argv, recipe or {})
    objective = objective_named(chosen)
    args, text, config, settings = parser(str(chosen["method"]), objective).read(argv, recipe, where)
    args = replace(args, method=named_method(args.method, objective))
    options = Distillation(args, text, settings, config, objective)
    if (section := chosen.get(FIRST_STAGE_SECTION)) is None:
        return options
    return replace(
        options, first=_first_stage(options, section, f"{chosen.get('config', where)}, {FIRST_STAGE_SECTION}")
    )


def _first_stage(options: Distillation, section: Any, where: str) -> Distillation:
    """A run as these options say but for a section of the recipe, and in a folder within theirs.

    A method's constants are no part of what both share.

    Raises:
        UserError: for a section that says what follows from the rest, or can't be read.
    """
    if not isinstance(section, dict):
        raise UserError(f"{where}: must be a mapping of keys to values")
    follows = {
        "output_dir": str(Path(options.config.output_dir) / FIRST_STAGE),
        "restart": options.args.restart,
        "dry_run": options.args.dry_run,
        "push_to_hub": False,
    }
    for key in (*follows, FIRST_STAGE_SECTION):
        if key in section:
            raise UserError(f"{where}: {key} can't be set there, as it follows from the rest of the recipe")
    if "method" not in section:
        raise UserError(f"{where}: no method: name the one that makes the student which the recipe goes on with")
    said = {**resolved([options.args, options.text, options.config]), **follows, **section}
    try:
        keys = parser(str(said["method"]), objective_named(said)).keys
    except UserError as error:
        alone = f"--method {options.args.method} without this recipe has a single stage"
        raise UserError(f"{where}: {error}; {alone}") from error
    known = {*keys} - {*REFUSED}  # of these Trainer sets some by itself
    return read_distillation([], {key: value for key, value in said.items() if key in known or key in section}, where)


def _chosen(argv: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe and those flags say which decide what constants there are to be set."""
    ahead = ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--method", "--config", "--objective", "--teacher"):
        ahead.add_argument(flag, nargs="?")  # a missing value is told by the parser of all options
    ahead.add_argument("--trust_remote_code", nargs="?", const="true")
    flags, _ = ahead.parse_known_args(argv)
    recipe = load_recipe(flags.config, "distill") if flags.config else recipe
    named = {key: value for key, value in vars(flags).items() if value is not None}
    return {"method": AUTO, **recipe, **named}


def objective_named(options: Mapping[str, Any]) -> Objective:
    """The objective of a run by its options ``method``, ``objective`` and ``teacher``; masked where they don't tell.

    A folder of sentence-transformers is an embedding model where no method is chosen, and else the encoder in it.
    """
    if told := objective_of_method(str(options.get("method"))):
        return told
    known = {"masked": MASKED, "causal": CAUSAL}.get(str(options.get("objective")))
    if known is not None:
        return known
    if not options.get("teacher"):
        return MASKED
    teacher = str(options["teacher"])
    try:
        if options.get("method") == AUTO and is_sentence_encoder(teacher, "teacher"):
            return EMBEDDING
        trusted = str(options.get("trust_remote_code")).lower() == "true"
        return objective_of_config(load_config(teacher, "model", trusted))
    except UserError:  # a teacher that can't be loaded is told where it is loaded, behind mistakes in the options
        return MASKED
