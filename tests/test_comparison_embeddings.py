"""`tutorkd compare` on embedding models: from a recipe to a table of figures on pairs of texts."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from commands import compare, complete, fail, save_corpus
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation

from tutorkd.comparison.matrix import RESULT_FILE
from tutorkd.comparison.on_embeddings import EMBEDDINGS, ERROR, MEAN, embedding_measures
from tutorkd.evaluation import embedding_models
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_models import encoding_seconds

RECIPE = {
    "common": {
        **{"teacher": "teacher", "corpus": ["text.txt"], "max_steps": 4, "max_length": 16, "bf16": False},
        **{"per_device_train_batch_size": 4, "logging_steps": 2, "eval_steps": 4, "save_steps": 4, "num_proc": 1},
        **{"text_unit": "line", "learning_rate": 1e-3, "warmup_steps": 0},
    },
    "variants": ["embedding", {"name": "similarity", "method": "embedding", "similarity_weight": 1.0}],
    "students": ["half"],
    "evaluate": {"sts": "pairs.csv", "retrieval": "search.csv"},
}
NAMES = ["teacher-seed0", "not-distilled-half-seed0", "embedding-half-seed0", "similarity-half-seed0"]
NARROW = {"name": "narrow", "student_hidden_size": 16}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Teacher, text, pairs and recipe, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    shutil.move(tiny.sentence_encoder(tmp_path / "made"), "teacher")
    save_corpus(tmp_path / "text.txt")
    draw = np.random.default_rng(0)
    texts = [[" ".join(draw.choice(tiny.WORDS, 8)) for _ in range(30)] for _ in range(2)]
    pd.DataFrame({"sentence1": texts[0], "sentence2": texts[1], "score": draw.random(30)}).to_csv("pairs.csv")
    pd.DataFrame({"query": texts[0], "passage": texts[1]}).to_csv("search.csv")
    return tmp_path


command = partial(compare, RECIPE)


def result(name):
    return json.loads(Path("out", "cells", name, RESULT_FILE).read_text())


def test_students_are_measured_on_pairs_and_references_stand_beside_them(here, in_process):
    complete(*command())
    assert in_process == NAMES
    data = pd.read_csv("pairs.csv")
    measure = evaluation.EmbeddingSimilarityEvaluator(
        *(data[column].tolist() for column in ("sentence1", "sentence2", "score")),
        main_similarity="cosine",
        write_csv=False,
    )
    folders = {"teacher-seed0": "teacher", **{name: f"out/cells/{name}/student" for name in NAMES[1:]}}
    for name, folder in folders.items():
        expected = measure(SentenceTransformer(folder, device="cpu"))["spearman_cosine"]
        assert result(name)["evaluation"]["figures"]["STS: Spearman"] == pytest.approx(expected, abs=1e-6)
    close = [result(name)["evaluation"]["figures"].get("cosine with the teacher's vectors") for name in NAMES]
    assert close[0] is None
    assert close[2] > close[1]  # distillation brought it nearer

    summary = json.loads(Path("out/results.json").read_text())
    for cell in summary["cells"]:
        found, errors = cell["evaluation"]["figures"], cell["evaluation"]["standard_errors"]
        chosen = ["STS: Spearman", "retrieval: MRR@10"]
        assert cell["figures"][MEAN] == pytest.approx(sum(found[name] for name in chosen) / 2)
        assert cell["figures"][ERROR] == pytest.approx(math.sqrt(sum(errors[name] ** 2 for name in chosen)) / 2)
    headings, _, *lines = Path("out/results.md").read_text().splitlines()
    assert "The operations are at most as many: they are counted for rows of the greatest length" in "".join(lines)
    named = ["STS: Spearman, %", "retrieval: MRR@10, %", "mean of 2, %", "cosine with the teacher's"]
    assert [word.strip() for word in headings.split("|")][4:8] == named
    best = sorted(["embedding", "similarity"], key=lambda name: -_mean(summary, name))
    shown = [line.split(" | ")[0].removeprefix("| ").strip() for line in lines[:4]]
    assert sorted(shown[:2]) == ["not distilled", "teacher"]
    assert shown[2:] == best
    assert {file.name for file in Path("out").iterdir()} >= {"score.png", "training.svg"}


def _mean(summary, variant):
    return next(row["figures"][MEAN]["mean"] for row in summary["rows"] if row["variant"] == variant)


def test_the_undistilled_student_is_what_training_starts_from(here, in_process):
    """A dense layer's start, which some of the text decides, among it; without steps, the run would end there."""
    complete(*command("--cell", "not-distilled-narrow-seed0", students=[NARROW]))
    options = [f"--{key}={value[0] if key == 'corpus' else value}" for key, value in RECIPE["common"].items()]
    sizes = ["--method=embedding", "--student_hidden_size=16", "--seed=0", "--data_seed=0"]
    complete("distill", *options, *sizes, "--output_dir=alone", "--save_initial_student")
    texts = tiny.documents(5)
    found, expected = (
        SentenceTransformer(folder, device="cpu").encode(texts, convert_to_tensor=True)
        for folder in ("out/cells/not-distilled-narrow-seed0/student", "alone/initial_student")
    )
    assert found.shape == (5, 32)
    torch.testing.assert_close(found, expected)


