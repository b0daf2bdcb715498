"""Comparison of models that give a vector for a text, as they are: similarity, paraphrases, retrieval."""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.cost import milliseconds_in_turns
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_encoders import EmbeddingModel, find_embedding_model
from tutorkd.evaluation.embedding_report import EmbeddingResult, embedding_columns, summary
from tutorkd.evaluation.embedding_scores import figures_of
from tutorkd.evaluation.embedding_tasks import EmbeddingTasks
from tutorkd.evaluation.heldout import evenly_spread
from tutorkd.evaluation.pairs import Data, described, digest, read_data
from tutorkd.evaluation.records import earlier_result, machine, named_checkpoints, record_of, result_folders, take_up
from tutorkd.files import write_results, write_text
from tutorkd.hub import files_of
from tutorkd.locks import held
from tutorkd.sentence_encoder import is_sentence_encoder, load_sentence_encoder

_TIMED_TEXTS = 200
_TEXTS_OF_ESTIMATE = 32
_OF_OTHERS = ("train", "validation", "save_models", "text", "task_path")  # settings that are for other kinds of models


@dataclass(frozen=True)
class _Evaluation:
    """All that is measured, and how, checked before the first model is loaded."""

    args: EvaluateArguments
    models: list[EmbeddingModel]  # that are measured
    teacher: EmbeddingModel | None
    tasks: EmbeddingTasks | None
    settings: dict[str, Any]  # all that a result depends on beside the weights

    def record(self, model: EmbeddingModel) -> Path:
        return record_of(Path(self.args.output_dir), model.folder)

    def earlier(self, model: EmbeddingModel) -> EmbeddingResult | None:
        """What an earlier run found."""
        return earlier_result(EmbeddingResult, self.record(model), self.settings, model.checkpoint)


def are_embeddings(models: Sequence[str], language: LanguageArguments, embedding: EmbeddingArguments) -> bool:
    """Whether vectors of text are to be measured: on pairs, whatever the models are, or on tasks of sentence encoders.

    Raises:
        UserError: if there is no such model, or it can't be reached.
    """
    if embedding.given or not (models and language.tasks):
        return bool(embedding.given)
    return all(not files_of(name)[1] and is_sentence_encoder(name) for name in models)


def evaluate_embeddings(
    models: Sequence[str],
    args: EvaluateArguments,
    teacher: str | None,
    embedding: EmbeddingArguments,
    tasks: Sequence[str] = (),
    with_teacher: bool = True,
) -> list[EmbeddingResult]:
    """Measure each model, the teacher first, and write results.json and results.md to ``args.output_dir``.

    A model whose result stands there for the same weights isn't measured again; results of other data, settings or
    teacher are refused. ``args.restart`` throws both away. On another device or number of threads, models are measured
    anew. Whatever can be checked is checked for all models before the first one is loaded.

    Args:
        models: folders of sentence-transformers, or plain encoders, of which the last hidden states are averaged.
        args: of these ``output_dir``, ``restart`` and ``seed`` count.
        tasks: of mteb, by name.
        with_teacher: whether the teacher is measured too where it isn't one of ``models``; the others are held against
            it either way.

    Raises:
        UserError: for a model or data that can't be used, and for a folder that holds results of others.
    """
    evaluation = _prepare(models, args, teacher, embedding, tasks, with_teacher)
    output = Path(args.output_dir)
    with held(output):
        take_up(output, evaluation.settings, args.restart)
        results = [_result(model, evaluation) for model in evaluation.models]
        told = {"settings": evaluation.settings, "results": [summary(result) for result in results]}
        write_results(output, told, embedding_columns(results).markdown())
    return results


