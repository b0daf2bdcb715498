"""``tutorkd distill``: a teacher into a student, with a tutor."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tutorkd.cli.corpus import CorpusArguments
from tutorkd.cli.options import OptionParser, load_recipe
from tutorkd.cli.plan import print_plan
from tutorkd.cli.training import check_positions, ready_trainer, saving, told_finished, train
from tutorkd.config import DistillationConfig
from tutorkd.errors import UserError, nearest
from tutorkd.files import written_whole
from tutorkd.hub import load_tokenizer, quiet_transformers
from tutorkd.locks import held
from tutorkd.methods import METHODS
from tutorkd.methods.pair import check_tokenizer
from tutorkd.run_folder import RunFolder
from tutorkd.runtime import prefers_bfloat16
from tutorkd.students import PRESETS, build_student, has_weights, initialise_from_teacher
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer, build_module, prepare_teacher

DESCRIPTION = (
    "Distils a masked language model into a small encoder, with Tutor-KD (EMNLP 2022) or a rival method. The options "
    "of a method are shown by: tutorkd distill --method METHOD --help"
)
INITIAL_STUDENT = "initial_student"


@dataclass
class DistillArguments:
    """Teacher and student."""

    _argument_group_name = "teacher and student"

    method: str = field(default="tutor-kd", metadata={"help": f"Method: one of {', '.join(METHODS)}."})
    teacher: str = field(default="", metadata={"help": "Masked language model: a Hub name or a path."})
    student: str = field(
        default="half",
        metadata={"help": f"One of {', '.join(PRESETS)}, or a Hub name or path of a config or checkpoint."},
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
    student_init: Literal["auto", "teacher", "random"] = field(
        default="auto",
        metadata={
            "help": "Where the student starts: at the teacher's layers and embeddings where shapes allow, at random, "
            "or auto: a checkpoint's own weights if the student has any, else the teacher's."
        },
    )
    save_initial_student: bool = field(
        default=False,
        metadata={"help": f"Also save the student as it starts, in output_dir/{INITIAL_STUDENT}, to compare with."},
    )
    restart: bool = field(default=False, metadata={"help": "Throw away what an earlier run left in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Print the settings, sizes and costs, and stop."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with a checkpoint."})


def parser(method: str = "tutor-kd") -> OptionParser:
    """Options of the command, the method's constants among them."""
    defaults = {"output_dir": "tutorkd-student", "eval_strategy": "steps", "bf16": prefers_bfloat16()}
    classes = [DistillArguments, CorpusArguments, METHODS[method].settings, DistillationConfig]
    return OptionParser("distill", DESCRIPTION, classes, defaults)


def chosen_method(argv: Sequence[str]) -> str:
    """The method that flags or recipe name; it decides which constants there are to be set.

    Raises:
        UserError: if there is no such method.
    """
    ahead = ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--method", "--config"):
        ahead.add_argument(flag, nargs="?")  # a missing value is told by the parser of all options
    flags, _ = ahead.parse_known_args(argv)
    recipe = load_recipe(flags.config) if flags.config else {}
    method = flags.method or str(recipe.get("method", "tutor-kd"))
    if method not in METHODS:
        raise UserError(
            f"there is no method {method!r}{nearest(method, list(METHODS))}; choose of {', '.join(METHODS)}"
        )
    return method


def distill(args: DistillArguments, text: CorpusArguments, settings: Any, config: DistillationConfig) -> Path:
    """Run the command; returns the folder of the student.

    Args:
        settings: the method's constants, an instance of its dataclass in ``METHODS``.
    """
    if not args.teacher:
        raise UserError("no teacher: name a masked language model with --teacher")
    text.require()
    with held(Path(config.output_dir), not args.dry_run and config.process_index == 0):
        return _distill(args, text, settings, config)


def _distill(args: DistillArguments, text: CorpusArguments, settings: Any, config: DistillationConfig) -> Path:
    folder = RunFolder(config.output_dir, [args, text, settings, config], args.restart)
    if folder.unchanged and folder.finished and not args.dry_run:
        return told_finished(folder)
    tokenizer, teacher, student = prepare(args, text, settings, config)
    print(f"method   {METHODS[args.method].title}")

    def trainer(**rows) -> DistillationTrainer:
        return DistillationTrainer(
            student, teacher, config, processing_class=tokenizer, method=args.method, settings=settings, **rows
        )

    if args.dry_run:
        print_plan([args, text, settings, config], trainer, tokenizer, text, config)
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
        if args.save_initial_student and not folder.checkpoint:
            with saving(folder), quiet_transformers(), written_whole(folder.path / INITIAL_STUDENT) as scratch:
                student.save_pretrained(scratch)
                tokenizer.save_pretrained(scratch)
    train(ready, folder)
    return folder.path


def prepare(
    args: DistillArguments, text: CorpusArguments, settings: Any, config: DistillationConfig
) -> tuple[PreTrainedTokenizerBase, Teacher, PreTrainedModel]:
    """What is trained with; all that can be refused before text is tokenized is refused here.

    Raises:
        UserError: if model, text or settings can't be used, or not together.
    """
    tokenizer = load_tokenizer(args.teacher, "teacher", args.trust_remote_code)
    text.check(tokenizer)
    teacher = prepare_teacher(args.teacher, config, args.trust_remote_code)
    check_positions(teacher.body, "teacher", text.max_length)
    student = make_student(args, teacher, tokenizer, config.seed, settings.needs_mlm_head)
    check_positions(student, "student", text.max_length)
    build_module(METHODS[args.method], student, teacher, settings, tokenizer)
    return tokenizer, teacher, student


def make_student(
    args: DistillArguments, teacher: Teacher, tokenizer: PreTrainedTokenizerBase, seed: int, mlm_head: bool
) -> PreTrainedModel:
    """The student that the options ask for, with or without an MLM head; says what it is and how it starts."""
    asked = {
        "num_hidden_layers": args.student_layers,
        "hidden_size": args.student_hidden_size,
        "num_attention_heads": args.student_heads,
        "intermediate_size": args.student_intermediate_size,
        "embedding_size": args.student_embedding_size,
    }
    sizes = {key: size for key, size in asked.items() if size is not None}
    pretrained = has_weights(args.student) and args.student_init == "auto"
    if pretrained and sizes:
        raise UserError(f"{args.student} has weights of its own sizes; leave the sizes, or set --student_init random")
    if args.student not in PRESETS:
        check_tokenizer("student", args.student, tokenizer, fetch=True, trust_remote_code=args.trust_remote_code)
    set_seed(seed)
    student = build_student(args.student, teacher.config, sizes, pretrained, mlm_head, args.trust_remote_code)
    if pretrained:
        start = "its own weights"
    elif args.student_init == "random":
        start = "starts at random"
    else:
        start = str(initialise_from_teacher(student, teacher))
    for role, model in (("teacher", teacher.body), ("student", student)):
        c = model.config
        print(
            f"{role:<8} {args.teacher if role == 'teacher' else args.student}: {c.model_type}, {c.num_hidden_layers} "
            f"layers, hidden size {c.hidden_size}, {c.num_attention_heads} heads, "
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
        )
    print(f"{'':<8} student: {start}")
    return student


def run(argv: Sequence[str]) -> int:
    distill(*parser(chosen_method(argv)).read(argv))
    return 0