def test_a_matrix_goes_on_until_the_pairs_are_others(here, in_process, monkeypatch):
    monkeypatch.setattr("tutorkd.comparison.plots.draw", lambda *arguments: [])
    complete(*command())
    in_process.clear()
    complete(*command("--sts", str(here / "pairs.csv")))
    assert in_process == []  # the same pairs, however their file is spelled
    pd.read_csv("pairs.csv").iloc[:20].to_csv("pairs.csv")
    complete(*command())
    assert in_process == NAMES
    assert "STS: 20 pairs" in Path("out/results.md").read_text()


def test_another_text_gives_another_undistilled_student(here):
    """Its dense layer starts at the principal axes of the text's vectors; the teacher doesn't depend on the text."""
    name = "not-distilled-narrow-seed0"
    found = []
    for seed in (0, 5):
        Path("text.txt").write_text("\n\n".join(tiny.documents(40, seed)), encoding="utf-8")
        for cell in ("teacher-seed0", name):
            complete(*command("--cell", cell, students=[NARROW]))
        written = Path("out", "cells", "teacher-seed0", RESULT_FILE).stat().st_mtime_ns
        found.append((written, result(name)["evaluation"]["figures"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_points_are_students_on_their_way(here, in_process):
    complete(*command("--cell", NAMES[2], points=2, common={"eval_steps": None, "save_steps": None}))
    (there,) = result(NAMES[2])["on_the_way"].values()
    folder = f"out/cells/{NAMES[2]}/student/checkpoint-2"
    vectors = SentenceTransformer(folder, device="cpu").encode(pd.read_csv("search.csv")["query"].tolist())
    assert np.isfinite(vectors).all()
    assert there["evaluation"]["figures"]["STS: Spearman"] != result(NAMES[2])["evaluation"]["figures"]["STS: Spearman"]


def test_a_budget_may_be_tokens_or_operations_and_a_dry_run_estimates_it(here, capsys):
    """A step is 4 rows of at most 16 tokens."""
    complete(*command("--dry_run", common={"max_steps": None}, tokens=640))
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "seed0 " in line] == NAMES
    assert [line.split()[4] for line in shown.splitlines() if "embedding-half-seed0 " in line] == ["10"]
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    del recipe["tokens"]
    Path("recipe.yaml").write_text(yaml.safe_dump({**recipe, "flops": 1e8}))
    complete("compare", "recipe.yaml", "--output_dir", "out", "--dry_run")
    assert not Path("out").exists()


def test_the_estimate_of_measuring_counts_each_text_of_both_models(here, monkeypatch):
    """The clock goes on by a second whenever it is looked at, so that a batch of texts takes one."""
    seconds = iter(range(1000))
    monkeypatch.setattr(embedding_models.time, "perf_counter", lambda: next(seconds))
    data = EmbeddingArguments(sts="pairs.csv", retrieval="search.csv")
    body = SentenceTransformer("teacher", device="cpu")[0].model
    timed = len(range(0, 120, 4))  # of 120 texts every fourth
    assert encoding_seconds(body, None, "teacher", data) == pytest.approx(120 / timed)
    assert encoding_seconds(body, body, "teacher", data) == pytest.approx(2 * 120 / timed)


def test_one_kind_of_pairs_has_no_mean_of_its_own():
    (score, cosine, *_) = embedding_measures(EmbeddingArguments(paraphrases="p.csv")).columns
    assert (score.heading, cosine.heading) == ("paraphrases: average precision, %", "cosine with the teacher's")
    assert "sts_columns" in EMBEDDINGS.keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluate": {"sts": None, "retrieval": None}},
            "recipe.yaml: no pairs of texts: name some under evaluate or with --sts, --paraphrases or --retrieval",
        ),
        (
            {"evaluate": {"train": "a.csv"}},
            "recipe.yaml, evaluate: train is for encoders; embedding models are compared on sts or paraphrases or ",
        ),
        (
            {"evaluate": {"tasks": ["cola"]}},
            "recipe.yaml, evaluate: tasks is for encoders on GLUE and causal language ",
        ),
        ({"evaluate": {"sts": "none.csv"}}, "data none.csv: there is no such file"),
        (
            {"evaluate": {"sts_columns": ["a", "b"]}},
            "recipe.yaml, evaluate: sts_columns takes 3 names of columns, not ",
        ),
        ({"evaluate": {"ssts": "a.csv"}}, "recipe.yaml, evaluate: unknown key 'ssts'; did you mean sts?"),
        (
            {"variants": ["embedding", "kd"]},
            "recipe.yaml, variant kd: the method kd isn't for embedding models; choose one of embedding",
        ),
        ({"variants": [{"method": "embedding", "window": 2}]}, "recipe.yaml, variant embedding: unknown key 'window'"),
    ],
)
def test_mistakes_are_told_in_one_line(here, in_process, capfd, changes, message):
    assert fail(capfd, *command(**changes)).startswith(message)
    assert not Path("out").exists()


def test_pairs_of_texts_are_not_for_encoders(here, capfd):
    line = fail(capfd, *command(variants=["minilm-v2"], common={"text_unit": None}))
    assert line == ("recipe.yaml, evaluate: sts is for embedding models; encoders are compared on train and validation")
