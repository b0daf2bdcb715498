"""What the runs will take, before any of them is made."""

from collections.abc import Sequence

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from transformers import AutoConfig, AutoModel, PreTrainedModel

from tutorkd.evaluation.cost import fine_tuning_seconds, mean_length
from tutorkd.glue.report import part_of
from tutorkd.glue.runs import Unit
from tutorkd.hub import CLASSIFICATION, load_tokenizer
from tutorkd.words import duration

_FORWARD = 1 / 3  # of a step's time
_GRID = {
    "learning rates": "learning_rate",
    "batch sizes": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "seeds": "seed",
}


def plan(units: Sequence[Unit]) -> tuple[Table, str]:
    """Each unit with its runs and the time that those to be made would take; in lines, of which grid they are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model and task", no_wrap=True)
    for heading in ("training rows", "settings", "seeds", "runs", "finished", "time left"):
        table.add_column(heading, justify="right", no_wrap=True)
    models: dict[str, PreTrainedModel] = {}
    total = 0.0
    for unit in units:
        if unit.checkpoint.slug not in models:
            config = AutoConfig.from_pretrained(unit.checkpoint.folder)
            # In the number format that it is fine-tuned in, not in the checkpoint's.
            models[unit.checkpoint.slug] = AutoModel.from_config(config, dtype=torch.float32)
        seconds = seconds_to_go(unit, models[unit.checkpoint.slug])
        total += seconds
        settings = {run.setting for run in unit.runs}
        finished = sum(run.result is not None for run in unit.runs)
        used = len(unit.rows.train)
        rows = part_of(used, unit.task.official_rows["train"]) or f"{used:,}"
        figures = (len(settings), len(unit.runs) // len(settings), len(unit.runs), finished)
        table.add_row(Text(unit.name), rows, *(f"{figure:,}" for figure in figures), duration(seconds))
    lines = []
    for words, name in _GRID.items():
        values = dict.fromkeys(getattr(run.settings, name) for unit in units for run in unit.runs)
        lines.append(f"{words:<15}{', '.join(f'{value:g}' for value in values)}")
    runs = sum(len(unit.runs) for unit in units)
    lines.append(
        f"runs           {runs:,}, about {duration(total)} left on this machine, if they run one at a time; each model "
        "and task takes some seconds more to start"
    )
    return table, "\n".join(lines)


def seconds_to_go(unit: Unit, model: PreTrainedModel) -> float:
    """Seconds of the runs that aren't finished, from timing a step for each batch size at the rows' mean length."""
    tokenizer = load_tokenizer(unit.checkpoint.folder, "model", needed=CLASSIFICATION)
    length = mean_length(unit.rows.train, tokenizer, unit.settings[0].max_length)
    validation = _FORWARD * sum(map(len, unit.rows.validation.values()))
    a_row: dict[int, float] = {}
    total = 0.0
    for run in unit.runs:
        if run.result is not None:
            continue
        batch, epochs = run.settings.per_device_train_batch_size, run.settings.num_train_epochs
        if batch not in a_row:
            used = len(unit.rows.train)
            a_row[batch] = fine_tuning_seconds(model, used, length, run.settings) / (epochs * used)
        total += a_row[batch] * (epochs * unit.rows_read + validation)
    return total
