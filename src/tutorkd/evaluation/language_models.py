"""Comparison of causal language models as they are: on held-out text, on their own, and on tasks of lm-eval."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.data.documents import Layout
from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.checkpoint import Checkpoint, check_language_model, find_checkpoint
from tutorkd.evaluation.generation import AT_ONCE, continue_prompts, generation_bytes, generation_speed
from tutorkd.evaluation.heldout import HeldoutText, Row, prompts_of, read_text, rows_of, start_token
from tutorkd.evaluation.heldout_chats import chat_prompts, chat_rows
from tutorkd.evaluation.language_report import LanguageResult, language_columns
from tutorkd.evaluation.likelihood import score
from tutorkd.evaluation.records import (
    earlier_result,
    machine,
    named_checkpoints,
    record_of,
    result_folders,
    take_up,
)
from tutorkd.evaluation.tasks import Tasks
from tutorkd.files import write_json, write_results
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.kinds import kind_of_checkpoint
from tutorkd.locks import held
from tutorkd.runtime import usable_device

_TIMED_PROMPTS = 5
_ROWS_OF_ESTIMATE = 4
_OF_ENCODERS = ("train", "validation", "save_models", "seeds")  # settings that are theirs alone


def are_causal(models: Sequence[str], args: EvaluateArguments, language: LanguageArguments) -> bool:
    """Whether these are causal language models; false where they are encoders, or none is given.

    Raises:
        UserError: if some are and some aren't, or an option is given that is for the other kind alone.
    """
    names = [*([language.teacher] if language.teacher else []), *models]
    kinds = {name: kind_of_checkpoint(name) == "causal" for name in names}
    if len(set(kinds.values())) > 1:
        one, other = (next(name for name, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise UserError(
            f"{one} is a causal language model and {other} isn't: they are measured by other figures; evaluate them "
            "in two commands"
        )
    causal = any(kinds.values())
    ours = [name for name in ("teacher", "text", "tasks") if getattr(language, name)]
    theirs = [name for name in _OF_ENCODERS if getattr(args, name)]
    if causal and theirs:
        raise UserError(f"--{theirs[0]} is for encoders, and {names[0]} is a causal language model: give it --text")
    if kinds and not causal and ours:
        raise UserError(
            f"--{ours[0]} is for causal language models, and {names[0]} isn't one: give it --train and --validation "
            "or, for its vectors, --sts, --paraphrases or --retrieval"
        )
    return causal


@dataclass
class _Model:
    """A checkpoint with what it makes of the text; its weights once they are asked for."""

    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    text: HeldoutText | None
    args: EvaluateArguments
    folder: str = ""  # of its result

    @cached_property
    def rows(self) -> list[Row]:
        assert self.text
        return _rows(self.text, self.tokenizer, self.checkpoint.name, self.args.max_length)

    @cached_property
    def weights(self) -> PreTrainedModel:
        """Where the machine computes, in the checkpoint's number format unless ``bf16`` says another.

        Raises:
            UserError: if it isn't whole.
        """
        dtype = "auto" if self.args.bf16 is None else torch.bfloat16 if self.args.bf16 else torch.float32
        model, missing = load_model(AutoModelForCausalLM, self.checkpoint.folder, "model", dtype)
        if missing:
            raise UserError(
                f"the model {self.checkpoint.name} has no trained LM head ({len(missing)} weights are missing, such as "
                f"{missing[0]})"
            )
        return model.eval().to(usable_device())

    def why_not_compared(self, teacher: "_Model") -> str | None:
        """What keeps its distributions from being held against a teacher's; None where nothing does."""
        same = self.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()
        if same and (self.text is None or self.rows == teacher.rows):
            return None
        return "its tokens aren't the teacher's; compare bits per byte"


