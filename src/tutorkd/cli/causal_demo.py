"""``tutorkd demo --causal``: a causal teacher into a smaller student, and what came of it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForCausalLM

from tutorkd import demo_data
from tutorkd.evaluation.arguments import student_parser
from tutorkd.evaluation.checkpoint import save_checkpoint
from tutorkd.evaluation.language_models import evaluate_language_models
from tutorkd.evaluation.language_report import LanguageResult, language_columns
from tutorkd.examples import Example, tutor_examples
from tutorkd.files import write_json
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.objective import CAUSAL
from tutorkd.pretraining.distill_arguments import INITIAL_STUDENT, Distillation, read_distillation
from tutorkd.pretraining.distillation import distill, estimated_seconds, finished_trainer
from tutorkd.run_folder import lacking
from tutorkd.tables import show
from tutorkd.words import duration

REAL_THING = "tutorkd distill --teacher HuggingFaceTB/SmolLM2-360M --corpus HuggingFaceFW/fineweb-edu:sample-10BT"
EXAMPLES = 3
_SENTENCE = (80, 200)  # characters of an example


def demo_causal(
    console: Console, out: Path, model: str | None, reviews: str | None, recipe: Mapping[str, Any], where: str
) -> list[Example]:
    """Run the stages that aren't finished, and the summary; returns what the tutor wrote, to be shown.

    Args:
        out: folder for models and results.
        model: the teacher's Hub name or path; by default the package's.
        reviews: csv of columns text, label, source; by default the package's.
        recipe: a section for each stage; ``restart`` among their keys runs finished ones again.
        where: what the recipe is called in messages.

    Raises:
        UserError: what the stages raise, and if a package isn't there.
    """
    data = demo_data.split_text(demo_data.reviews_file(reviews), out / "data")
    teacher, student = _unpacked(model or str(demo_data.teacher_file()), out / "teacher"), out / "student"
    initial = student / INITIAL_STUDENT
    distillation = read_distillation(
        [],
        {
            **recipe["distill"],
            "teacher": str(teacher),
            "corpus": [str(data["text"])],
            "save_initial_student": True,
            "output_dir": str(student),
        },
        f"{where}, stage distill",
    )
    models = [str(student), str(initial)]
    filled = {"models": models, "teacher": str(teacher), "text": [str(data["heldout"])]}
    folder = {"output_dir": str(out / "evaluation")}
    args, language = student_parser().read([], {**recipe["evaluate"], **filled, **folder}, f"{where}, stage evaluate")
    console.print("[bold]Tutor-KD demo[/]: a causal teacher, a smaller student, a comparison.")
    if lacking(student) is not None:
        console.print(f"  distill   about {duration(estimated_seconds(distillation))} on this machine")
    started = time.perf_counter()
    console.rule("1. distill: the teacher teaches a smaller student")
    distill(distillation)
    console.rule("2. evaluate: how well they predict reviews that none of them was trained on, and how fast they write")
    results = _named(evaluate_language_models(models, args, language))
    console.rule("3. summary")
    told = [replace(result, is_teacher=False) for result in results]  # which the names say
    show(language_columns(told, args, language).table(), console)
    console.print(_verdict(*results))
    write_json(out / "summary.json", [asdict(result) for result in results])
    examples = _examples(distillation, data["heldout"])
    console.print(f"This run took {duration(time.perf_counter() - started)}; models and figures are in {out}.")
    return examples


def _unpacked(name: str, folder: Path) -> Path:
    """The teacher in a folder of safetensors: a GGUF file is unpacked once, which takes half a minute."""
    if not name.lower().endswith(".gguf"):
        return Path(name)
    if not (folder / "config.json").is_file():
        tokenizer = load_tokenizer(name, "teacher", needed=CAUSAL.special_tokens)
        model, _ = load_model(AutoModelForCausalLM, name, "teacher")
        save_checkpoint(model, tokenizer, folder)
    return folder


def _named(results: list[LanguageResult]) -> list[LanguageResult]:
    names = ["teacher", "student", "same student, not distilled"]
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def _verdict(teacher: LanguageResult, student: LanguageResult, undistilled: LanguageResult) -> str:
    """What the table says, in two sentences."""
    return (
        f"The student has {student.parameters / teacher.parameters:.0%} of the teacher's parameters and a perplexity "
        f"of {student.perplexity:,.1f}. The teacher has {teacher.perplexity:,.1f}, and the same student without "
        f"distillation {undistilled.perplexity:,.1f}."
    )


def _examples(options: Distillation, heldout: Path) -> list[Example]:
    """What the tutor does to some sentences, where one learns."""
    if options.args.method != "tutor-kd":
        return []
    sentences = demo_data.sentences(heldout, *_SENTENCE, EXAMPLES)
    return tutor_examples(finished_trainer(options), sentences)