def encoding_seconds(
    model: PreTrainedModel, teacher: PreTrainedModel | None, name: str, embedding: EmbeddingArguments
) -> float:
    """Seconds that a model's figures would take, roughly, from reading some texts at once.

    Args:
        model: the encoder without what stands behind it, with the tokenizer of the teacher ``name``.
        teacher: that it would be held against, whose vectors are needed, too; None for the teacher itself.
    """
    texts = _texts(read_data(embedding))
    rows = load_sentence_encoder(name, "teacher").tokenizer(
        texts[:: math.ceil(len(texts) / _TEXTS_OF_ESTIMATE)], padding=True, truncation=True, return_tensors="pt"
    )
    seconds = 0.0
    for each in filter(None, (model, teacher)):
        inputs = rows.to(each.device)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            with torch.inference_mode():
                each(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state.sum().item()
            last = time.perf_counter() - start
        seconds += last
    return seconds * len(texts) / len(rows["input_ids"])


def embedding_plan(
    models: Sequence[str],
    args: EvaluateArguments,
    teacher: str | None,
    embedding: EmbeddingArguments,
    tasks: Sequence[str] = (),
) -> dict[str, str]:
    """What `evaluate_embeddings` would do, after all the checks that it makes before the first model is loaded.

    Raises:
        UserError: as `evaluate_embeddings`, before it loads a model.
    """
    evaluation = _prepare(models, args, teacher, embedding, tasks)
    if not args.restart:
        take_up(Path(args.output_dir), evaluation.settings, restart=False)
    plan = {}
    for model in evaluation.models:
        done = not args.restart and evaluation.earlier(model)
        notes = [", mean-pooled"] * model.mean_pooled + [", finished"] * bool(done)
        plan[f"model {model.folder}"] = f"{model.checkpoint.bytes / 1e6:.1f} MB{''.join(notes)}"
    data = evaluation.models[0].data
    plan |= {name: said.removeprefix(f"{name}: ") for name, said in zip(data, described(data), strict=True)}
    return plan | ({"tasks": ", ".join(evaluation.tasks.names)} if evaluation.tasks else {})


def check_options(args: EvaluateArguments, language: LanguageArguments, embedding: EmbeddingArguments) -> None:
    """Raises UserError for an option that is for another way to measure."""
    for name in _OF_OTHERS:
        if getattr(args, name, None) or getattr(language, name, None):
            raise UserError(
                f"--{(embedding.given or ['tasks'])[0]} measures embedding models without training, and --{name} isn't "
                "used for that: leave one of them out"
            )


def _prepare(
    models: Sequence[str],
    args: EvaluateArguments,
    teacher: str | None,
    embedding: EmbeddingArguments,
    tasks: Sequence[str],
    with_teacher: bool = True,
) -> _Evaluation:
    if not models and not teacher:
        raise UserError("no model to evaluate: give one or more paths or Hub names")
    if find_spec("sentence_transformers") is None:
        raise UserError(
            f"--{(embedding.given or ['tasks'])[0]} needs the package sentence-transformers: pip install "
            "'tutorkd[embedding]'"
        )
    of_mteb = EmbeddingTasks(tasks) if tasks else None
    data = read_data(embedding)
    named = {checkpoint.slug: checkpoint for checkpoint in named_checkpoints(models, args.names)}
    ready: dict[str, EmbeddingModel] = {}
    for name in [*([teacher] if teacher else []), *models]:
        model = find_embedding_model(name, data)
        ready.setdefault(model.checkpoint.slug, model)
    checkpoints = {**named, **{slug: model.checkpoint for slug, model in ready.items() if slug not in named}}
    folders = result_folders(list(checkpoints.values()), args.names, Path(args.output_dir), args.restart)
    for slug, folder in folders.items():
        model = ready[slug]
        model.folder, model.checkpoint = folder, replace(model.checkpoint, name=checkpoints[slug].name)
    reference = next(iter(ready.values())) if teacher else None
    settings = {
        **{f"{name}_sha256": digest(each) for name, each in data.items()},
        "teacher": reference and reference.checkpoint.identity,
        "tasks": of_mteb and of_mteb.names,
        "seed": args.seed,
        **machine(),
    }
    measured = [model for slug, model in ready.items() if with_teacher or slug in named]
    return _Evaluation(args, measured, reference, of_mteb, settings)


def _result(model: EmbeddingModel, evaluation: _Evaluation) -> EmbeddingResult:
    """What an earlier run found, or else what is measured now and kept."""
    result, record = evaluation.earlier(model), evaluation.record(model)
    note = f"finished before, in {record}"
    if result is None:
        result = _measure(model, evaluation)
        content = {"settings": evaluation.settings, "weights": model.checkpoint.identity, "result": asdict(result)}
        write_text(record, json.dumps(content))
        note = f"measured in {result.seconds:.0f} s"
    name, value = next(iter((result.figures or result.tasks).items()))
    tqdm.write(f"{model.folder}: {name} {100 * value:.2f}, {note}", file=sys.stderr)
    return result


def _measure(model: EmbeddingModel, evaluation: _Evaluation) -> EmbeddingResult:
    start = time.perf_counter()
    teacher = evaluation.teacher
    encoder = model.encoder
    dimension = encoder.encode("a text").shape[-1]
    timed = evenly_spread(_texts(model.data), _TIMED_TEXTS)
    milliseconds = milliseconds_in_turns([encoder.encode], timed)[0] if timed else None
    vectors, speed = model.vectors
    theirs, reason = None, None
    if teacher and teacher is not model and model.data:
        theirs, _ = teacher.vectors
        size = next(iter(theirs.values()))[0].shape[1]
        if size != dimension:
            theirs, reason = None, f"its vectors have {dimension} numbers, the teacher's {size}"
    found = figures_of(model.data, vectors, theirs, evaluation.args.seed)
    result = EmbeddingResult(
        name=model.checkpoint.name,
        is_teacher=model is teacher,
        mean_pooled=model.mean_pooled,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        bytes=model.checkpoint.bytes,
        dimension=dimension,
        longest=encoder.max_seq_length,
        data=described(model.data),
        figures={name: each.value for name, each in found.items()},
        resampled={name: each.resampled for name, each in found.items()},
        tasks=evaluation.tasks.run(encoder) if evaluation.tasks else {},
        not_compared=reason,
        milliseconds_per_text=milliseconds and milliseconds.median,
        milliseconds_first_quartile=milliseconds and milliseconds.first_quartile,
        milliseconds_third_quartile=milliseconds and milliseconds.third_quartile,
        texts_per_second=speed if model.data else None,
        threads=torch.get_num_threads(),
        device=str(encoder.device),
        seconds=time.perf_counter() - start,
    )
    del model.encoder
    if model is not teacher:
        del model.vectors  # the teacher's are held against those of the next one
    return result


def _texts(data: Data) -> list[str]:
    return [text for each in data.values() for side in each.sides for text in side]