@dataclass(frozen=True)
class _Evaluation:
    """All that is measured, and how, checked before the first model is loaded."""

    args: EvaluateArguments
    language: LanguageArguments
    models: list[_Model]  # that are measured
    teacher: _Model | None
    text: HeldoutText | None
    tasks: Tasks | None
    settings: dict[str, Any]

    def record(self, model: _Model) -> Path:
        return record_of(Path(self.args.output_dir), model.folder)

    def earlier(self, model: _Model) -> LanguageResult | None:
        """What an earlier run found."""
        return earlier_result(LanguageResult, self.record(model), self.settings, model.checkpoint)


def evaluate_language_models(
    models: Sequence[str], args: EvaluateArguments, language: LanguageArguments, with_teacher: bool = True
) -> list[LanguageResult]:
    """Measure each model, the teacher first, and write results.json and results.md to ``args.output_dir``.

    A model whose result stands there for the same weights isn't measured again; results of other text, settings or
    teacher are refused. ``args.restart`` throws both away. On another device or number of threads, models are measured
    anew. Whatever can be checked is checked for all models before the first one is loaded.

    Args:
        with_teacher: whether the teacher is measured too where it isn't one of ``models``; the others are held against
            it either way.

    Raises:
        UserError: for a model, text or task that can't be used, and for a folder that holds results of others.
    """
    evaluation = _prepare(models, args, language, with_teacher)
    output = Path(args.output_dir)
    with held(output):
        take_up(output, evaluation.settings, args.restart)
        results = [_result(model, evaluation) for model in evaluation.models]
        summary = {"settings": evaluation.settings, "results": [asdict(result) for result in results]}
        write_results(output, summary, language_columns(results, args, language).markdown())
    return results


def language_plan(models: Sequence[str], args: EvaluateArguments, language: LanguageArguments) -> dict[str, str]:
    """What `evaluate_language_models` would do, after all the checks that it makes before the first model is loaded.

    Raises:
        UserError: as `evaluate_language_models`, before it loads a model.
    """
    evaluation = _prepare(models, args, language)
    output = Path(args.output_dir)
    if not args.restart:
        take_up(output, evaluation.settings, restart=False)
    plan = {}
    for model in evaluation.models:
        done = not args.restart and evaluation.earlier(model)
        tokens = f", {sum(len(row.targets) for row in model.rows):,} tokens to read" if model.text else ""
        size = f"{model.checkpoint.bytes / 1e6:.1f} MB"
        plan[f"model {model.folder}"] = size + tokens + (", finished" if done else "")
    if evaluation.text:
        plan["text"] = evaluation.text.described
    if evaluation.tasks:
        plan["tasks"] = ", ".join(evaluation.tasks.names)
    return plan


def measuring_seconds(
    model: PreTrainedModel, teacher: PreTrainedModel | None, args: EvaluateArguments, language: LanguageArguments
) -> float:
    """Seconds that a model's figures on text would take, roughly, from some rows of it and what it writes behind some.

    Args:
        model: with the tokens of ``language.teacher``.
        teacher: that it would be held against; None for the teacher itself.
    """
    name = str(language.teacher)
    tokenizer = load_tokenizer(name, "teacher", needed=())
    text = _read(args, language)
    rows = _rows(text, tokenizer, name, args.max_length)
    prompts = _prompts(text, rows, args, language)
    model.eval()
    some = rows[:: math.ceil(len(rows) / _ROWS_OF_ESTIMATE)]
    start = time.perf_counter()
    score(model, some, teacher)
    per_token = (time.perf_counter() - start) / sum(len(row.input_ids) for row in some)
    speed = generation_speed(model, prompts[:1], language.new_tokens).median
    # The prompt that memory is looked at for, one to warm up, and those that are timed.
    seconds = (2 + min(_TIMED_PROMPTS, len(prompts))) * language.new_tokens / speed
    seconds += per_token * sum(len(row.input_ids) for row in rows)
    if teacher is not None:
        batch = prompts[:AT_ONCE]
        start = time.perf_counter()
        written = continue_prompts(model, tokenizer, batch, language.new_tokens, args.seed)
        writing = time.perf_counter() - start + per_token * sum(len(row.input_ids) for row in written)
        seconds += writing * len(prompts) / len(batch)
    return seconds


