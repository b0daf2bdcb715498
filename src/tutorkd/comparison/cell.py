"""One cell, from its student's first step to its result."""

import filecmp
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tutorkd.checkpoints import defect
from tutorkd.comparison.bench import step_cost
from tutorkd.comparison.matrix import LOG_TYPE, RESULT_FILE, STUDENT_FOLDER, Cell, is_log
from tutorkd.errors import UserError
from tutorkd.files import stored_result, write_json, writing, written_whole
from tutorkd.hub import quiet_transformers
from tutorkd.locks import held
from tutorkd.objective import EMBEDDING
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.pretraining.distillation import distill, prepare
from tutorkd.pretraining.run import Prepared
from tutorkd.pretraining.training import ready_trainer
from tutorkd.run_folder import FINISHED_FILE
from tutorkd.runtime import describe


def run_cell(cell: Cell) -> dict[str, Any]:
    """Distil, and measure what training cost and gave; goes on where an earlier run stopped. Returns the cell's result.

    Raises:
        UserError: what the stages raise, or if another process is at the cell.
        Interrupted: if training was stopped by a signal.
    """
    with held(cell.folder):
        if cell.result is None:
            write_json(cell.folder / RESULT_FILE, _result(cell))
    assert cell.result is not None
    return cell.result


def _result(cell: Cell) -> dict[str, Any]:
    training: dict[str, Any] = {}
    on_the_way: dict[str, Any] = {}
    if cell.kind == "teacher":
        model = cell.distill.args.teacher
    elif cell.kind == "undistilled":
        model = _save_undistilled(cell)
    else:
        model = str(distill(cell.distill))
        training = _training(cell)
        for step in cell.steps_on_the_way:
            flops = training["flops"] * step / training["steps"]
            evaluation = cell.measures.evaluate(_student_after(step, cell), cell.evaluate)
            on_the_way[str(step)] = {"flops": flops, "evaluation": evaluation}
    return {
        "kind": cell.kind,
        "variant": cell.variant,
        "student": cell.student,
        "seed": cell.seed,
        "settings": cell.settings,
        "machine": describe(),
        "training": training,
        "on_the_way": on_the_way,
        "evaluation": cell.measures.evaluate(model, cell.evaluate),
    }


def _save_undistilled(cell: Cell) -> str:
    """The student as training would find it, with its head where that is measured."""
    if cell.distill.objective is EMBEDDING:
        return _save_undistilled_embedding(cell)
    prepared = prepare(cell.distill)
    print("\n".join(prepared.lines))
    student = _ready(cell.distill, prepared).saved_model
    folder = cell.folder / STUDENT_FOLDER
    with writing(folder), quiet_transformers(), written_whole(folder) as scratch:
        saved = student if cell.measures.with_head else cast(PreTrainedModel, student.base_model)
        saved.save_pretrained(scratch)
        prepared.tokenizer.save_pretrained(scratch)
        for file in list(scratch.iterdir()):
            there = folder / file.name
            if there.is_file() and filecmp.cmp(file, there, shallow=False):
                file.unlink()  # fine-tunings that know the one there by its time of change go on to count
    return str(folder)


def _ready(options: Distillation, prepared: Prepared) -> Any:
    """The trainer, with the text."""
    corpus = options.text.load(prepared.tokenizer, prepared.objective, prepared.texts)
    return ready_trainer(prepared.make, options.config, *prepared.rows(corpus))


def _save_undistilled_embedding(cell: Cell) -> str:
    """The same of an embedding model, with what follows its body: a dense layer there finds its start in the text."""
    options = cell.distill
    prepared = prepare(replace(options, args=replace(options.args, save_initial_student=True)))
    print("\n".join(prepared.lines))
    _ready(options, prepared)
    folder = cell.folder / STUDENT_FOLDER
    assert prepared.initial_student is not None
    with writing(folder), quiet_transformers(), written_whole(folder) as scratch:
        prepared.initial_student(scratch)
    return str(folder)


def _student_after(step: int, cell: Cell) -> str:
    """The student's folder after so many steps.

    Raises:
        UserError: if it wasn't kept.
    """
    folder = cell.folder / STUDENT_FOLDER / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    if not folder.is_dir() or defect(folder):
        raise UserError(
            f"{folder} isn't there, because the student was trained without these points; --restart trains it again"
        )
    return str(folder)


def _training(cell: Cell) -> dict[str, Any]:
    """What training cost, and its log.

    Returns:
        steps, tokens; seconds (sum over the log's windows, so that interruptions don't count); flops (floating-point
        operations of all matrix products, forward and backward); log (one mapping a log, with its step).
    """
    file = cell.folder / STUDENT_FOLDER / FINISHED_FILE
    state = stored_result(file, {"global_step": int, "log_history": LOG_TYPE})
    if state is None or not is_log(state["log_history"]):
        raise UserError(f"{file} is damaged, so what training cost isn't known; --restart runs the cell again")
    cost = step_cost(cell.distill)
    steps, log = state["global_step"], state["log_history"]
    return {
        "steps": steps,
        "tokens": steps * cost.tokens,
        "seconds": _seconds(log, steps, cost.tokens),
        "flops": steps * cost.flops,
        "log": log,
    }


def _seconds(log: list[dict[str, Any]], steps: int, tokens_a_step: int) -> float | None:
    """Seconds of all steps, looks at held-out text included; None where nothing was timed.

    A line says how many tokens a second were read; how many a step has, which of texts are fewer than there is room
    for, follows from the time that it says is left. Of the last line, behind which none is left, it is the mean.
    """
    windows: list[tuple[int, float]] = []
    sizes: list[float] = []
    before = 0
    for entry in log:
        if "loss" in entry:
            if "tokens_per_second" in entry:
                left = steps - entry["step"]
                if left > 0 and "seconds_left" in entry:
                    sizes.append(entry["tokens_per_second"] * entry["seconds_left"] / left)
                size = sizes[-1] if left > 0 and sizes else fmean(sizes or [tokens_a_step])
                windows.append((entry["step"] - before, size / entry["tokens_per_second"]))
            before = entry["step"]
    timed = sum(number for number, _ in windows)
    return sum(number * seconds for number, seconds in windows) * steps / timed if timed else None
