"""``tutorkd demo``: all stages on data that come with two packages."""

import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel, TrainingArguments, set_seed

from tutorkd import demo_data
from tutorkd.cli import causal_demo, embedding_demo
from tutorkd.cli.demo_arguments import STAGES, STAGES_OF_TEACHER, DemoArguments
from tutorkd.cost import seconds_a_step
from tutorkd.errors import UnknownKey, UserError
from tutorkd.evaluation import arguments
from tutorkd.evaluation.arguments import EvaluateArguments
from tutorkd.evaluation.classification import evaluate_models
from tutorkd.evaluation.cost import fine_tuning_seconds
from tutorkd.evaluation.labelled import load_labelled
from tutorkd.evaluation.report import EvaluationResult, results_table
from tutorkd.examples import Example, tutor_examples
from tutorkd.files import write_json
from tutorkd.hub import load_tokenizer, loading
from tutorkd.locks import held
from tutorkd.methods import AUTO, METHODS, named_method
from tutorkd.objective import MASKED
from tutorkd.options.recipes import load_recipe
from tutorkd.pretraining.adapt_arguments import Adaptation, read_adaptation
from tutorkd.pretraining.adaptation import adapt
from tutorkd.pretraining.distill_arguments import INITIAL_STUDENT, Distillation, read_distillation
from tutorkd.pretraining.distillation import distill, finished_trainer, make_student, trainer_of
from tutorkd.pretraining.fabricated import on_fabricated_rows
from tutorkd.run_folder import lacking
from tutorkd.tables import show
from tutorkd.teacher import Teacher
from tutorkd.trainer import MaskedLMTrainer
from tutorkd.words import duration

REAL_THING = (
    "tutorkd distill --teacher google-bert/bert-base-uncased --method minilm-v2 "
    "--corpus wikimedia/wikipedia:20231101.en"
)
_LEGEND = (
    "a^T: how likely the teacher finds the new word compared with the original one, at most 1; a^S: the student's "
    "estimate of a^T. R_T: how much the teacher prefers the original word once it reads the new sentence; R_S: how far "
    "a^S is from a^T. The tutor is rewarded with R_T + R_S."
)
EXAMPLES = 5
WIDTH = 110  # columns, where the output isn't a terminal that says its own


class Stages(NamedTuple):
    """The options of each stage."""

    adapt: Adaptation
    distills: dict[str, Distillation]  # by stage: distill and, if the recipe has it, beside
    evaluate: EvaluateArguments


def demo(args: DemoArguments) -> None:
    """Run the stages that aren't finished, and the summary.

    Raises:
        UserError: what the stages raise.
    """
    if args.causal and args.embedding:
        raise UserError("--causal and --embedding are two demos: give one of them")
    of_teacher = args.causal or args.embedding
    other = "encoder" if of_teacher else "teacher"
    if getattr(args, other) is not None:
        raise UserError(f"--{other} is for the demo {'without' if of_teacher else 'with'} --causal or --embedding")
    kind = "-causal" if args.causal else "-embedding" if args.embedding else ""
    name = args.config or f"demo{kind}"
    stages = STAGES_OF_TEACHER if of_teacher else STAGES
    recipe = load_recipe(name, "demo")
    if unknown := set(recipe) - set(stages):
        message = f"the demo's recipe has no stage {min(unknown)!r}; there are {', '.join(stages)}"
        raise UnknownKey(message, name, recipe)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    with held(Path(args.output_dir)):
        (_demo_of_teacher if of_teacher else _demo)(console, args, recipe, name)
    real_thing = (causal_demo if args.causal else embedding_demo).REAL_THING if of_teacher else REAL_THING
    console.print(f"\nTo do this with a real teacher and your own text:\n\n    {real_thing}\n", soft_wrap=True)


def _demo_of_teacher(console: Console, args: DemoArguments, recipe: Mapping[str, Any], name: str) -> None:
    """A demo whose teacher is ready as it comes."""
    restart = {"restart": True} if args.restart else {}
    recipe = {stage: {**(recipe.get(stage) or {}), **restart} for stage in STAGES_OF_TEACHER}
    told = console, Path(args.output_dir), args.teacher, args.reviews, recipe, name
    if args.embedding:
        embedding_demo.demo_embedding(*told)
    elif examples := causal_demo.demo_causal(*told):
        _print_examples(console, examples, "replaced words only")