def _read(args: EvaluateArguments, language: LanguageArguments) -> HeldoutText:
    column = language.messages_column
    layout = Layout(column or args.text_column, chats=column is not None, tools=language.tools_column)
    return read_text(language.text, layout)


def _rows(text: HeldoutText, tokenizer: PreTrainedTokenizerBase, name: str, max_length: int) -> list[Row]:
    """What a model of this name reads of the text.

    Raises:
        UserError: if its tokenizer can't make rows of it.
    """
    if text.chats:
        return chat_rows(text.documents, tokenizer, max_length)
    return rows_of(text, tokenizer, start_token(tokenizer, name), max_length)


def _prompts(
    text: HeldoutText, rows: Sequence[Row], args: EvaluateArguments, language: LanguageArguments
) -> list[list[int]]:
    """What a model goes on from, in some of its rows.

    Raises:
        UserError: if no row has such a beginning.
    """
    if text.chats:
        return chat_prompts(rows, language.prompts, args.max_length - language.new_tokens)
    return prompts_of(rows, language.prompts, language.prompt_length)


def _with_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, text: HeldoutText | None) -> Checkpoint:
    """A checkpoint that is another one once its chat template has changed, where conversations are read."""
    if not (text and text.chats and tokenizer.chat_template):
        return checkpoint
    template = hashlib.sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode()).hexdigest()[:12]
    return replace(checkpoint, identity={**checkpoint.identity, "chat_template_sha256": template})


def _prepare(
    models: Sequence[str], args: EvaluateArguments, language: LanguageArguments, with_teacher: bool = True
) -> _Evaluation:
    if not (language.text or language.tasks):
        raise UserError("nothing to evaluate on: give held-out text with --text, or tasks of lm-eval with --tasks")
    if args.max_length < 2:
        raise UserError(f"max_length {args.max_length} is too short: a row needs at least two tokens")
    tasks = Tasks(language.tasks, language.task_path) if language.tasks else None
    if language.messages_column is not None and not language.text:
        raise UserError("--messages_column is the column of conversations in --text: name their file with it")
    if language.tools_column is not None and language.messages_column is None:
        raise UserError("--tools_column is for conversations: name their column with --messages_column")
    text = _read(args, language) if language.text else None
    lengths = {"max_length": args.max_length}
    if text and not text.chats:
        lengths["prompt_length + new_tokens"] = language.prompt_length + language.new_tokens
    named = named_checkpoints(models, args.names)
    teachers = [find_checkpoint(language.teacher)] if language.teacher else []
    ready = {}
    for slug, checkpoint in {each.slug: each for each in [*teachers, *named]}.items():
        tokenizer = check_language_model(checkpoint, lengths if text else {})
        ready[slug] = _Model(_with_template(checkpoint, tokenizer, text), tokenizer, text, args)
    for model in ready.values() if text else []:
        _prompts(cast(HeldoutText, text), model.rows, args, language)
    with_others = [*named, *(each for each in teachers if each.slug not in {one.slug for one in named})]
    folders = result_folders(with_others, args.names, Path(args.output_dir), args.restart)
    for slug, folder in folders.items():
        ready[slug].folder = folder
    teacher = ready[teachers[0].slug] if teachers else None
    asked = {each.slug for each in named}
    measured = [model for slug, model in ready.items() if with_teacher or slug in asked]
    settings = {
        "text_sha256": text and text.sha256[:12],
        "teacher": teacher and teacher.checkpoint.identity,
        "tasks": tasks and tasks.names,
        "task_path": language.task_path and str(Path(language.task_path).resolve()),
        **{name: getattr(args, name) for name in ("max_length", "seed", "bf16")},
        **{name: getattr(language, name) for name in ("prompts", "prompt_length", "new_tokens")},
        **machine(),
    }
    return _Evaluation(args, language, measured, teacher, text, tasks, settings)


