import csv
import json
import random

import pandas as pd
import pytest
import tiny
import yaml
from commands import history, save, save_causal

from tutorkd import demo_data
from tutorkd.cli.encoder_demo import _figure
from tutorkd.cli.main import main
from tutorkd.errors import UserError

RECIPE = """
adapt: {max_steps: 3, max_length: 24, per_device_train_batch_size: 4, logging_steps: 1, eval_steps: 3, save_steps: 3}
distill:
  {method: tutor-kd, student: half, save_initial_student: true, max_steps: 3, max_length: 24,
   per_device_train_batch_size: 4, logging_steps: 1, eval_steps: 3, save_steps: 3}
evaluate: {max_length: 24, num_train_epochs: 1, max_train_samples: 32}
"""


def _reviews(path, sentences=False):
    """Reviews, of one line or, with ``sentences``, of two sentences each."""
    generator = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source"])
        for i, text in enumerate(tiny.documents(30)):
            if sentences:
                first, second, rest = text.split(" ", 2)
                text = f"{first} {second}. {rest}"
            writer.writerow([text.replace(" ", "<br /><br />", 1), i % 2, "imdb"])
        for i in range(64):
            writer.writerow([" ".join(generator.choices(tiny.WORDS, k=16)), i % 2, "rotten_tomatoes"])
    return path


def test_reviews_are_split_into_text_and_task_without_overlap(tmp_path):
    paths = demo_data.split_reviews(_reviews(tmp_path / "reviews.csv"), tmp_path / "data")
    text, train, validation = (pd.read_parquet(paths[name]) for name in ("text", "train", "validation"))
    assert text["text"].tolist() == tiny.documents(30)
    assert (len(train), len(validation)) == (54, 10)
    assert not set(train["text"]) & set(validation["text"])
    again = demo_data.split_reviews(tmp_path / "reviews.csv", tmp_path / "other")
    assert pd.read_parquet(again["validation"]).equals(validation)


def test_a_missing_package_names_the_extra():
    with pytest.raises(UserError, match=r"no-such-package: pip install 'tutorkd\[demo\]'"):
        demo_data.packaged_file("no-such-package", "file")


def test_the_packages_of_the_extra_hold_what_the_demo_needs():
    assert (demo_data.encoder_folder() / "model.safetensors").is_file()
    with demo_data.reviews_file().open(encoding="utf-8") as lines:
        assert next(csv.reader(lines)) == ["text", "label", "source"]


@pytest.fixture
def command(tmp_path):
    """Makes the command line of a recipe, with more in its stage distill."""
    encoder = tmp_path / "encoder"
    save(tiny.masked_lm().base_model, encoder)

    def line(**distill):
        recipe = tmp_path / "recipe.yaml"
        content = yaml.safe_load(RECIPE)
        recipe.write_text(yaml.safe_dump({**content, "distill": content["distill"] | distill}), encoding="utf-8")
        paths = ["--output_dir", str(tmp_path / "out"), "--reviews", str(_reviews(tmp_path / "reviews.csv"))]
        return ["demo", "--config", str(recipe), "--encoder", str(encoder), *paths]

    return line