def _demo(console: Console, args: DemoArguments, recipe: Mapping[str, Any], name: str) -> None:
    out = Path(args.output_dir)
    encoder = args.encoder or str(demo_data.encoder_folder())
    data = demo_data.split_reviews(demo_data.reviews_file(args.reviews), out / "data")
    teacher = out / "teacher"
    restart = {"restart": True} if args.restart else {}
    text = {"corpus": [str(data["text"])]}
    told: dict[str, dict[str, Any]] = {stage: recipe.get(stage) or {} for stage in STAGES}
    taught = {"teacher": str(teacher), **text, **restart}
    first = {**told["distill"], **taught, "save_initial_student": True, "output_dir": str(out / "student")}
    distills = {"distill": first}
    if told["beside"]:
        beside = {**told["distill"], **told["beside"], **taught, "save_initial_student": False}
        method = named_method(beside.get("method", AUTO), MASKED)
        distills["beside"] = {**beside, "output_dir": str(out / f"student-{method}")}
    students = [settings["output_dir"] for settings in distills.values()]
    labelled = {"train": str(data["train"]), "validation": str(data["validation"])}
    settings = {
        "adapt": {**told["adapt"], "model": encoder, "output_dir": str(teacher), **text, **restart},
        **distills,
        "evaluate": {
            **told["evaluate"],
            "models": [str(teacher), *students, str(out / "student" / INITIAL_STUDENT)],
            **labelled,
            "output_dir": str(out / "evaluation"),
            **restart,
        },
    }
    stages = _stages(settings, name)
    numbers = count(1)

    def announce(title: str, *announced: str) -> None:
        console.rule(f"{next(numbers)}. {title}")
        for stage in announced:
            console.print(Text(_command_line(stage, settings[stage])), style="dim", soft_wrap=True)

    titles = [METHODS[options.args.method].title for options in stages.distills.values()]
    console.print("[bold]Distillation demo[/]: makes a teacher, distils it into students, and compares them.")
    estimate = _estimate(stages, encoder)
    for stage, seconds in estimate.items():
        console.print(f"  {stage:<9} about {duration(seconds)} on this machine")
    console.print(f"  in all    about {duration(sum(estimate.values()))}, if nothing else runs here")
    started = time.perf_counter()
    announce("adapt: an encoder becomes a teacher", "adapt")
    adapt(stages.adapt)
    for (stage, options), title in zip(stages.distills.items(), titles, strict=True):
        announce(f"distill: the teacher teaches a smaller student by {title}", stage)
        distill(options)
    announce("evaluate: teacher and students learn sentiment", "evaluate")
    results = evaluate_models(stages.evaluate.models, stages.evaluate)

    console.rule(f"{next(numbers)}. summary")
    names = ["teacher", *(f"{title} student" for title in titles), "same student, not distilled"]
    results = [dataclasses.replace(result, name=name) for result, name in zip(results, names, strict=True)]
    show(results_table(results), console)
    for title, result in zip(titles, results[1:-1], strict=True):
        console.print(_verdict(title, result, results[-1]))
    examples = [example for options in stages.distills.values() for example in _examples(options, data["validation"])]
    if examples:
        _print_examples(console, examples, "masked words only")
        console.print(_LEGEND, style="dim")
    write_json(out / "summary.json", [result.as_record() for result in results])
    console.print(f"This run took {duration(time.perf_counter() - started)}; models and figures are in {out}.")


def _stages(settings: Mapping[str, Mapping[str, Any]], config: str) -> Stages:
    """The options of each stage.

    Raises:
        UserError: for a key or value that a stage can't take.
    """
    where = {name: f"{config}, stage {name}" for name in STAGES}
    (evaluate,) = arguments.encoder_parser().read([], settings["evaluate"], where["evaluate"])
    return Stages(
        read_adaptation([], settings["adapt"], where["adapt"]),
        {
            name: read_distillation([], settings[name], where[name])
            for name in ("distill", "beside")
            if name in settings
        },
        evaluate,
    )


