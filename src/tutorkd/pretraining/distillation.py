"""A teacher into a student, by Tutor-KD or a rival method."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, IntervalStrategy, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tutorkd.cost import seconds_a_step
from tutorkd.data import PackedCorpus
from tutorkd.data.taught import TAUGHT
from tutorkd.data.texts import Taught, Texts
from tutorkd.errors import UserError
from tutorkd.hub import load_tokenizer, loading
from tutorkd.likeliest import fabricated
from tutorkd.methods import choose_method
from tutorkd.methods.embedding import reads_otherwise
from tutorkd.methods.pair import check_tokenizer
from tutorkd.objective import CAUSAL, EMBEDDING, Objective
from tutorkd.options.recipes import FIRST_STAGE_SECTION
from tutorkd.positions import check_positions
from tutorkd.pretraining.asked_before import check_likeliest, cost_of_asking, likeliest_rows, with_vectors
from tutorkd.pretraining.distill_arguments import DistillArguments, Distillation
from tutorkd.pretraining.fabricated import on_fabricated_rows
from tutorkd.pretraining.other_tokenizer import check_named, spelling_of
from tutorkd.pretraining.outcome import few_steps
from tutorkd.pretraining.run import Prepared, run_training, whole_text
from tutorkd.pretraining.teacher_text import own_tokenizer, told_reading, what_teacher_reads
from tutorkd.run_folder import lacking
from tutorkd.sentence_teacher import SentenceTeacher
from tutorkd.spelling import Spelling
from tutorkd.students import PRESETS, sizes_of, started_student, told_sizes
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer, build_module, prepare_teacher


def distill(options: Distillation) -> Path:
    """Train the student, or print the plan; returns its folder.

    Raises:
        Interrupted: if a signal stopped the run.
        UserError: if model, text or settings can't be used, or not together.
    """
    if not options.args.teacher:
        raise UserError("no teacher: name an encoder, a causal language model or an embedding model with --teacher")
    if options.first is not None:
        options = _after_first_stage(options, options.first)
    return run_training(options, partial(prepare, options))


def _after_first_stage(options: Distillation, first: Distillation) -> Distillation:
    """Make the student that a run goes on with, unless that is done; returns the run's options with it.

    What the run itself can't be made with is refused before. Where nothing is to be trained (``--dry_run``), the
    options keep the student that they have.

    Raises:
        Interrupted, UserError: what `distill` raises.
    """
    if options.config.world_size > 1:
        raise UserError(
            f"{FIRST_STAGE_SECTION}: two stages need a single process, but there are {options.config.world_size}: run "
            "the first stage with a recipe of its own, then the second with its folder as --student"
        )
    folder = Path(first.config.output_dir)
    if lacking(folder):
        prepare(options)
    print(f"stage 1 of 2: {told(first)}; flags don't change what the recipe says under {FIRST_STAGE_SECTION}")
    distill(first)
    print(f"stage 2 of 2: {told(options)}")
    return options if lacking(folder) else options.going_on(folder)


def told(options: Distillation) -> str:
    """A run in a few words: its method, how long it is, and where it goes."""
    config = options.config
    steps = (
        f"{config.max_steps:,} steps" if config.max_steps > 0 else f"passes over the text: {config.num_train_epochs:g}"
    )
    return f"{options.args.method}, {steps}, in {config.output_dir}"


def prepare(options: Distillation, start_unused: bool = False) -> Prepared:
    """What is trained with; all that can be refused before text is tokenized is refused here.

    Args:
        start_unused: whether the student's weights as it starts won't be used, so that no text has to say what a
            narrower one keeps: its steps are only measured, or it goes on from a checkpoint.

    Raises:
        UserError: if model, text or settings can't be used, or not together.
    """
    args, text, texts = options.args, options.text, None
    lines: list[str] = []
    start: dict[str, str] = {}
    teacher: Teacher | None = None
    rows: Callable[[PackedCorpus], tuple[Any, Any]] = whole_text
    asking: Callable[[float], tuple[float, float]] | None = None
    beside, spelling = text.beside, None
    check_named(options)
    if options.objective is EMBEDDING:  # its tokenizer is set up when the model is loaded
        teacher = prepare_teacher(args.teacher, options.config, args.trust_remote_code, EMBEDDING)
        assert isinstance(teacher, SentenceTeacher)
        tokenizer = own_tokenizer(options, teacher) or teacher.tokenizer
        texts = Texts(options.settings.text_unit, teacher.prompt(options.settings.prompt_name))
        rows = partial(with_vectors, options, teacher)
        if (taught := what_teacher_reads(options, teacher, tokenizer)) is not None:
            texts = texts._replace(taught=taught)
            beside = {TAUGHT: teacher.tokenizer.all_special_ids[:1] * 2}
            lines.append(told_reading(options, taught, tokenizer))
        if (column := options.text.text_column) == options.settings.teacher_text_column:
            lines.append(
                f"text     {column!r} is the column of the student and of the teacher: both read the same text"
            )
    else:
        tokenizer = load_tokenizer(args.teacher, "teacher", args.trust_remote_code, options.objective.special_tokens)
        if (spelling := spelling_of(options, tokenizer)) is not None:
            if text.messages_column is not None:
                texts = Texts(taught=Taught(tokenizer))
            tokenizer = spelling.tokenizer
            start = {"tokenizer": f"{len(tokenizer):,} tokens of its own, which aren't the teacher's"}
            lines.append("text     the student has a tokenizer of its own; what the teacher says is said in its tokens")
    lines += text.check(tokenizer, options.objective, texts)
    pair = load_pair(options, tokenizer, teacher, spelling)
    for part in () if spelling else pair.teacher.parts:
        check_positions(part.body, "teacher", text.max_length)
    check_positions(pair.student, "student", text.max_length)
    torch.manual_seed(options.config.seed)  # the heads' start, as the trainer would draw it
    method = choose_method(args.method, options.objective)
    module = build_module(method, pair.student, pair.teacher, options.settings, tokenizer)
    if k := method.likeliest(options.settings):
        check_likeliest(options, pair.teacher, spelling)
        sizes = pair.teacher.config.vocab_size, pair.student.config.vocab_size
        vocabulary = spelling.own_size if spelling else min(sizes)
        rows = partial(likeliest_rows, options, pair.teacher, vocabulary, tokenizer, spelling)
        asking = partial(cost_of_asking, pair.teacher, k, vocabulary)
        beside = {**beside, **{name: array.tolist() for name, array in fabricated(1, k).items()}}
    return Prepared(
        tokenizer,
        partial(trainer_of(options, pair._replace(sliced=pair.sliced and not start_unused), tokenizer), module=module),
        [*lines, *pair.lines, f"method   {method.title}"],
        options.objective,
        partial(method.write, module, pair.student, pair.teacher) if args.save_initial_student else None,
        texts,
        partial(few_steps, objective=options.objective),
        rows,
        beside,
        start,
        asking,
        own_tokenizer=spelling is not None,
    )


def estimated_seconds(options: Distillation) -> float:
    """What the steps of a run will take on this machine, from timing one; what reads the text isn't counted.

    Raises:
        UserError: what ``prepare`` raises.
    """
    prepared = prepare(options, start_unused=True)
    with on_fabricated_rows(prepared.make, prepared.tokenizer, options.config, prepared.beside) as trainer:
        return seconds_a_step(trainer, options.text.max_length) * options.config.max_steps


class Pair(NamedTuple):
    """Teacher and student, and lines that say what they are."""

    teacher: Teacher
    student: PreTrainedModel
    lines: list[str]
    sliced: bool = False  # whether the student starts from slices of the teacher
    spelling: Spelling | None = None  # as for ``started_student``


def load_pair(
    options: Distillation,
    tokenizer: PreTrainedTokenizerBase,
    teacher: Teacher | None = None,
    spelling: Spelling | None = None,
) -> Pair:
    """The frozen teacher, and the student as training finds it.

    Args:
        tokenizer: the student's.
        teacher: the options', where it is loaded already.
        spelling: as for ``started_student``.

    Raises:
        UserError: if one of them can't be loaded or made, or they don't belong together.
    """
    args = options.args
    teacher = teacher or _load_teacher(options, tokenizer)
    of_student = options.config.seed, options.settings.student_head, spelling
    return make_student(args, teacher, tokenizer, *of_student)


def _load_teacher(options: Distillation, tokenizer: PreTrainedTokenizerBase) -> Teacher:
    args = options.args
    load = partial(
        prepare_teacher,
        args=options.config,
        trust_remote_code=args.trust_remote_code,
        objective=options.objective,
    )
    if not args.mlm_teacher:
        return load(args.teacher)
    if options.objective is CAUSAL or not choose_method(args.method, options.objective).teacher_head:
        raise UserError(
            f"mlm_teacher is for methods that use an encoder's MLM head, and {args.method} for a "
            f"{options.objective.noun} uses none: leave it out"
        )
    check_tokenizer("teacher", args.mlm_teacher, tokenizer, True, args.trust_remote_code)
    return load(args.teacher, mlm=load(args.mlm_teacher))


def trainer_of(
    options: Distillation, pair: Pair, tokenizer: PreTrainedTokenizerBase
) -> Callable[..., DistillationTrainer]:
    """What makes the trainer, of ``args``, ``train_dataset`` and ``eval_dataset``."""
    return partial(
        DistillationTrainer,
        pair.student,
        pair.teacher,
        processing_class=tokenizer,
        method=options.args.method,
        settings=options.settings,
        sliced=pair.sliced,
        spelling=pair.spelling,
    )


def finished_trainer(options: Distillation, folder: str | Path | None = None) -> DistillationTrainer:
    """The trainer of a finished run as that left it, heads included: to be looked at, with nothing to train on.

    Args:
        folder: a checkpoint to take in the place of the finished run.

    Raises:
        UserError: if teacher or student can't be loaded.
    """
    args, config, head = options.args, options.config, options.settings.student_head
    tokenizer = load_tokenizer(args.teacher, "teacher", args.trust_remote_code, options.objective.special_tokens)
    place = str(folder or config.output_dir)
    with loading(place, "student"):
        student = (head.model_class if head else AutoModel).from_pretrained(place)
    no_rows: list[dict[str, list[int]]] = [{}]
    looked_at = None if config.eval_strategy == IntervalStrategy.NO else no_rows
    teacher = _load_teacher(options, tokenizer)
    trainer = DistillationTrainer(
        *(student, teacher, config, no_rows, tokenizer, looked_at, args.method), settings=options.settings
    )
    trainer._load_from_checkpoint(place)
    return trainer


def make_student(
    args: DistillArguments,
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    head: Objective | None,
    spelling: Spelling | None = None,
) -> Pair:
    """The student that the options ask for, with a head or without one, beside its teacher.

    Args:
        spelling: as for ``started_student``.

    Raises:
        UserError: if there is no such student, or it can't learn from this teacher.
    """
    if args.student not in PRESETS and not (spelling and args.student_tokenizer):
        check_tokenizer("student", args.student, tokenizer, True, args.trust_remote_code, teacher.objective)
    own = isinstance(teacher, SentenceTeacher) and reads_otherwise(teacher, tokenizer)
    set_seed(seed)
    how = sizes_of(args), args.student_init, head, args.trust_remote_code, own, spelling
    student, start, sliced = started_student(args.student, teacher, *how)
    teachers = zip(("teacher", "its MLM"), (args.teacher, args.mlm_teacher), teacher.parts, strict=False)
    named = [(role, name, part.model if hasattr(part, "head") else part.body) for role, name, part in teachers]
    named.append(("student", args.student, student))
    lines = [f"{role:<8} {name}: {told_sizes(model)}" for role, name, model in named]
    return Pair(teacher, student, [*lines, f"{'':<8} student: {start}"], sliced, spelling)
