"""Folders as the commands leave them, for reports: results by hand, tables by the commands' own functions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import yaml
from safetensors.numpy import save_file

from tutorkd.comparison import report as comparison_report
from tutorkd.evaluation.report import EvaluationResult, markdown_table
from tutorkd.files import write_text
from tutorkd.glue import report as glue_report
from tutorkd.glue.tasks import TASKS

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(2)>"
HOSTILE_MODEL = HOSTILE.replace("/", "")  # of the name of a model the last part is shown, as of a path
LOG: list[dict[str, Any]] = [
    {
        "step": step,
        "loss": 8.0 / step,
        "loss_policy": 0.5 - step / 10,
        "reward_teacher": -0.1 * step,
        "tokens_per_second": 100.0 * step,
        "learning_rate": 5e-4,
        "epoch": 0.1,
        "seconds_left": 3.0,
    }
    for step in range(1, 11)
] + [{"step": 10, "eval_probe_auc": 0.75, "eval_runtime": 1.0}, {"step": 10, "train_runtime": 9.0}]


def write_run(folder: Path, finished: bool = True, log: list[dict[str, Any]] = LOG, **settings: Any) -> Path:
    """A run of Tutor-KD in ten steps of 20, or one that was finished at its tenth."""
    noted = {"method": "tutor-kd", "teacher": "org/teacher", "student": "thin", "max_steps": 10, "learning_rate": 5e-4}
    write_text(folder / "run.yaml", yaml.safe_dump({**noted, **settings}))
    state = {"global_step": 10, "max_steps": 10 if finished else 20, "log_history": log}
    place = folder if finished else folder / "checkpoint-10"
    write_text(place / "trainer_state.json", json.dumps(state))
    if finished:
        save_file(
            {"a": numpy.zeros((300, 1000), "float32"), "b": numpy.zeros(7, "float32")}, folder / "model.safetensors"
        )
    return folder


def row(variant: str, kind: str = "distilled", score: str = "accuracy", **figures: float) -> dict[str, Any]:
    """A variant's means over two seeds; deviations are 0.01."""
    spread = {name: {"mean": value, "sd": 0.01, "n": 2} for name, value in figures.items()}
    student = "" if kind == "teacher" else "half"
    told = {"kind": kind, "variant": variant, "student": student, "seeds": [0, 1], "failed": {}}
    return {**told, "figures": spread, "curve": []}


def write_comparison(folder: Path, names: tuple[str, str] = ("plain", "costly")) -> Path:
    """Two variants and a teacher; accuracies 0.8, 0.9 and 0.95, costs 1 and 2 TFLOP."""
    plain, costly = names
    rows = [
        row("teacher", "teacher", accuracy=0.95, macro_f1=0.9, parameters=2e6, milliseconds_per_sentence=9.0),
        row(plain, accuracy=0.8, macro_f1=0.8, parameters=1e6, training_flops=1e12, training_seconds=605.0),
        row(costly, accuracy=0.9, macro_f1=0.7, parameters=1e6, training_flops=2e12, training_seconds=90.0),
    ]
    evaluation = evaluation_result("student", 0.8).as_record()
    cells = [
        {
            **{"name": f"{name}-half-seed{seed}", "variant": name, "student": "half"},
            **{"figures": {"training_steps": 4}, "evaluation": evaluation},
        }
        for name in names
        for seed in (0, 1)
    ]
    summary = {"rows": rows, "cells": cells, "baseline": plain, "paired": []}
    write_text(folder / "results.json", json.dumps(summary))
    write_text(folder / "results.md", comparison_report.markdown(summary))
    write_text(folder / "recipe.yaml", yaml.safe_dump({"common": {"teacher": "org/teacher"}, "variants": list(names)}))
    for cell in cells:
        log = [{"step": step, "loss": step + float(cell["name"][-1])} for step in (1, 2)]
        settings = {"kind": "distilled", "distill": {}, "evaluate": {}}
        result = {"settings": settings, "training": {"log": log}, "evaluation": {}}
        number = cells.index(cell)
        write_text(folder / "cells" / f"cell{number}" / "result.json", json.dumps(result))
        cell["name"] = f"cell{number}"
    write_text(folder / "results.json", json.dumps(summary))
    return folder


def evaluation_result(name: str, accuracy: float, seed: int | None = None) -> EvaluationResult:
    """A model of 1.5 M parameters with a standard error of 0.02."""
    scores = {"accuracy": accuracy, "macro_f1": accuracy}
    result = EvaluationResult(name, 1_500_000, 6_000_000, scores, 0.02, 10, 100, 2.0, 1.5, 3.0, None, 1, "cpu", 4.0)
    return replace(result, seed=seed)


def write_evaluation(folder: Path, names: tuple[str, ...] = ("teacher", "student")) -> Path:
    """Models with accuracies of 0.9, 0.8 and so on."""
    return write_results(folder, [evaluation_result(name, 0.9 - number / 10) for number, name in enumerate(names)])


def write_results(folder: Path, results: list[EvaluationResult]) -> Path:
    """An evaluation of these results."""
    settings = {"train": "train.csv", "validation": "test set.csv", "max_length": 48, "seed": 42, "device": "cpu"}
    told = {"settings": settings, "results": [result.as_record() for result in results]}
    write_text(folder / "results.json", json.dumps(told))
    write_text(folder / "results.md", markdown_table(results))
    return folder


def write_glue(folder: Path, title: str = "student") -> Path:
    """A student and its teacher on CoLA; medians 0.4 and 0.5 of three seeds, between 0.3 and 0.6."""
    models = [_glue_model(title, 0.4, is_teacher=False), _glue_model("teacher", 0.5, is_teacher=True)]
    summary = {
        "settings": {"tasks": ["cola"], "teacher": "teacher", "fast": True, "output_dir": "elsewhere"},
        "machine": {"torch": "2.13.0", "processor": "a processor"},
        "models": models,
        "single_answer": {"cola": {"matthews": 0.0}},
        "published": {"source": "a paper", "rows": []},
    }
    write_text(folder / "results.json", json.dumps(summary))
    write_text(folder / "results.md", glue_report.markdown(summary))
    return folder


def _glue_model(title: str, median: float, is_teacher: bool) -> dict[str, Any]:
    spread = {"median": median, "mean": median, "sd": 0.1, "min": 0.3, "max": 0.6, "n": 3}
    task = {
        "setting": "lr 5e-05, batch 32, epochs 3",
        "figures": {"matthews": {**spread, "seeds": {}, "best_of_all_runs": 0.6}},
        **{"settings": 1, "runs": 3, "finished_runs": 3, "failed": {}, "train_rows": 8551, "train_seconds": 30.0},
        **{"validation_rows": {"validation": 1043}, "official_rows": TASKS["cola"].official_rows},
        **{"max_length": 64, "parameters": 1_500_000, "device": "cpu", "threads": 1},
    }
    average = {"value": median, "tasks": ["cola"], "all": False}
    return {
        **{"name": f"models/{title}", "title": title, "layers": 3, "hidden_size": 8, "is_teacher": is_teacher},
        **{"tasks": {"cola": task}, "averages": {"paper": average, "glue": average}},
    }