def _command_line(stage: str, settings: Mapping[str, Any]) -> str:
    flags = []
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{key}", *(shlex.quote(str(item)) for item in values)]
    return f"$ tutorkd {'distill' if stage == 'beside' else stage} {' '.join(flags)}"


def _estimate(stages: Stages, encoder: str) -> dict[str, float]:
    """Seconds of each stage, from timing one step of it."""
    adaptation = stages.adapt
    tokenizer = load_tokenizer(encoder, "encoder")
    set_seed(0)
    with loading(encoder, "encoder"):
        model = MASKED.model_class.from_pretrained(encoder, dtype=torch.float32)
    make = partial(MaskedLMTrainer, model, processing_class=tokenizer)
    with on_fabricated_rows(make, tokenizer, adaptation.config) as trainer:
        seconds = {"adapt": _left(adaptation.config, seconds_a_step(trainer, adaptation.text.max_length))}
    teacher = Teacher(model)
    students = []
    for name, options in stages.distills.items():
        args, config, head = options.args, options.config, options.settings.student_head
        pair = make_student(args, teacher, tokenizer, config.seed, head)
        make_distilling = trainer_of(options, pair._replace(sliced=False), tokenizer)
        with on_fabricated_rows(make_distilling, tokenizer, config) as trainer:
            seconds[name] = _left(config, seconds_a_step(trainer, options.text.max_length))
        students.append(pair.student)
    return {**seconds, "evaluate": _estimate_evaluation([model, *students, students[0]], stages.evaluate)}


def _left(config: TrainingArguments, seconds: float) -> float:
    """Seconds of training, where a step takes so many; none of a run that is finished."""
    return 0.0 if lacking(Path(str(config.output_dir))) is None else seconds * config.max_steps


def _estimate_evaluation(models: Sequence[PreTrainedModel], args: EvaluateArguments) -> float:
    """Seconds of fine-tuning these."""
    rows = len(load_labelled(args.train, "train", *args.labelled_columns))
    bodies = [cast(PreTrainedModel, model.base_model) for model in models]
    return sum(fine_tuning_seconds(body, rows, args.max_length // 2, args) for body in bodies)


def _verdict(title: str, student: EvaluationResult, undistilled: EvaluationResult) -> str:
    """What the table says about distillation, in a sentence, with how sure one can be of it."""
    points = 100 * (student.accuracy - undistilled.accuracy)
    error = 100 * math.hypot(*(each.standard_error or 0.0 for each in (student, undistilled)))
    side = f"{points:.1f} points ahead of" if points > 0 else f"{-points:.1f} points behind" if points else "level with"
    return (
        f"The {title} student is {side} the same student without distillation (standard error of the difference "
        f"about {error:.1f}, one seed)."
    )


def _examples(options: Distillation, validation: Path) -> list[Example]:
    """What the tutor does to some sentences; nothing where the student has no answer a^S to it."""
    if options.args.method != "tutor-kd" or options.settings.target != "modified-logit":
        return []
    rows = datasets.load_dataset("parquet", data_files=str(validation), split="train")
    sentences = [row for row in rows["text"] if 60 <= len(row) <= 120][:EXAMPLES]
    return tutor_examples(finished_trainer(options), sentences)


def _figure(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # which makes 0 of -0


def _print_examples(console: Console, examples: Sequence[Example], which: str) -> None:
    console.print(f"\n[bold]What the tutor did to {len(examples)} sentences[/] ({which})")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("original")
    table.add_column("tutor wrote")
    asked = any(word.answer is not None for example in examples for word in example.replacements)
    answer = ["student's\nanswer a^S"] if asked else []
    for heading in ("teacher's\nratio a^T", *answer, "reward\nR_T", "reward\nR_S"):
        table.add_column(heading, justify="right")
    for example in examples:
        table.add_section()
        table.add_row(Text(f"“{example.sentence}”", style="italic"))
        for word in example.replacements:
            answers = [] if word.answer is None else [word.answer]
            figures = (word.ratio, *answers, word.reward_teacher, word.reward_student)
            table.add_row(Text(f"  {word.original}"), Text(word.replacement), *map(_figure, figures))
    show(table, console)