def _result(model: _Model, evaluation: _Evaluation) -> LanguageResult:
    """What an earlier run found, or else what is measured now and kept."""
    result, record = evaluation.earlier(model), evaluation.record(model)
    note = f"finished before, in {record}"
    if result is None:
        result = _measure(model, evaluation)
        content = {"settings": evaluation.settings, "weights": model.checkpoint.identity, "result": asdict(result)}
        write_json(record, content)
        note = f"measured in {result.seconds:.0f} s"
    perplexity = "" if result.perplexity is None else f"perplexity {result.perplexity:,.2f}, "
    tqdm.write(f"{model.folder}: {perplexity}{note}", file=sys.stderr)
    if result.not_compared:
        tqdm.write(f"{model.folder}: no KL divergence: {result.not_compared}", file=sys.stderr)
    return result


def _measure(model: _Model, evaluation: _Evaluation) -> LanguageResult:
    start = time.perf_counter()
    teacher = evaluation.teacher if model is not evaluation.teacher else None
    reason = model.why_not_compared(teacher) if teacher else None
    figures: dict[str, Any] = dict.fromkeys(get_type_hints(LanguageResult))
    if evaluation.text:
        figures |= _on_text(model, evaluation.text, None if reason else teacher, evaluation)
    weights = model.weights
    figures |= {
        "name": model.checkpoint.name,
        "is_teacher": model is evaluation.teacher,
        "parameters": weights.num_parameters(),
        "bytes": model.checkpoint.bytes,
        "number_format": str(weights.dtype).removeprefix("torch."),
        "not_compared": reason,
        "tasks": evaluation.tasks.run(weights, model.tokenizer, evaluation.args.seed) if evaluation.tasks else {},
        "threads": torch.get_num_threads(),
        "device": str(weights.device),
        "seconds": time.perf_counter() - start,
    }
    if model is not evaluation.teacher:
        del model.weights  # the teacher's stay for the next one
    return LanguageResult(**figures)


def _on_text(model: _Model, text: HeldoutText, teacher: _Model | None, evaluation: _Evaluation) -> dict[str, Any]:
    """Figures on held-out text, on the model's own, and of generation."""
    weights, title = model.weights, model.folder
    language, seed = evaluation.language, evaluation.args.seed
    prompts = _prompts(text, model.rows, evaluation.args, language)
    # first of all, so that nothing else has left memory to be used again
    occupied = generation_bytes(weights, prompts[0], language.new_tokens)
    timed = prompts[:_TIMED_PROMPTS]
    with _bar(f"{title}: speed", len(timed) + 1, " prompts") as bar:
        speed = generation_speed(weights, timed, language.new_tokens, bar.update)
    with _bar(f"{title}: text", len(model.rows), " rows") as bar:
        scores = score(weights, model.rows, teacher.weights if teacher else None, tell=bar.update)
    size = sum(row.bytes for row in model.rows) if text.chats else text.bytes
    figures = {
        "documents": len(model.rows) if text.chats else len(text.documents),
        "text_bytes": size,
        "text_tokens": int(scores.tokens.sum()),
        "perplexity": scores.perplexity,
        "bits_per_byte": float(scores.nats.sum()) / math.log(2) / size,
        "tokens_per_second": speed.median,
        "tokens_per_second_first_quartile": speed.first_quartile,
        "tokens_per_second_third_quartile": speed.third_quartile,
        "generation_bytes": occupied,
    }
    if teacher is None:
        return figures
    with _bar(f"{title}: own text", len(prompts), " prompts") as bar:
        written = continue_prompts(weights, model.tokenizer, prompts, language.new_tokens, seed, bar.update)
    with _bar(f"{title}: own text, read", len(written), " rows") as bar:
        own = score(teacher.weights, written, weights, tell=bar.update)
    error = own.divergence_standard_error
    return {
        **figures,
        "divergence": scores.divergence_per_token,
        "own_tokens": int(own.tokens.sum()),
        "own_divergence": own.divergence_per_token,
        "own_divergence_standard_error": None if math.isnan(error) else error,
        "own_perplexity": own.perplexity,
    }


def _bar(title: str, total: int, unit: str) -> tqdm:
    return tqdm(total=total, desc=title, unit=unit, leave=False, dynamic_ncols=True)
