"""Running commands of tutorkd in this process, on tiny data."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
import yaml
from transformers import PreTrainedModel

from tutorkd import functional
from tutorkd.cli.main import main

# A run of a second: 4 steps of 4 rows of 16 tokens, a line of the log for each.
SHORT = [
    *("--max_length", "16", "--max_steps", "4", "--per_device_train_batch_size", "4"),
    *("--logging_steps", "1", "--eval_steps", "2", "--save_steps", "2"),
]


def save(model: PreTrainedModel, folder: Path) -> str:
    """Save a model with the tiny tokenizer; returns its path as a flag's value."""
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def save_causal(model: PreTrainedModel, folder: Path) -> str:
    """The same of a causal one, with its tokenizer."""
    model.save_pretrained(folder)
    tiny.causal_tokenizer().save_pretrained(folder)
    return str(folder)


def save_classifier(kind: Any, folder: Path, names: Sequence[str], seed: int = 0, **changes) -> str:
    """A classifier of these classes at random, of an auto class of transformers, saved with the tiny tokenizer."""
    torch.manual_seed(seed)
    ids = {"id2label": dict(enumerate(names)), "label2id": {name: code for code, name in enumerate(names)}}
    return save(kind.from_config(tiny.config("bert", initializer_range=0.2, **ids | changes)), folder)


def write_rows(path: Path, rows: Iterable[Any]) -> str:
    """JSON lines; returns their path as a flag's value."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@contextmanager
def edited(file: Path) -> Iterator[Any]:
    """Within, what a JSON file holds; what is changed of it is written at the end."""
    content = json.loads(file.read_text(encoding="utf-8"))
    yield content
    file.write_text(json.dumps(content), encoding="utf-8")


def set_json(file: Path, **values) -> None:
    """Give keys of a JSON file other values."""
    with edited(file) as content:
        content |= values


def save_corpus(path: Path) -> str:
    """Sixty documents, blank-line separated."""
    path.write_text("\n\n".join(tiny.documents()), encoding="utf-8")
    return str(path)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for another, which finds the same packages, tests and sources."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}


def by_tutor_kd(teacher: str | Path, corpus: str | Path, out: str | Path, *more: str) -> list[str]:
    """``tutorkd distill`` by Tutor-KD into a folder."""
    given = ["--teacher", str(teacher), "--corpus", str(corpus), "--output_dir", str(out)]
    return ["distill", "--method", "tutor-kd", *given, *more]


def compare(recipe: Mapping[str, Any], *flags: str, **changes) -> list[str]:
    """``tutorkd compare`` on a recipe with sections changed, or keys of one; None takes a key away."""
    changed = dict(recipe)
    for section, value in changes.items():
        merged = {**changed.get(section, {}), **value} if isinstance(value, dict) else value
        changed[section] = {k: v for k, v in merged.items() if v is not None} if isinstance(value, dict) else value
    Path("recipe.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    return ["compare", "recipe.yaml", "--output_dir", "out", *flags]


def complete(*argv: str) -> None:
    """Run a command that must end well."""
    assert main(list(argv)) == 0


def fail(capfd, *argv: str) -> str:
    """Run a command that must end with one line on stderr and exit code 2; returns the line without its beginning."""
    capfd.readouterr()
    assert main(list(argv)) == 2
    (line,) = lines_of(capfd.readouterr().err)
    assert line.startswith("tutorkd: error: ")
    return line.removeprefix("tutorkd: error: ")


def run_here(ran: list[str], name: Callable[[Any], str]) -> Callable[..., dict[str, str]]:
    """In the place of ``run_processes``, each piece of work in this process: others take seconds to start.

    Args:
        ran: gets the name of each.
    """

    def run(items, command, jobs, tell=lambda item: ""):
        failed = {}
        for item in items:
            ran.append(name(item))
            _, *module = command(item)
            assert module[:2] == ["-m", "tutorkd.cli.main"]
            if main(module[2:]):
                failed[item.name] = "told above"
            print(f"{name(item)}{tell(item)}")
        return failed

    return run


def spoil(monkeypatch: pytest.MonkeyPatch, steps: Container[int]) -> None:
    """Let L_mod be NaN in these steps, counted from 1."""
    loss, calls = functional.modified_logit_loss, []

    def spoiled(*args):
        calls.append(None)
        return loss(*args) * (math.nan if len(calls) in steps else 1.0)

    monkeypatch.setattr(functional, "modified_logit_loss", spoiled)


def lines_of(stderr: str) -> list[str]:
    """Lines on stderr that aren't progress bars; a bar that isn't ended swallows the line behind it."""
    return [line for line in stderr.split("\n") if line.strip() and "\r" not in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All that a run trained: the model and, where there are any, the training heads."""
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {f"{file.stem}.{name}": value for file in files for name, value in safetensors.torch.load_file(file).items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not different


def assert_goes_on_exactly(command: list[str], folder: Path) -> None:
    """A run of an embedding student that lost its last step gives the weights of one that was never interrupted."""
    whole, parts = folder / "whole", folder / "parts"
    complete(*command, "--output_dir", str(whole))
    complete(*command, "--output_dir", str(parts))
    for name in ("trainer_state.json", "model.safetensors"):
        (parts / name).unlink()
    shutil.rmtree(parts / "checkpoint-4")
    complete(*command, "--output_dir", str(parts))
    for name in ("", "2_Dense"):
        assert_same(weights(parts / name), weights(whole / name))


def history(folder: Path) -> list[dict[str, float]]:
    """The log of a run, one entry a line."""
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