def test_the_demo_runs_all_stages_and_doesn_t_run_finished_ones_again(tmp_path, capsys, command):
    command = command()
    assert main(command) == 0
    shown = capsys.readouterr().out
    for expected in (
        "about",
        "1. adapt",
        "2. distill",
        "3. evaluate",
        "4. summary",
        "tutor wrote",
        "To do this with a real teacher",
    ):
        assert expected in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in summary] == ["teacher", "Tutor-KD student", "same student, not distilled"]
    assert summary[1]["parameters"] == summary[2]["parameters"] < summary[0]["parameters"]

    weights = (tmp_path / "out" / "student" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out.count("is finished; --restart runs it again") == 2
    assert (tmp_path / "out" / "student" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("distill", "title", "trained_with"),
    [
        ({"method": "kd", "temperature": 3.0}, "KD", {"loss_soft_cross_entropy"}),
        ({"method": "tutor-kd", "target": "mlm-logits"}, "Tutor-KD", {"loss_soft_cross_entropy", "loss_policy"}),
    ],
)
def test_the_demo_hands_method_and_target_of_its_recipe_on(tmp_path, capsys, command, distill, title, trained_with):
    assert main(command(**distill)) == 0
    shown = capsys.readouterr().out
    assert f"The {title} student is " in shown
    assert "What the tutor did" not in shown  # there is no a^S to be shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in summary] == ["teacher", f"{title} student", "same student, not distilled"]
    run = yaml.safe_load((tmp_path / "out" / "student" / "run.yaml").read_text())
    assert distill.items() <= run.items()
    assert trained_with <= history(tmp_path / "out" / "student")[0].keys()


def test_a_second_student_beside_the_first_differs_in_what_its_stage_says(tmp_path, capsys, command):
    line = command(method="mlm", max_steps=4)
    recipe = tmp_path / "recipe.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["beside"] = {"method": "tutor-kd", "max_steps": 3}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(line) == 0
    shown = capsys.readouterr().out
    for expected in ("beside    about", "3. distill: the teacher teaches", "by Tutor-KD", "5. summary", "tutor wrote"):
        assert expected in shown
    assert shown.count("the same student without distillation") == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    names = ["teacher", "masked-language modelling student", "Tutor-KD student", "same student, not distilled"]
    assert [row["name"] for row in summary] == names
    first, second = (
        yaml.safe_load((tmp_path / "out" / name / "run.yaml").read_text()) for name in ("student", "student-tutor-kd")
    )
    assert (first["method"], first["max_steps"], second["method"], second["max_steps"]) == ("mlm", 4, "tutor-kd", 3)
    assert first["per_device_train_batch_size"] == second["per_device_train_batch_size"]


def test_a_figure_that_rounds_to_0_has_no_sign():
    assert list(map(_figure, (-0.001, 0.004, -0.006, 1.0))) == ["0.00", "0.00", "-0.01", "1.00"]


def test_an_unknown_stage_or_key_in_the_demo_s_recipe_is_named(tmp_path, capsys):
    for text, message in (
        ("adapt: {}\ndistil: {}", "no stage 'distil'"),
        ("adapt: {max_step: 3}", "did you mean max_steps"),
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text, encoding="utf-8")
        reviews = ["--encoder", "x", "--reviews", str(_reviews(tmp_path / "reviews.csv"))]
        assert main(["demo", "--config", str(recipe), "--output_dir", str(tmp_path / "out"), *reviews]) == 2
        assert message in capsys.readouterr().err


CAUSAL_RECIPE = """
distill:
  {method: tutor-kd, student: half, max_steps: 3, max_length: 24, per_device_train_batch_size: 4, logging_steps: 1,
   eval_steps: 3, save_steps: 3, window: 3, replaced_share: 0.2}
evaluate: {max_length: 24, prompts: 4, prompt_length: 8, new_tokens: 8}
"""


@pytest.fixture
def causal_command(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    teacher = save_causal(tiny.tiny_causal(max_position_embeddings=256), tmp_path / "causal")
    recipe.write_text(CAUSAL_RECIPE, encoding="utf-8")
    paths = ["--output_dir", str(tmp_path / "out"), "--reviews", str(_reviews(tmp_path / "reviews.csv"))]
    return ["demo", "--causal", "--config", str(recipe), "--teacher", teacher, *paths]


def test_the_demo_of_causal_models_runs_all_stages_and_doesn_t_run_finished_ones_again(
    tmp_path, capsys, causal_command, monkeypatch
):
    monkeypatch.setattr("tutorkd.cli.causal_demo._SENTENCE", (10, 1000))
    assert main(causal_command) == 0
    shown = capsys.readouterr().out
    for expected in ("about", "1. distill", "2. evaluate", "3. summary", "perplexity per token", "tutor wrote", "real"):
        assert expected in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in summary] == ["teacher", "student", "same student, not distilled"]
    assert summary[0]["is_teacher"]
    assert main(causal_command) == 0
    shown = capsys.readouterr().out
    assert "about" not in shown
    assert "is finished" in shown
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_text_of_the_demo_and_what_it_is_measured_on_share_no_review(tmp_path):
    paths = demo_data.split_text(_reviews(tmp_path / "reviews.csv"), tmp_path / "data")
    text, heldout = (pd.read_parquet(paths[name])["text"].tolist() for name in ("text", "heldout"))
    assert heldout + text == tiny.documents(30)
    assert len(heldout) == 7


def test_the_demo_says_which_option_is_for_which_model(capsys, causal_command):
    assert main([*causal_command, "--encoder", "x"]) == 2
    assert "--encoder is for the demo without --causal or --embedding" in capsys.readouterr().err
    assert main(["demo", "--teacher", "x"]) == 2
    assert "--teacher is for the demo with --causal or --embedding" in capsys.readouterr().err
    assert main([*causal_command, "--embedding"]) == 2
    assert "--causal and --embedding are two demos" in capsys.readouterr().err


EMBEDDING_RECIPE = """
distill:
  {method: embedding, student: half, text_unit: sentence, max_steps: 3, max_length: 16, per_device_train_batch_size: 4,
   logging_steps: 1, eval_steps: 3, save_steps: 3}
"""


def test_the_demo_of_embedding_models_runs_all_stages_and_doesn_t_run_finished_ones_again(tmp_path, capsys):
    recipe, reviews = tmp_path / "recipe.yaml", _reviews(tmp_path / "reviews.csv", sentences=True)
    recipe.write_text(EMBEDDING_RECIPE, encoding="utf-8")
    teacher = tiny.sentence_encoder(tmp_path / "teacher")
    paths = ["--output_dir", str(tmp_path / "out"), "--reviews", str(reviews), "--teacher", str(teacher)]
    command = ["demo", "--embedding", "--config", str(recipe), *paths]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for expected in ("about", "1. distill", "2. evaluate", "3. summary", "accuracy@1", "real"):
        assert expected in shown
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["name"] for row in summary] == ["teacher", "student", "same student, not distilled"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "about" not in shown
    assert "is finished" in shown
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_beginnings_of_reviews_are_taken_from_none_that_is_trained_on(tmp_path):
    paths = demo_data.split_beginnings(_reviews(tmp_path / "reviews.csv", sentences=True), tmp_path / "data")
    pairs, text = (pd.read_parquet(paths[name]) for name in ("beginnings", "text"))
    whole = [f"{query} {passage}" for query, passage in zip(pairs["query"], pairs["passage"], strict=True)]
    assert len(whole) == 7
    assert len(text) == 23
    assert not set(whole) & set(text["text"])
