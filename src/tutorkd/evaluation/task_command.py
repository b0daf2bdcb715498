"""What ``tutorkd distill-task`` does: student, export and a table of the three."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from tutorkd.evaluation.classification import timed_sentences
from tutorkd.evaluation.classifier import Classifier, load_trained
from tutorkd.evaluation.cost import milliseconds_per_sentence
from tutorkd.evaluation.labelled import labels_of, text_columns
from tutorkd.evaluation.metrics import METRICS, agreement, answers_of, scores_of, standard_error_of
from tutorkd.evaluation.records import going_on
from tutorkd.evaluation.soft_target_arguments import SoftTargetWeights
from tutorkd.evaluation.task_arguments import TaskStudentArguments
from tutorkd.evaluation.task_distillation import TaskDistillation, prepare, train_student
from tutorkd.evaluation.task_first_stage import first_stage
from tutorkd.evaluation.task_plan import task_plan
from tutorkd.files import stored_result, write_results
from tutorkd.locks import held
from tutorkd.pretraining.distillation import distill
from tutorkd.runtime import describe
from tutorkd.tables import aligned, facts, fitted


@dataclass(frozen=True)
class Measured:
    """One model's figures on the validation rows.

    Attributes:
        bytes: of its weights on disk.
        scores: of its answers.
        standard_error: of the accuracy; None without one.
        agreement: with the teacher's answers, at most 1.
        milliseconds: median time of a row, from its text to the answer.
    """

    name: str
    parameters: int
    bytes: int
    scores: dict[str, float]
    standard_error: float | None
    agreement: float
    milliseconds: float


def distill_task(args: TaskStudentArguments, weights: SoftTargetWeights, section: Any = None) -> None:
    """Make what isn't finished of student and export, and write the table; or print what that would be.

    Args:
        section: ``first_stage`` of the recipe, as ``first_stage`` takes it.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM.
        UserError: what ``first_stage``, ``prepare``, ``train_student`` and ``export`` raise.
    """
    task = prepare(args, weights, first_stage(args, weights, section))
    if args.dry_run:
        if task.first is not None:
            distill(task.first)  # whose options say that it is to print its plan alone
            print()
        print(facts(task_plan(task)))
        return
    with going_on(args.restart), held(Path(args.output_dir)):
        if task.finished():
            print(f"the student is finished, in {task.folder}")
        else:
            train_student(task)
        exported = _export(task)
        measured = _measure(task, exported)
    text = _table(task, measured)
    out = Path(args.output_dir)
    summary = {"settings": task.settings, "machine": describe(), "models": [asdict(each) for each in measured]}
    write_results(out, summary, text)
    print(f"\n{fitted(text)}\nwritten to {out}: student, student/onnx, results.md, results.json")


def _export(task: TaskDistillation) -> Classifier:
    """The student's int8 file, which is made unless it stands there."""
    from tutorkd.export.arguments import SHORTEST, ExportArguments  # whose dependencies are an extra
    from tutorkd.export.classifier import OnnxClassifier
    from tutorkd.export.exporter import INT8, ONNX_FOLDER, RECORD_FILE, export

    folder, args = task.folder / ONNX_FOLDER, task.args
    types = {"inputs": list[str], "files": list[Any]}
    if stored_result(folder / RECORD_FILE, types) is None or not (folder / INT8).is_file():
        told = ExportArguments(
            model=str(task.folder),
            output_dir=str(task.folder),
            texts=None if task.classifier.problem == "token_classification" else args.validation,
            text_column=args.text_column,
            max_length=max(args.max_length, SHORTEST),
        )
        export(told)
    record = stored_result(folder / RECORD_FILE, types)
    assert record is not None
    student = load_trained(str(task.folder), "student")
    model = OnnxClassifier(folder / INT8, record["inputs"], student.model.config)
    return replace(student, name="student, int8", model=cast(PreTrainedModel, model))


def _measure(task: TaskDistillation, exported: Classifier) -> list[Measured]:
    """Teacher, student and the exported student on the same rows."""
    from tutorkd.export.exporter import INT8, ONNX_FOLDER

    teacher, student = task.classifier, load_trained(str(task.folder), "student")
    models = {"teacher": teacher, "student": student, exported.name: exported}
    sizes = [
        task.teacher.checkpoint.bytes,
        sum(file.stat().st_size for file in task.folder.glob("*.safetensors")),
        (task.folder / ONNX_FOLDER / INT8).stat().st_size,
    ]
    parameters = [teacher.model.num_parameters(), *[student.model.num_parameters()] * 2]
    problem, rows, length = teacher.problem, task.validation, task.args.max_length
    answers = [answers_of(problem, each.logits(*text_columns(rows), max_length=length)) for each in models.values()]
    scores = [scores_of(problem, teacher.class_names, labels_of(rows), each) for each in answers]
    took = milliseconds_per_sentence(
        [(each.model, each.tokenizer) for each in models.values()], timed_sentences(rows), length
    )
    return [
        Measured(
            name,
            parameters[number],
            sizes[number],
            scores[number],
            standard_error_of(scores[number], len(rows)),
            agreement(problem, answers[0], answers[number]),
            took[number].median,
        )
        for number, name in enumerate(models)
    ]


def _table(task: TaskDistillation, measured: Sequence[Measured]) -> str:
    titles = METRICS[task.classifier.problem]
    headings = ["model", "parameters", "size", *(f"{title} %" for title in titles.values()), "same as teacher %"]
    lines = [
        [
            each.name,
            f"{each.parameters / 1e6:.1f} M",
            f"{each.bytes / 1e6:.1f} MB",
            *_scores(each, list(titles)),
            "-" if each is measured[0] else f"{100 * each.agreement:.1f}",
            f"{each.milliseconds:.2f}",
        ]
        for each in measured
    ]
    rows = f"{len(task.train):,} labelled rows" if len(task.train) else "no labels"
    more = f" and {len(task.unlabelled):,} rows without" if task.unlabelled else ""
    error = ", accuracy ± its standard error" if any(each.standard_error is not None for each in measured) else ""
    notes = (
        f"On {len(task.validation):,} rows{error}; the student learned from {rows}{more}. Same as teacher: the share "
        "of equal answers or, for numbers, their Spearman correlation. Time: median of one row at a time, from its "
        f"text to the answer, {task.classifier.model.device}, int8 on the processor, threads: "
        f"{torch.get_num_threads()}."
    )
    return f"{aligned([*headings, 'ms a row'], lines, words=1)}\n\n{notes}\n"


def _scores(found: Measured, names: Sequence[str]) -> list[str]:
    """The scores in percent; the first of them, where that is an accuracy, with its standard error."""
    first, *others = (f"{100 * found.scores[name]:.1f}" for name in names)
    error = "" if found.standard_error is None else f" ± {100 * found.standard_error:.1f}"
    return [f"{first}{error}", *others]
