"""`tutorkd compare` on causal language models: from a recipe to a table of distances from the teacher."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from commands import compare, complete, edited, fail, save_causal, save_corpus
from transformers import AutoModelForCausalLM

from tutorkd.comparison.matrix import RESULT_FILE, read_cells
from tutorkd.comparison.measures import CAUSAL_MODELS
from tutorkd.comparison.report import markdown, summarise
from tutorkd.comparison.score_plots import score_against_cost
from tutorkd.evaluation import language_models
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.language_models import evaluate_language_models, measuring_seconds
from tutorkd.files import write_text
from tutorkd.runtime import Quartiles
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher

RECIPE = {
    "common": {
        **{"teacher": "teacher", "corpus": ["text.txt"], "max_steps": 4, "max_length": 16, "bf16": False},
        **{"per_device_train_batch_size": 4, "logging_steps": 2, "eval_steps": 4, "save_steps": 4, "num_proc": 1},
    },
    "variants": [
        {"name": "tutor", "method": "tutor-kd", "window": 3, "replaced_share": 0.2},
        {"name": "reverse", "method": "kd", "divergence": "reverse-kl"},
    ],
    "students": ["half"],
    "evaluate": {"text": ["heldout.txt"], "max_length": 48, "prompts": 3, "prompt_length": 4, "new_tokens": 5},
}
OTHERS = ("prompts", "prompt_length", "new_tokens")
NAMES = ["teacher-seed0", "not-distilled-half-seed0", "tutor-half-seed0", "reverse-half-seed0"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Teacher, text and recipe, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    save_causal(tiny.tiny_causal(), tmp_path / "teacher")
    save_corpus(tmp_path / "text.txt")
    (tmp_path / "heldout.txt").write_text("\n\n".join(tiny.documents(6, seed=1)), encoding="utf-8")
    return tmp_path


_command = partial(compare, RECIPE)


def _evaluation(name):
    return json.loads(Path("out", "cells", name, RESULT_FILE).read_text())["evaluation"]


def test_students_are_held_against_the_teacher_and_references_stand_beside_them(here, in_process):
    complete(*_command())
    assert in_process == NAMES
    teacher, undistilled, tutor, reverse = map(_evaluation, NAMES)
    assert (teacher["is_teacher"], teacher["divergence"], teacher["own_divergence"]) == (True, None, None)
    assert min(each["divergence"] for each in (undistilled, tutor, reverse)) > 0

    args = EvaluateArguments(max_length=48, seed=0, output_dir="alone")
    language = LanguageArguments("teacher", ["heldout.txt"], prompts=3, prompt_length=4, new_tokens=5)
    student = "out/cells/reverse-half-seed0/student"
    first, same = evaluate_language_models([student], args, language)
    for name in ("perplexity", "bits_per_byte", "divergence", "own_divergence", "own_perplexity", "parameters"):
        assert reverse[name] == getattr(same, name), name
        assert teacher[name] == getattr(first, name), name
    measured = json.loads(Path("out/cells/reverse-half-seed0/evaluation/results.json").read_text())["results"]
    assert [each["name"] for each in measured] == [student]  # the teacher's figures are those of its own cell

    assert {file.name for file in Path("out").iterdir()} >= {"score-cost.png", "training.svg", "results.json"}
    rows = [line.split(" | ")[0] for line in Path("out/results.md").read_text().splitlines()[2:6]]
    best = sorted(["tutor", "reverse"], key=lambda name: _evaluation(f"{name}-half-seed0")["divergence"])
    assert [row.removeprefix("| ").rstrip() for row in rows] == ["teacher", "not distilled", *best]


def test_the_undistilled_student_is_the_teacher_s_layers_with_its_head(here, in_process):
    complete(*_command("--cell", NAMES[1]))
    folder = f"out/cells/{NAMES[1]}/student"
    saved, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    teacher = Teacher(tiny.tiny_causal())
    expected = build_student("half", teacher.config, {}, False, teacher.objective)
    initialise_from_teacher(expected, teacher)
    for name, weight in expected.state_dict().items():
        assert torch.equal(saved.state_dict()[name], weight), name


def test_a_matrix_goes_on_until_the_held_out_text_is_another(here, in_process):
    complete(*_command())
    in_process.clear()
    complete(*_command("--text", str(here / "heldout.txt")))
    assert in_process == []  # the same text, however it is spelled
    weights = Path("out/cells", NAMES[2], "student", "model.safetensors").stat().st_mtime_ns
    text = here / "heldout.txt"
    text.write_text(f"{text.read_text()}\n\nw1 w2 w3", encoding="utf-8")
    complete(*_command())
    assert in_process == NAMES
    assert Path("out/cells", NAMES[2], "student", "model.safetensors").stat().st_mtime_ns == weights
    assert _evaluation(NAMES[2])["documents"] == 7


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"evaluate": {"text": None}}, [], "recipe.yaml: no held-out text: name it under evaluate or with --text"),
        ({"evaluate": {"train": "a.csv"}}, [], "recipe.yaml, evaluate: train is for encoders; causal language models "),
        (
            {},
            ["--validation", "a.csv"],
            "recipe.yaml, evaluate: validation is for encoders; causal language models are ",
        ),
        ({"evaluate": {"teacher": "t"}}, [], "recipe.yaml, evaluate: teacher can't be set there; the comparison "),
        ({"evaluate": {"prompt": 3}}, [], "recipe.yaml, evaluate: unknown key 'prompt'; did you mean prompts?"),
        ({"evaluate": {"prompts": 0}}, [], "recipe.yaml, evaluate: prompts must be above 0, not 0"),
        ({"evaluate": {"max_length": 65}}, [], "max_length 65 is longer than the 64 positions of the model teacher"),
        ({}, ["--text", "none.txt"], "none.txt: no such file or folder"),
        ({"variants": ["tinybert"]}, [], "recipe.yaml, variant tinybert: the method tinybert isn't for causal "),
        ({"variants": [{"method": "kd", "widow": 2}]}, [], "recipe.yaml, variant kd: unknown key 'widow'"),
        ({"variants": [{"method": "clm", "window": 2}]}, [], "recipe.yaml, variant clm: unknown key 'window'"),
    ],
)
def test_mistakes_are_told_in_one_line(here, in_process, capfd, changes, flags, message):
    assert fail(capfd, *_command(*flags, **changes)).startswith(message)
    assert not Path("out").exists()


def test_held_out_text_is_not_for_encoders(here, teacher_folder, capfd):
    command = _command("--teacher", str(teacher_folder), variants=["kd"], evaluate=dict.fromkeys(OTHERS))
    line = fail(capfd, *command)
    assert line == (
        "recipe.yaml, evaluate: text is for causal language models; encoders are compared on train and validation"
    )


def test_a_dry_run_estimates_training_and_measuring_and_writes_nothing(here, capsys):
    complete(*_command("--dry-run"))
    shown = capsys.readouterr().out
    rows = [line.split()[0] for line in shown.splitlines() if "seed0 " in line]
    assert rows == NAMES
    assert "4 cells, about" in shown
    assert not Path("out").exists()


def test_the_estimate_of_measuring_counts_each_reading_and_each_token_written(here, monkeypatch):
    """The clock goes on by a second whenever it is looked at, so that whatever is timed takes one."""
    seconds = iter(range(1000))
    monkeypatch.setattr(language_models.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(language_models, "generation_speed", lambda *args: Quartiles(2.0, 1.0, 3.0))
    args = EvaluateArguments(max_length=48)
    language = LanguageArguments("teacher", ["heldout.txt"], prompts=3, prompt_length=4, new_tokens=6)
    model = tiny.tiny_causal()
    tokenizer, read = tiny.causal_tokenizer(), []
    for document in tiny.documents(6, seed=1):
        scored = len(tokenizer(document)["input_ids"])
        # A row of 48 tokens scores as many of a document; what follows is in rows of 47 more.
        read += [min(48, scored), *(min(48, left + 1) for left in range(scored - 48, 0, -47))]
    timed = read[:: math.ceil(len(read) / 4)]
    reading = sum(read) / sum(timed)
    writing = (2 + 3) * 6 / 2.0  # each token takes half a second: memory, warming up, three prompts
    assert measuring_seconds(model, None, args, language) == pytest.approx(reading + writing)
    monkeypatch.setattr(language_models, "continue_prompts", lambda *args: [_Written(9)] * 3)
    own = 1 + 3 * 9 / sum(timed)
    assert measuring_seconds(model, model, args, language) == pytest.approx(reading + writing + own)


class _Written:
    def __init__(self, length):
        self.input_ids = [1] * length


@pytest.fixture
def finished(tmp_path):
    """Cells of two seeds with figures made up: KL of seed k 0.3 + k/10 (near), 0.5 (far), 2 (not distilled)."""
    recipe = {
        "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4, "objective": "causal"},
        "variants": [{"name": "far", "method": "clm"}, {"name": "near", "method": "kd"}],
        "students": ["half"],
        "seeds": [0, 1],
        "evaluate": {"text": ["held.txt"], "prompts": 7},
    }
    cells = read_cells(recipe, "r", tmp_path)
    divergence = {"near": 0.3, "far": 0.5, "not distilled": 2.0, "teacher": None}
    for cell in cells:
        training = {"steps": 4, "tokens": 40, "seconds": 60.0, "flops": 2e12}
        log = [{"loss": 2.0, "step": 2}, {"eval_kl_to_teacher": 0.4, "eval_perplexity": 8.0, "step": 4}]
        found = divergence[cell.variant]
        evaluation = {
            **dict.fromkeys(CAUSAL_MODELS.types),
            **{"name": "m", "is_teacher": cell.kind == "teacher", "parameters": 1_500_000, "bytes": 6, "tasks": {}},
            **{"number_format": "float32", "documents": 5, "text_bytes": 1234, "text_tokens": 9, "threads": 1},
            **{"device": "cpu", "seconds": 1.0, "perplexity": 9.0 + cell.seed, "bits_per_byte": 1.25},
            **{"divergence": found and found + (cell.variant == "near") * cell.seed / 10, "tokens_per_second": 50.0},
            "tasks": {"task": {"acc": 0.5}},
        }
        result = {
            "settings": cell.settings,
            "training": {**training, "log": log} if cell.kind == "distilled" else {},
            "evaluation": evaluation,
        }
        write_text(cell.folder / RESULT_FILE, json.dumps(result))
    return cells


def test_figures_of_causal_models_are_means_over_seeds(finished):
    rows = {row["variant"]: row["figures"] for row in summarise(finished, {})["rows"]}
    assert rows["near"]["divergence"] == pytest.approx({"mean": 0.35, "sd": 0.1 / math.sqrt(2), "n": 2})
    assert rows["near"]["last_eval_kl_to_teacher"]["mean"] == 0.4
    assert rows["near"]["task: acc"]["mean"] == 0.5
    assert "divergence" not in rows["teacher"]
    assert "own_divergence" not in rows["near"]


def test_the_table_has_references_first_then_the_nearest_to_the_teacher(finished):
    table = markdown(summarise(finished, {}), CAUSAL_MODELS)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert lines[2] == "| teacher | - | 2 | 9.50 ± 0.71 | 1.2500 ± 0.0000 | - | 50.0 ± 0.0 | 1.5 M | - | - | - | - |"
    assert [line.split(" | ")[0] for line in lines[3:6]] == ["| not distilled", "| near", "| far"]
    assert " | 0.3500 ± 0.0707 | 50.0 ± 0.0 | 1.5 M | 1 min 0 s | 2 |" in lines[4]
    assert "KL(teacher \\|\\| student)" in lines[0]
    assert "own text" not in lines[0]  # of which no cell has a figure
    caption = next(line for line in lines[6:] if line)
    assert caption.startswith("4 steps of training. Mean ± standard deviation over seeds, on 5 documents, 1,234 bytes")
    assert "after at most 7 prompts" in caption
    assert "the nearest to the teacher comes first" in caption


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_plot_of_distances_says_that_lower_is_better(finished, seeds):
    summary = summarise([cell for cell in finished if cell.seed < seeds], {})
    styles = dict.fromkeys(["near", "far"], ("black", "-"))
    (axes,) = score_against_cost(summary, styles, CAUSAL_MODELS.score).axes
    assert axes.get_ylabel() == "KL(teacher || student) on held-out text, nats a token"
    title = axes.get_title(loc="left")
    assert title.endswith("; lower is better")
    assert ("bars: standard deviation" in title) == (seeds == 2)  # of one seed nothing is known
    heights = sorted(container.get_children()[0].get_ydata()[0] for container in axes.containers)
    assert heights == pytest.approx([0.3 if seeds == 1 else 0.35, 0.5])
    assert "far off, not drawn: not distilled" in axes.get_xlabel()


def test_a_result_of_an_encoder_is_none_of_a_causal_cell(finished):
    with edited(finished[0].folder / RESULT_FILE) as result:
        del result["evaluation"]["perplexity"]
    assert finished[0].result is None
    assert finished[1].result is not None


def test_a_lower_distance_is_the_better_one_in_words_too(finished):
    """KL: near 0.3 and 0.4, far 0.5."""
    table = markdown(summarise(finished, {}), CAUSAL_MODELS)
    assert (
        "- near, half: 0.1500 nats a token better than far over 2 paired seeds, standard error 0.0500: more than two "
    ) in table
    assert "| -0.1500 ± 0.0500 |" in " ".join(table.split())
