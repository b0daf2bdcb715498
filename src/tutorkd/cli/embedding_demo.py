"""``tutorkd demo --embedding``: an embedding model into a smaller one, and what came of it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tutorkd import demo_data
from tutorkd.evaluation.arguments import parser as evaluation_parser
from tutorkd.evaluation.embedding_models import evaluate_embeddings
from tutorkd.evaluation.embedding_report import EmbeddingResult, embedding_columns, summary
from tutorkd.files import write_json
from tutorkd.pretraining.distill_arguments import INITIAL_STUDENT, read_distillation
from tutorkd.pretraining.distillation import distill, estimated_seconds
from tutorkd.run_folder import lacking
from tutorkd.tables import show
from tutorkd.words import duration

REAL_THING = (
    "tutorkd distill --config embedding --teacher BAAI/bge-base-en-v1.5 --corpus wikimedia/wikipedia:20231101.en"
)
_NAMES = ["teacher", "student", "same student, not distilled"]


def demo_embedding(
    console: Console, out: Path, model: str | None, reviews: str | None, recipe: Mapping[str, Any], where: str
) -> None:
    """Run the stages that aren't finished, and the summary.

    Students are measured on held-out reviews without any label: the first sentence of each is to find the rest of it.

    Args:
        out: folder for models and results.
        model: the teacher's Hub name or path; by default the package's.
        reviews: csv of columns text, label, source; by default the package's.
        recipe: a section for each stage; ``restart`` among their keys runs finished ones again.
        where: what the recipe is called in messages.

    Raises:
        UserError: what the stages raise, and if a package isn't there.
    """
    teacher = model or str(demo_data.encoder_folder())
    data = demo_data.split_beginnings(demo_data.reviews_file(reviews), out / "data")
    student = out / "student"
    settings = {"teacher": teacher, "corpus": [str(data["text"])], "output_dir": str(student)}
    distillation = read_distillation(
        [], {**recipe["distill"], **settings, "save_initial_student": True}, f"{where}, stage distill"
    )
    models = [str(student), str(student / INITIAL_STUDENT)]
    filled = {"models": models, "teacher": teacher, "retrieval": str(data["beginnings"])}
    args, _, language, embedding = evaluation_parser().read(
        [],
        {**recipe["evaluate"], **filled, "output_dir": str(out / "evaluation")},
        f"{where}, stage evaluate",
    )
    console.print("[bold]Embedding demo[/]: an embedding model, a smaller student, a comparison.")
    if lacking(student) is not None:
        console.print(f"  distill   about {duration(estimated_seconds(distillation))} on this machine")
    started = time.perf_counter()
    console.rule("1. distill: the student learns the teacher's vectors of sentences")
    distill(distillation)
    console.rule("2. evaluate: the first sentence of a held-out review has to find the rest of it")
    results = evaluate_embeddings(models, args, language.teacher, embedding)
    results = [replace(result, name=name, is_teacher=False) for result, name in zip(results, _NAMES, strict=True)]
    console.rule("3. summary")
    show(embedding_columns(results).table(), console)
    console.print(_verdict(*results))
    write_json(out / "summary.json", [summary(result) for result in results])
    console.print(f"This run took {duration(time.perf_counter() - started)}; models and figures are in {out}.")


def _verdict(teacher: EmbeddingResult, student: EmbeddingResult, undistilled: EmbeddingResult) -> str:
    """What the table says, in two sentences."""
    figure = next(iter(teacher.figures))
    of_teacher, of_student, of_undistilled = (100 * each.figures[figure] for each in (teacher, student, undistilled))
    return (
        f"The student has {student.parameters / teacher.parameters:.0%} of the teacher's parameters. Its {figure} is "
        f"{of_student:.1f}. The teacher has {of_teacher:.1f}, and the same student without distillation "
        f"{of_undistilled:.1f}."
    )
