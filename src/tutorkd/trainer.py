"""The trainers: of masked language models, and of students from teachers."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd import likeliest, probe
from tutorkd.arguments import check_trainable
from tutorkd.batch import Batch
from tutorkd.callbacks import AtTheBeginning
from tutorkd.card import EarlierStage, student_card, teacher_card
from tutorkd.config import DistillationConfig, PretrainingConfig, TutorKDConfig
from tutorkd.data.rows import EpochSampler, StreamedRows, column_names
from tutorkd.data.taught import TAUGHT
from tutorkd.errors import UserError, kind_of
from tutorkd.files import stored_result
from tutorkd.gradients import GradientPart
from tutorkd.importance import TOKENS, read_some
from tutorkd.methods import ALL_METHODS, AUTO, METHODS, Method, choose_method, embedding, objective_of_method
from tutorkd.methods.causal_lm import FIGURES as CLM_FIGURES
from tutorkd.methods.causal_lm import CausalLM
from tutorkd.methods.masked_lm import FIGURES, MaskedLM
from tutorkd.methods.pair import check_apart, check_tokenizer, differing, tokenizer_beside
from tutorkd.methods.tutor_kd import TutorKDSettings
from tutorkd.objective import EMBEDDING, Objective
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.padding import TextCollator
from tutorkd.probe import causal_metrics, mlm_metrics
from tutorkd.quantization import check_quantizer
from tutorkd.run_folder import FINISHED_FILE, lacking, run_settings
from tutorkd.sentence_encoder import is_sentence_encoder
from tutorkd.sentence_teacher import SentenceTeacher, load_sentence_teacher
from tutorkd.spelling import Spelling
from tutorkd.step import Figure
from tutorkd.students import PRESETS, neurons_of, start_from_text, started_student
from tutorkd.teacher import Teacher, frozen, load_teacher
from tutorkd.teacher_respelled import in_teachers_tokens

STUDENT_NORM = Figure("grad_norm_student", "|g_S|")


class MaskedLMTrainer(PackedRowsTrainer):
    """Masked-language-model training of ``model`` (body and MLM head), as ``tutorkd adapt`` does it."""

    def __init__(self, model: PreTrainedModel, args: PretrainingConfig, **kwargs: Any):
        check_trainable(args, PretrainingConfig, kwargs.get("processing_class"), kwargs)
        figures = (*FIGURES, probe.LOSS, probe.ACCURACY, probe.PERPLEXITY)
        super().__init__(
            MaskedLM(model), model, args, compute_metrics=mlm_metrics, stage="adapt", figures=figures, **kwargs
        )

    def _look(self, module, batch):
        return module.score(batch)

    def _write_card(self, folder: Path) -> None:
        teacher_card(folder, self.saved_model, self.args, self.state, self.about_text)


class CausalLMTrainer(PackedRowsTrainer):
    """Causal-language-model training of ``model`` (body and head), as ``tutorkd adapt`` does it."""

    def __init__(self, model: PreTrainedModel, args: PretrainingConfig, **kwargs: Any):
        check_trainable(args, PretrainingConfig, kwargs.get("processing_class"), kwargs)
        figures = (*CLM_FIGURES, probe.LOSS, probe.PERPLEXITY)
        super().__init__(
            CausalLM(model), model, args, compute_metrics=causal_metrics, stage="adapt", figures=figures, **kwargs
        )

    def _look(self, module, batch):
        return (module.score(batch),)

    def _write_card(self, folder: Path) -> None:
        teacher_card(folder, self.saved_model, self.args, self.state, self.about_text)


class DistillationTrainer(PackedRowsTrainer):
    """Distil a teacher into a student by one of ``tutorkd.methods.METHODS``, a causal one by one of ``CAUSAL_METHODS``,
    an embedding model by one of ``EMBEDDING_METHODS``.

    Args:
        model: the student: an encoder without a head or, if the method needs one, a language model; or what
            ``build_student`` takes: "thin", a preset, a Hub name or a path. A student by name starts as that of
            ``tutorkd distill`` does: a checkpoint with its own weights, any other from the teacher's layers. It is
            trained and saved in float32, even if it was loaded from a checkpoint in 16 bits.
        teacher_model: a masked or causal language model or, for methods that use no logits, any encoder: a Hub name, a
            path, a loaded model or a ``Teacher``. An embedding model is a name, a path, a ``SentenceTransformer`` or a
            ``SentenceTeacher``. A model of your own isn't changed and keeps its number format, device, mode and
            attention; a ``Teacher`` is moved to the device and, if ``args.teacher_dtype`` is int8, rounded.
        args: ``DistillationConfig``.
        train_dataset, eval_dataset, processing_class: as for ``PackedRowsTrainer``; the tokenizer is the teacher's, but
            the student of an embedding model may have its own. Its rows then need a column ``vector``, the teacher's
            vector of the text, or ``teacher_ids``, the ids that the teacher reads. These may also be of another text.
            With ``teacher_top_k`` rows have been through ``tutorkd.teacher_likeliest.with_likeliest``.
        method: a name in one of these tables; by default Tutor-KD if ``args`` is a ``TutorKDConfig``, else MiniLM v2
            for an encoder, KD for a decoder, and "embedding" for an embedding model.
        settings: the method's constants; its defaults if left out, or Tutor-KD's in ``args``.
        module: what ``build_module`` made from these arguments, if it was called before.
        sliced: whether the student consists of slices of the teacher, as ``initialise_from_teacher`` makes them where
            it is narrower or has fewer heads or neurons. It then starts anew from those that matter most on the rows
            that are read first (``start_from_text``), as a student that is named does.
        spelling: of the teacher's tokens in those of such a student, if it has another tokenizer; by default found from
            the tokenizer beside the teacher.

    Raises:
        UserError: before the first step, if the pair, the tokenizer or the rows can't be trained on.

    Example:
        A teacher and its tokenizer lie in the folder "teacher", and text in "my_text".

        >>> from transformers import AutoModel, AutoTokenizer
        >>> from tutorkd import DistillationConfig, DistillationTrainer, prepare_corpus
        >>> tokenizer = AutoTokenizer.from_pretrained("teacher")
        >>> corpus = prepare_corpus("my_text/", tokenizer, max_length=16)
        >>> args = DistillationConfig(output_dir="student", max_steps=2, report_to="none")
        >>> trainer = DistillationTrainer("thin", "teacher", args, corpus.train, tokenizer)
        >>> trainer.method.title, trainer.train().global_step
        ('MiniLM v2', 2)
        >>> trainer.save_model()
        >>> trainer.teacher.config.intermediate_size, AutoModel.from_pretrained("student").config.intermediate_size
        (128, 32)
    """

    args: DistillationConfig
    _kind_of_args: type[DistillationConfig] = DistillationConfig

    def __init__(
        self,
        model: PreTrainedModel | str | PathLike[str],
        teacher_model: str | PathLike[str] | PreTrainedModel | Teacher,
        args: DistillationConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Any = None,
        method: str = AUTO,
        settings: Any = None,
        module: nn.Module | None = None,
        sliced: bool = False,
        spelling: Spelling | None = None,
        **kwargs: Any,
    ):
        check_trainable(args, self._kind_of_args, processing_class, kwargs)
        model = str(model) if isinstance(model, PathLike) else model
        teacher_model = str(teacher_model) if isinstance(teacher_model, PathLike) else teacher_model
        if not isinstance(model, str | PreTrainedModel):
            raise UserError(
                f'the student must be a model of transformers or a name such as "thin", not {kind_of(model)}'
            )
        if method == AUTO and isinstance(args, TutorKDConfig):
            method = "tutor-kd"
        teacher = prepare_teacher(teacher_model, args, objective=_objective(method, teacher_model))
        self.method = choose_method(method, teacher.objective)
        if settings is None and isinstance(args, TutorKDConfig):
            settings = _constants(args, self.method)
        self.settings = self.method.settings() if settings is None else settings
        if settings is not None and not isinstance(settings, self.method.settings):
            raise UserError(
                f"{self.method.title} of a {teacher.objective.noun} takes {self.method.settings.__name__} as its "
                f"settings, not {kind_of(settings)}: give DistillationTrainer these, or none, or name the method that "
                "takes yours"
            )
        named = isinstance(teacher_model, str)
        k = self.method.likeliest(self.settings)
        own_tokenizer = isinstance(teacher, SentenceTeacher) and embedding.reads_otherwise(teacher, processing_class)
        apart = own_tokenizer or k > 0  # the teacher doesn't read these rows
        if k:
            _check_likeliest(k, train_dataset, eval_dataset)
        taught = _taught(teacher, self.settings, own_tokenizer, train_dataset, eval_dataset)
        for part in () if apart else teacher.parts:
            check_tokenizer(
                "teacher", part.config.name_or_path, processing_class, fetch=named, objective=teacher.objective
            )
        if k and spelling is None and (sliced or isinstance(model, str)):
            spelling = _spelling(processing_class, teacher, named)
        if isinstance(model, str):
            own = "" if model in PRESETS else model
            check_tokenizer("student", own, processing_class, fetch=True, objective=teacher.objective)
            torch.manual_seed(args.seed)  # its start, whatever was drawn before
            head = self.settings.student_head
            started = started_student(model, teacher, head=head, own_tokenizer=own_tokenizer, spelling=spelling)
            model, sliced = started.student, started.sliced
        else:
            check_tokenizer("student", model.config.name_or_path, processing_class, objective=teacher.objective)
        self.held_out = self.method.held_out(self.settings)
        looked_at = (probe.LOSS,) if self.held_out is None else self.held_out.figures
        if module is None:
            torch.manual_seed(args.seed)  # the heads' start, likewise
            module = build_module(self.method, model, teacher, self.settings, processing_class)
        norms = [part.norm for part in self.method.gradient_parts(module) if part.norm is not None]
        super().__init__(
            module,
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            stage="distill",
            figures=(*self.method.figures, STUDENT_NORM, *norms, *looked_at, *probe.TEACHER_ACCURACY.values()),
            compute_metrics=None if self.held_out is None else self.held_out.metrics,
            objective=teacher.objective,
            spacing=self.method.spacing(self.settings),
            likeliest=k,
            taught=taught,
            **kwargs,
        )
        for part in () if apart else teacher.parts:
            self._check_rows(part.body, "teacher")
        self.teacher = teacher
        to_round = self._asks_teacher and args.teacher_dtype == "int8" and not teacher.quantised
        if self._asks_teacher and not to_round:
            self.teacher.to(args.device)
        if sliced:
            self._choose_slices(model, spelling)
        if to_round:
            self._quantise_teacher()
        self._probe_generator = torch.Generator(args.device)
        self.method.start(module, self.teacher, self._first_batches())

    def _first_rows(self) -> Iterator[Any]:
        """Those that training reads first, which come from all over the text."""
        rows: Any = self.train_dataset
        if isinstance(rows, StreamedRows):
            return iter(rows)
        return (rows[index] for index in EpochSampler(len(rows), 1, self.data_seed, lambda: 0))

    def _first_batches(self) -> Iterator[Batch]:
        first = self._first_rows()
        while some := [*islice(first, self.args.per_device_eval_batch_size)]:
            yield self._prepare_inputs(self.masking(some))

    def _choose_slices(self, student: PreTrainedModel, spelling: Spelling | None) -> None:
        """Start a student that consists of slices of the teacher anew, from what matters most on its text."""
        teacher = self.teacher
        away = teacher.body.device.type != self.args.device.type  # the device may be too small for all of it
        reader = teacher.visiting(self.args.device) if away else teacher

        shown = {"unit": " tokens", "unit_scale": True, "dynamic_ncols": True}
        silent = bool(self.args.disable_tqdm) or not self.is_world_process_zero()
        with tqdm(total=2 * TOKENS, desc="what matters on the text", disable=silent, **shown) as bar:

            def read() -> None:
                read_some(reader, self._read_by_teacher(spelling), bar.update)

            _, importance = start_from_text(student, teacher, read, reader.body, spelling)
            bar.total = bar.n  # about as many, or all of a short text
        fewer = neurons_of(student.config) != neurons_of(teacher.config)
        if self.is_world_process_zero() and (importance is None or (fewer and not importance.neurons)):
            which = "dimensions" if importance is None else "neurons"
            remedy = "; --student half keeps all neurons" if fewer else ""
            tqdm.write(
                f"note     which {which} matter on the text can't be told of a {teacher.config.model_type} model, so "
                f"the student keeps some at even distances and has more to learn{remedy}"
            )

    def _read_by_teacher(self, spelling: Spelling | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        if spelling is not None:
            return in_teachers_tokens(self.teacher, self._first_rows(), spelling, self.args.device)
        return (batch.for_teacher for batch in self._first_batches())

    def _learned_from(self, module, batch):
        return self.method.own_text(module, batch)

    def _share_written(self):
        return self.method.share_written(self.settings)

    def _quantise_teacher(self) -> None:
        """In place, on the device; what that costs on held-out rows, if any, stands in the log of a run that begins."""
        before = self._accuracy(self.teacher.visiting(self.args.device))
        self.teacher.quantise()
        after = self._accuracy(self.teacher.to(self.args.device))
        if before is not None and after is not None:
            own = str(self.args.teacher_format).removeprefix("torch.")
            figures = {probe.TEACHER_ACCURACY["int8"].name: after, probe.TEACHER_ACCURACY[own].name: before}
            self.add_callback(AtTheBeginning(lambda: self.log(figures)))

    def _accuracy(self, teacher: Teacher) -> float | None:
        if self.eval_dataset is None or not teacher.answers:
            return None
        with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
            batches = map(self._prepare_inputs, self.get_eval_dataloader())
            return probe.accuracy(teacher, batches, self.accelerator.gather_for_metrics)

    @property
    def _asks_teacher(self) -> bool:
        """Whether a step needs the teacher, and the rows don't know what it would say."""
        return not self.method.likeliest(self.settings)

    def _forward_arguments(self) -> dict[str, Any]:
        return {"teacher": self.teacher if self._asks_teacher else None}

    def _gradient_parts(self) -> list[GradientPart]:
        """What the method clips apart, behind the rest, which is the student's."""
        module = self.accelerator.unwrap_model(self.model)
        apart = self.method.gradient_parts(module)
        own = {id(p) for part in apart for p in part.parameters}
        student = [p for p in module.parameters() if id(p) not in own]
        return [GradientPart(STUDENT_NORM, student, self.args.max_grad_norm), *apart]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What the method judges held-out rows by, with the same random numbers each time; else the loss."""
        self._probe_generator.manual_seed(self.args.seed)
        return super().evaluate(*args, **kwargs)

    def _look(self, module, batch):
        assert self.held_out is not None
        return self.held_out.look(module, batch, self._forward_arguments()["teacher"], self._probe_generator)

    def _save_model(self, folder: Path) -> None:
        self.method.write(self.accelerator.unwrap_model(self.model), self.saved_model, self.teacher, folder)

    def _write_card(self, folder: Path) -> None:
        of_run = self.settings, self.args, self.state, self.about_text
        student_card(folder, self.saved_model, self.teacher, self.method, *of_run, _earlier(self.saved_model))


class TutorKDTrainer(DistillationTrainer):
    """``DistillationTrainer`` for Tutor-KD, its constants among the arguments (``TutorKDConfig``).

    Example:
        A teacher and its tokenizer lie in the folder "teacher", and text in "my_text".

        >>> from transformers import AutoModel, AutoTokenizer
        >>> from tutorkd import TutorKDConfig, TutorKDTrainer, prepare_corpus
        >>> tokenizer = AutoTokenizer.from_pretrained("teacher")
        >>> corpus = prepare_corpus("my_text/", tokenizer, max_length=16)
        >>> args = TutorKDConfig(output_dir="student", max_steps=2, per_device_train_batch_size=4, report_to="none")
        >>> trainer = TutorKDTrainer("thin", "teacher", args, corpus.train, tokenizer)
        >>> trainer.train().global_step
        2
        >>> trainer.save_model()
        >>> trainer.teacher.config.intermediate_size, AutoModel.from_pretrained("student").config.intermediate_size
        (128, 32)
    """

    args: TutorKDConfig
    _kind_of_args = TutorKDConfig

    def __init__(
        self,
        model: PreTrainedModel | str | PathLike[str],
        teacher_model: str | PathLike[str] | PreTrainedModel | Teacher,
        args: TutorKDConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            model, teacher_model, args, train_dataset, processing_class, eval_dataset, settings=args, **kwargs
        )


def _objective(method: str, teacher: Any) -> Objective | None:
    """What a teacher is loaded for; None where its checkpoint or class tells."""
    if method != AUTO:
        return objective_of_method(method)
    if isinstance(teacher, str):
        return EMBEDDING if is_sentence_encoder(teacher, "teacher") else None
    # Told by name, since the package is large and optional.
    return EMBEDDING if "SentenceTransformer" in {kind.__name__ for kind in type(teacher).__mro__} else None


def _spelling(tokenizer: PreTrainedTokenizerBase, teacher: Teacher, fetch: bool) -> Spelling | None:
    """The tokens of a causal teacher that was asked before in those of a student that has another tokenizer.

    Args:
        fetch: ask the Hub for the teacher's if it isn't here.
    """
    name = teacher.config.name_or_path
    teachers = tokenizer_beside("teacher", name, fetch) if name else None
    if teachers is None or differing(tokenizer, teachers, teacher.objective) is None:
        return None
    return Spelling(teachers, tokenizer)


def _check_likeliest(k: int, *datasets: Any) -> None:
    """Refuse rows that don't know the teacher's k likeliest tokens.

    Raises:
        UserError: naming what adds them.
    """
    for rows in datasets:
        empty = rows is None or (hasattr(rows, "__len__") and not len(rows))
        if not empty and not {likeliest.IDS, likeliest.LOG_PROBABILITIES} <= column_names(rows):
            raise UserError(
                f"with teacher_top_k {k} each row needs the teacher's likeliest tokens, columns {likeliest.IDS} and "
                f"{likeliest.LOG_PROBABILITIES}: tutorkd distill adds them, and so does "
                "tutorkd.teacher_likeliest.with_likeliest"
            )


def _taught(teacher: Teacher, settings: Any, own_tokenizer: bool, *datasets: Any) -> TextCollator | None:
    """What collates the rows of an embedding teacher that reads others than the student does; None where they read the
    same.

    Args:
        own_tokenizer: whether the student has another one than the teacher.

    Raises:
        UserError: if some rows don't say what the teacher reads, or its vectors of it, or layers are to be compared.
    """
    columns = [column_names(rows) for rows in datasets if rows is not None]
    if not isinstance(teacher, SentenceTeacher) or not (own_tokenizer or any(TAUGHT in each for each in columns)):
        return None
    if not all({"vector", TAUGHT} & each for each in columns):
        why = "student and teacher have different tokenizers" if own_tokenizer else f"some rows have {TAUGHT}"
        raise UserError(
            f"{why}, so each row needs a column vector (the teacher's vector of its text) or {TAUGHT} (what the "
            "teacher reads of it); tutorkd distill adds them"
        )
    if not own_tokenizer:
        embedding.refuse_layers(settings, f"with {TAUGHT} the teacher reads other tokens than the student")
    return TextCollator(teacher.tokenizer, teacher.config.vocab_size)


def _constants(args: TutorKDConfig, method: Method) -> TutorKDSettings | None:
    """Tutor-KD's constants if this is the method; else none.

    Raises:
        UserError: for another method, if one isn't at its default, since nothing would heed it.
    """
    if method.settings is TutorKDSettings:
        return args
    defaults = TutorKDSettings()
    told = [each.name for each in fields(TutorKDSettings) if getattr(args, each.name) != getattr(defaults, each.name)]
    if told:
        raise UserError(
            f"{', '.join(told)} of TutorKDConfig would change nothing of {method.title}: give DistillationConfig as "
            f"args, and settings={method.settings.__name__}(...)"
        )
    return None


def _earlier(student: PreTrainedModel) -> EarlierStage | None:
    """What a student was trained with before, if its checkpoint is the folder of a finished run."""
    name = student.config.name_or_path
    if not name or lacking(Path(name)):
        return None
    noted = run_settings(Path(name))
    state = stored_result(Path(name) / FINISHED_FILE, {"global_step": int})
    if state is None or noted.get("method") not in ALL_METHODS:
        return None
    steps = f"{state['global_step']:,} steps, learning rate {noted.get('learning_rate')}"
    return EarlierStage(ALL_METHODS[noted["method"]], steps)


def build_module(
    method: Method,
    student: PreTrainedModel,
    teacher: Teacher,
    settings: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> nn.Module:
    """What a method trains.

    Raises:
        UserError: if student, teacher and tokenizer can't be trained together, or the method needs an MLM head that the
            teacher hasn't.
    """
    if method.teacher_head:
        _check_head(method, teacher)
    check_apart(student, teacher)
    readers = {"student": student.config}
    remedy = f"use the tokenizer that belongs to it, or give it more: student.resize_token_embeddings({len(tokenizer)})"
    reads_otherwise = isinstance(teacher, SentenceTeacher) and embedding.reads_otherwise(teacher, tokenizer)
    if not reads_otherwise and not method.likeliest(settings):
        readers["teacher"] = teacher.config
        remedy = "use the teacher's own tokenizer, and a student of its vocabulary, such as --student thin"
    for role, config in readers.items():
        if len(tokenizer) > config.vocab_size:
            raise UserError(f"the tokenizer has {len(tokenizer)} tokens and the {role} {config.vocab_size}: {remedy}")
    return method.module(student, teacher, settings, tokenizer)


def _check_head(method: Method, teacher: Teacher) -> None:
    if teacher.answers:
        return
    others = [name for name, each in METHODS.items() if not each.teacher_head and name != "minilm-v2"]
    raise UserError(
        f"the teacher {teacher.name} has no trained {teacher.objective.head}, which {method.title} needs: choose "
        f"--method minilm-v2, which needs none (nor do {', '.join(others)}); or for an embedding model --method "
        "embedding, which learns its vectors; or name with --mlm_teacher a model with the same "
        "tokenizer that has one; tutorkd adapt would train one, but it also changes the body, and with it the vectors "
        "of an embedding model"
    )


def prepare_teacher(
    teacher: str | PreTrainedModel | Teacher,
    args: DistillationConfig,
    trust_remote_code: bool = False,
    objective: Objective | None = None,
    mlm: Teacher | None = None,
) -> Teacher:
    """A frozen teacher in the number format that ``args.teacher_dtype`` asks for; what is given stays in its own.

    One that is to be int8 isn't rounded yet: student and heads start at its weights as they are.

    Args:
        objective: of a teacher by name; by default its checkpoint tells.
        mlm: answers in its place where logits are asked for; a ``Teacher`` has its own.

    Raises:
        UserError: what ``load_teacher`` raises, if a teacher is to be sharded that was loaded whole, or if what rounds
            to int8 isn't installed.
    """
    dtype = args.teacher_format
    if objective is EMBEDDING:
        if args.teacher_dtype == "int8" or args.shard_teacher:
            asked = "shard_teacher" if args.shard_teacher else "teacher_dtype int8"
            raise UserError(f"{asked} isn't for embedding models: leave it out, or take --teacher_dtype bfloat16")
        if isinstance(teacher, str):
            return load_sentence_teacher(teacher, dtype, trust_remote_code)
        if not isinstance(teacher, Teacher):
            return SentenceTeacher(cast(Any, teacher), dtype)
    if args.teacher_dtype == "int8":
        check_quantizer()
    if isinstance(teacher, str):
        return load_teacher(teacher, dtype, trust_remote_code, args.shard_teacher, objective, mlm)
    if isinstance(teacher, Teacher) and teacher.sharded:
        return teacher
    if args.shard_teacher:
        raise UserError(
            "shard_teacher: the teacher is loaded already, so each process holds all of it; give its Hub name or "
            "path, or leave shard_teacher out"
        )
    if isinstance(teacher, Teacher):
        return teacher if {part.body.dtype for part in teacher.parts} == {dtype} else frozen(teacher, dtype)
    if not isinstance(teacher, PreTrainedModel):
        raise UserError(f"the teacher must be a model of transformers, a Teacher or a name, not {kind_of(teacher)}")
    return Teacher(teacher, dtype, mlm=mlm)
