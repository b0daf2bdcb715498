"""A recipe with a first stage: two runs by one command, the second with the first one's student."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from commands import assert_same, complete, fail, save_corpus, weights
from sentence_transformers import SentenceTransformer

from tutorkd.callbacks import StopOnSignal
from tutorkd.checkpoints import FIRST_STAGE
from tutorkd.cli.main import main
from tutorkd.pretraining.distill_arguments import read_distillation
from tutorkd.report.folders import sections

RECIPE = {
    "first_stage": {"method": "minilm-v2", "max_steps": 3, "relation_heads": 4, "learning_rate": 2e-3},
    **{"method": "embedding", "teacher": "teacher", "corpus": ["text.txt"], "text_unit": "line", "max_steps": 4},
    **{"max_length": 16, "per_device_train_batch_size": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2},
    **{"warmup_steps": 0, "learning_rate": 1e-3, "num_proc": 1, "output_dir": "out", "seed": 3},
}
ALONE = ["--method=minilm-v2", "--relation_heads=4", "--max_steps=3", "--learning_rate=2e-3", "--seed=3"]
SHARED = ["--teacher=teacher", "--corpus=text.txt", "--max_length=16", "--per_device_train_batch_size=4"]
SHARED += ["--warmup_steps=0", "--num_proc=1", "--eval_steps=2", "--save_steps=2", "--logging_steps=1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Teacher and text, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    shutil.move(tiny.sentence_encoder(tmp_path / "made"), "teacher")
    save_corpus(tmp_path / "text.txt")
    return tmp_path


def command(*flags, **changes):
    """The command line of the recipe, with keys changed."""
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False), encoding="utf-8")
    return ["distill", "--config", "recipe.yaml", *flags]


def test_both_stages_are_what_two_commands_make_and_the_card_tells_both(here, capsys):
    complete(*command())
    capsys.readouterr()
    complete(*command())  # and are known to be finished
    assert capsys.readouterr().out.count("is finished; --restart runs it again") == 2
    complete("distill", *ALONE, *SHARED, "--output_dir=alone-1")
    second = ["--method=embedding", "--text_unit=line", "--max_steps=4", "--learning_rate=1e-3", "--seed=3"]
    complete("distill", *second, *SHARED, "--student=alone-1", "--output_dir=alone-2")
    assert_same(weights(Path("out", FIRST_STAGE)), weights(Path("alone-1")))
    found, expected = (
        SentenceTransformer(name, device="cpu").encode(tiny.documents(5), convert_to_tensor=True)
        for name in ("out", "alone-2")
    )
    torch.testing.assert_close(found, expected)
    for folder in ("out", "alone-2"):  # a student that is named tells where it comes from, too
        card = Path(folder, "README.md").read_text()
        assert "trained with MiniLM v2 and then embedding distillation by" in card
        assert "MiniLM v2, 3 steps, learning rate 0.002" in card
        assert "MiniLMv2" in card
        assert "vujanic2025leaf" in card
        assert str(here) not in card
    assert "first stage" not in Path("alone-1/README.md").read_text()


def test_a_report_shows_both_stages_and_writes_a_recipe_that_finds_them_finished(here, tmp_path, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    complete(*command("--student_hidden_size=16", "--student_heads=2", "--save_initial_student"))
    monkeypatch.chdir(elsewhere)
    (section,) = sections(Path("../out"))
    assert (section.title, section.kind) == ("teacher → thin", "distillation, embedding distillation after MiniLM v2")
    titles = [part.title for part in section.parts]
    assert "First stage: Losses" in titles
    assert "Losses" in titles
    (again,) = [part.command for part in section.parts if part.title == "Run it again"]
    monkeypatch.chdir(here)
    *lines, run = again.splitlines()
    assert lines[0] == "cat > out.yaml <<'END'"
    subprocess.run(["bash", "-c", "\n".join(lines)], check=True)
    assert run == "tutorkd distill --config out.yaml"
    written = yaml.safe_load(Path("out.yaml").read_text())
    # Of the first stage what differs from the rest, as the recipe that was run had it.
    assert written["first_stage"] == RECIPE["first_stage"]
    assert written["save_initial_student"] is True
    assert (written["output_dir"], written["student_heads"]) == (str(here / "out"), 2)
    capsys.readouterr()
    complete(*run.split()[1:])
    assert capsys.readouterr().out.count("is finished; --restart runs it again") == 2


@pytest.mark.parametrize(
    "start",
    [["--teacher=alone-1", "--student=half"], ["--student=alone-1", "--student_init=random"]],
    ids=["half of it", "its sizes alone"],
)
def test_a_student_that_has_no_weights_of_an_earlier_one_isn_t_told_to_go_on_with_it(here, start):
    complete("distill", *ALONE, *SHARED, "--output_dir=alone-1")
    complete("distill", *ALONE, *SHARED, *start, "--output_dir=alone-2")
    assert "first stage" not in Path("alone-2/README.md").read_text()


@pytest.mark.parametrize("stage", [f"out/{FIRST_STAGE}", "out"])
def test_the_same_command_goes_on_after_an_interruption_in_either_stage(here, monkeypatch, capfd, stage):
    complete(*command("--output_dir", "whole"))

    def signal_before_the_second_step(callback, args, state, control, **kwargs):
        if args.output_dir == stage and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_step_begin", signal_before_the_second_step)
        assert main(command()) == 130
    assert f"the same command goes on from {stage}/checkpoint-2" in capfd.readouterr().err
    complete(*command())
    assert f"going on from {stage}/checkpoint-2" in capfd.readouterr().out
    for name in ("", FIRST_STAGE):
        assert_same(weights(Path("out", name)), weights(Path("whole", name)))


def test_the_first_stage_takes_what_both_share_and_no_constants_of_the_other_method():
    changes = {"first_stage": {"method": "tutor-kd", "max_steps": 7}, "hidden_state_weight": 0.5, "student_layers": 2}
    options = read_distillation(["--seed", "9", "--bf16", "false"], {**RECIPE, **changes, "teacher": ""})
    first = options.first
    assert (options.args.method, options.config.max_steps, options.settings.hidden_state_weight) == (
        "embedding",
        4,
        0.5,
    )
    assert (first.args.method, first.config.max_steps) == ("tutor-kd", 7)
    assert first.settings.hidden_state_weight == type(first.settings)().hidden_state_weight
    assert (first.args.student_layers, first.config.seed, first.text.max_length, first.config.bf16) == (2, 9, 16, False)
    assert first.config.output_dir == str(Path("out", FIRST_STAGE))
    second = options.going_on(Path("there"))
    assert (second.args.student, second.args.student_layers, second.first) == ("there", None, None)


def test_a_dry_run_tells_both_stages_and_writes_nothing(here, capsys):
    complete(*command("--dry_run"))
    shown = capsys.readouterr().out
    assert shown.count("# resolved recipe") == 2
    assert shown.index("method: minilm-v2") < shown.index("method: embedding")
    assert not Path("out").exists()


def test_restart_runs_both_again(here):
    complete(*command())
    before = json.loads(Path("out", FIRST_STAGE, "trainer_state.json").read_text())["global_step"]
    changed = {**RECIPE["first_stage"], "max_steps": 1}
    complete(*command("--restart", first_stage=changed))
    after = json.loads(Path("out", FIRST_STAGE, "trainer_state.json").read_text())["global_step"]
    assert (before, after) == (3, 1)
    assert "MiniLM v2, 1 steps" in Path("out/README.md").read_text()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (["minilm-v2"], "recipe.yaml, first_stage: must be a mapping of keys to values"),
        (
            {"max_steps": 2},
            "recipe.yaml, first_stage: no method: name the one that makes the student ",
        ),
        ({"method": "kd"}, "the teacher teacher has no trained MLM head, which KD needs"),
        (
            {"method": "minilm-v3"},
            "recipe.yaml, first_stage: there is no method 'minilm-v3'; did you mean minilm-v2? Choose one of "
            "tutor-kd, kd, distilbert, tinybert, minilm, minilm-v2, mlm; --method embedding without this recipe has "
            "a single stage",
        ),
        (
            {"method": "minilm-v2", "max_step": 2},
            "recipe.yaml, first_stage: unknown key 'max_step'; did you mean",
        ),
        ({"method": "minilm-v2", "text_unit": "line"}, "recipe.yaml, first_stage: unknown key 'text_unit'"),
        (
            {"method": "minilm-v2", "output_dir": "x"},
            "recipe.yaml, first_stage: output_dir can't be set there, ",
        ),
    ],
)
def test_mistakes_in_the_section_are_told_in_one_line(here, capfd, section, message):
    assert fail(capfd, *command(first_stage=section)).startswith(message)
    assert not Path("out").exists()


def test_what_the_second_stage_refuses_is_refused_before_the_first_trains(here, capfd):
    assert "has no prompt 'other'" in fail(capfd, *command("--prompt_name", "other"))
    assert not Path("out").exists()
