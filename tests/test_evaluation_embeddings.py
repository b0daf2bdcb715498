"""`tutorkd evaluate` on models that give a vector for a text: from options to tables."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from commands import complete, fail, save, save_causal, set_json
from scipy.stats import norm, pearsonr, spearmanr

from tutorkd.evaluation import embedding_models
from tutorkd.evaluation.arguments import EvaluateArguments
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_report import EmbeddingResult
from tutorkd.evaluation.embedding_scores import ASYMMETRIC, cosines, estimates, of_paraphrases, of_scores, of_search

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation

PAIRS = 40


def sentence(generator, words=6):
    return " ".join(tiny.WORDS[word] for word in generator.integers(0, 95, words))


def pairs(seed=0):
    """Sentences of which more words are equal the higher the score, from 0 to 5."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(PAIRS):
        first = sentence(generator)
        same = int(generator.integers(0, 6))
        second = " ".join([*first.split()[:same], *sentence(generator).split()[same:]])
        rows.append((first, second, same, int(same > 2)))
    return pd.DataFrame(rows, columns=["sentence1", "sentence2", "score", "label"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A teacher, a student of other weights, and pairs, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("teacher", "student")):
        shutil.move(tiny.sentence_encoder(tmp_path / "made", seed=seed), name)
    pairs().to_csv("pairs.csv", index=False)
    found = pairs(1)
    found.rename(columns={"sentence1": "query", "sentence2": "passage"}).to_parquet("search.parquet")
    return tmp_path


def results(folder="out"):
    return {each["name"]: each for each in json.loads((folder / "results.json").read_text())["results"]}


SEARCH = ["--retrieval", "search.parquet", "--retrieval_columns", "query", "passage", "label"]


def test_figures_are_those_of_the_evaluators_of_sentence_transformers(here):
    complete(
        *("evaluate", "--models", "student", "--sts", "pairs.csv", "--paraphrases", "pairs.csv"),
        *(*SEARCH, "--output_dir", "out"),
    )
    figures = results(here / "out")["student"]["figures"]
    model, data, search = SentenceTransformer("student"), pairs(), pairs(1)
    sides = data["sentence1"].tolist(), data["sentence2"].tolist()
    similarity = evaluation.EmbeddingSimilarityEvaluator(*sides, data["score"].tolist())(model)
    classes = evaluation.BinaryClassificationEvaluator(*sides, data["label"].tolist())(model)
    relevant = search[search["label"] == 1]
    queries = dict(enumerate(relevant["sentence1"]))
    passages = dict(enumerate(search["sentence2"]))
    ranks = evaluation.InformationRetrievalEvaluator(
        {str(key): text for key, text in queries.items()},
        {str(key): text for key, text in passages.items()},
        {str(key): {str(row)} for key, row in enumerate(relevant.index)},
    )(model)
    assert figures == {
        "STS: Spearman": pytest.approx(similarity["spearman_cosine"], abs=1e-6),
        "STS: Pearson": pytest.approx(similarity["pearson_cosine"], abs=1e-6),
        "paraphrases: average precision": pytest.approx(classes["cosine_ap"], abs=1e-6),
        "retrieval: accuracy@1": pytest.approx(ranks["cosine_accuracy@1"]),
        "retrieval: MRR@10": pytest.approx(ranks["cosine_mrr@10"]),
        "retrieval: recall@10": pytest.approx(ranks["cosine_recall@10"]),
    }
    assert 0.1 < figures["retrieval: accuracy@1"] < figures["retrieval: recall@10"] < 1


def test_asymmetric_use_has_the_model_s_queries_and_the_teacher_s_passages(here):
    complete("evaluate", "--models", "student", "--teacher", "teacher", "--sts", "pairs.csv", *SEARCH)
    found = results(here / "tutorkd-evaluation")
    student, teacher, data, search = SentenceTransformer("student"), SentenceTransformer("teacher"), pairs(), pairs(1)

    def vectors(model, texts):
        return model.encode(texts.tolist()).astype(np.float64)

    first, second = vectors(student, data["sentence1"]), vectors(teacher, data["sentence2"])
    figures = found["student"]["figures"]
    assert figures[f"STS: Spearman{ASYMMETRIC}"] == pytest.approx(
        spearmanr((first * second).sum(-1), data["score"]).statistic, abs=1e-6
    )
    relevant = search[search["label"] == 1]
    products = vectors(student, relevant["sentence1"]) @ vectors(teacher, search["sentence2"]).T
    best = products.argmax(-1)
    assert figures[f"retrieval: accuracy@1{ASYMMETRIC}"] == pytest.approx((best == relevant.index).mean())
    close = [
        (vectors(student, texts) * vectors(teacher, texts)).sum(-1)
        for texts in (data["sentence1"], data["sentence2"], relevant["sentence1"], search["sentence2"])
    ]
    assert figures["cosine with the teacher's vectors"] == pytest.approx(np.concatenate(close).mean(), abs=1e-6)
    assert not any(name.endswith(ASYMMETRIC) for name in found["teacher"]["figures"])


def test_a_copy_of_the_teacher_is_as_good_in_any_use(here, capsys):
    shutil.copytree("teacher", "copy")
    complete("evaluate", "--models", "copy", "--teacher", "teacher", "--sts", "pairs.csv")
    found = results(here / "tutorkd-evaluation")
    own = found["teacher"]["figures"]
    for name, value in found["copy"]["figures"].items():
        assert value == pytest.approx(own.get(name.removesuffix(ASYMMETRIC), 1), abs=1e-6)
    differences = [line for line in capsys.readouterr().out.splitlines() if "- from the teacher's" in line]
    assert len(differences) == 4
    assert all(line.split()[-3:] in (["+0.00", "±", "0.00"], ["-0.00", "±", "0.00"]) for line in differences)


def test_errors_of_a_share_and_of_a_difference_are_those_of_the_formulas():
    generator = np.random.default_rng(0)
    right, other = generator.random((2, 900)) < np.array([[0.7], [0.6]])
    found = {
        name: estimates({"mean": lambda rows, hits=hits: float(hits[rows].mean())}, 900, seed=1)["mean"]
        for name, hits in (("right", right), ("other", other))
    }
    results = {name: result_of({"share": each.value}, {"share": each.resampled}) for name, each in found.items()}
    share = right.mean()
    assert results["right"].standard_error("share") == pytest.approx(np.sqrt(share * (1 - share) / 900), rel=0.1)
    difference, error = results["right"].difference("share", results["other"])
    assert difference == pytest.approx(right.mean() - other.mean())
    assert error == pytest.approx((right.astype(float) - other).std() / 30, rel=0.1)


def result_of(figures, resampled):
    fields = dict.fromkeys(EmbeddingResult.__dataclass_fields__)
    return EmbeddingResult(**{**fields, "figures": figures, "resampled": resampled})


def test_the_error_of_a_correlation_is_fisher_s_where_values_are_normal():
    first, noise = norm.rvs(size=(2, 1000), random_state=0)
    found = estimates(of_scores(first, first + noise), 1000, seed=0)["Pearson"]
    assert np.std(found.resampled) == pytest.approx((1 - found.value**2) / np.sqrt(997), rel=0.15)


def test_figures_by_hand():
    up = np.array([0.1, 0.2, 0.3, 0.4])
    assert estimates(of_scores(up, np.array([1.0, 2, 4, 3])), 4, 0)["Spearman"].value == pytest.approx(0.8)
    # ordered by cosine the labels are 1, 0, 1, 0: precision 1 at the first, 2/3 at the second
    assert estimates(of_paraphrases(up, np.array([0, 1, 0, 1])), 4, 0)["average precision"].value == pytest.approx(
        5 / 6
    )
    passages = np.eye(12, dtype=np.float32)
    queries = np.zeros((3, 12), dtype=np.float32)
    queries[:] = np.linspace(1, 0.1, 12)  # nearest to passage 0, then 1 and so on
    found = {
        name: each.value for name, each in estimates(of_search(queries, passages, [[0], [2, 11], [10]]), 3, 0).items()
    }
    assert found["accuracy@1"] == pytest.approx(1 / 3)
    assert found["MRR@10"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found["recall@10"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_vectors_that_tell_nothing_apart_have_no_correlation():
    assert estimates(of_scores(np.ones(5), np.arange(5.0)), 5, 0)["Spearman"].value == 0
    np.testing.assert_array_equal(cosines(np.array([[0.0, 0], [0, 2]]), np.array([[1.0, 0], [0, 1]])), [0, 1])


def test_a_plain_encoder_is_mean_pooled_and_the_table_says_so(here, capsys):
    save(tiny.masked_lm(seed=0), here / "plain")  # the teacher's own encoder, with a head that has no part in it
    complete("evaluate", "--models", "plain", "--teacher", "teacher", "--sts", "pairs.csv")
    found = results(here / "tutorkd-evaluation")
    for name, value in found["teacher"]["figures"].items():
        assert found["plain"]["figures"][name] == pytest.approx(value, abs=1e-6)
    assert found["plain"]["mean_pooled"]
    assert found["plain"]["longest"] == 64  # all positions; the teacher's is set to less
    assert "plain (mean-pooled)" in (here / "tutorkd-evaluation" / "results.md").read_text()
    assert "Mean-pooled: a plain encoder" in " ".join(capsys.readouterr().out.split())


def test_vectors_of_another_size_are_compared_by_their_own_figures(here, capsys):
    shutil.move(tiny.sentence_encoder(here / "made", hidden_size=16), "narrow")
    complete("evaluate", "--models", "narrow", "--teacher", "teacher", "--sts", "pairs.csv")
    assert list(results(here / "tutorkd-evaluation")["narrow"]["figures"]) == ["STS: Spearman", "STS: Pearson"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "No figures of narrow with the teacher: its vectors have 16 numbers, the teacher's 32." in shown


def test_what_stands_behind_the_encoder_counts_in_its_size(here):
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    body = Transformer("student")
    SentenceTransformer(modules=[body, Pooling(32, "mean"), Dense(32, 8)]).save_pretrained("projected")
    complete("evaluate", "--models", "student", "projected", "--sts", "pairs.csv")
    found = results(here / "tutorkd-evaluation")
    assert found["projected"]["dimension"] == 8
    assert found["projected"]["parameters"] - found["student"]["parameters"] == 32 * 8 + 8
    assert 0 < found["projected"]["bytes"] - found["student"]["bytes"] - 4 * (32 * 8 + 8) < 500


def test_a_finished_model_is_not_measured_again_and_other_data_are_refused(here, capfd, monkeypatch):
    flags = ["evaluate", "--models", "student", "--sts", "pairs.csv", "--output_dir", "out"]
    complete(*flags)
    before = results(here / "out")

    def measure(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(embedding_models, "_measure", measure)
    complete(*flags)
    assert results(here / "out") == before
    complete(*flags, "--dry_run")
    assert "finished" in capfd.readouterr().out
    pairs(2).to_csv("pairs.csv", index=False)
    assert fail(capfd, *flags).startswith("out holds another run (STS_sha256: ")


def test_table_folder_and_progress_have_one_name_for_a_model(here, capsys):
    shutil.move("student", here / "runs" / "deep" / "student")
    teacher, student = str(here / "teacher"), "runs/deep/student/"
    complete("evaluate", "--models", student, "--teacher", teacher, "--sts", "pairs.csv", "--output_dir", "out")
    printed = capsys.readouterr()
    assert str(here) not in printed.out
    assert [line.split(":")[0] for line in printed.err.splitlines() if "measured in" in line] == ["teacher", "student"]
    assert {file.parent.name for file in (here / "out").glob("*/result.json")} == {"teacher", "student"}
    markdown = (here / "out" / "results.md").read_text()
    heading = markdown.splitlines()[0]
    assert [cell.strip() for cell in heading.split("|")] == ["", "", "teacher (teacher)", "student", ""]
    assert str(here) not in markdown
    assert list(results(here / "out")) == [teacher, student]  # for the same command to be given again


def test_an_evaluation_of_another_kind_is_refused_and_its_results_stay(here, capfd):
    rows = "\n".join(json.dumps({"text": f"w{word}", "label": word % 2}) for word in range(8))
    (here / "rows.jsonl").write_text(rows)
    save(tiny.masked_lm("bert", num_hidden_layers=1), here / "encoder")
    encoders = ["--models", "encoder", "--train", "rows.jsonl", "--validation", "rows.jsonl", "--max_length", "8"]
    encoders += ["--num_train_epochs", "1"]
    embeddings = ["--models", "student", "--sts", "pairs.csv"]
    kinds = {"of encoders on labelled text": encoders, "of embeddings of text": embeddings}
    for first, second in (kinds, reversed(kinds)):
        complete("evaluate", *kinds[first], "--restart", "true")
        folder = here / "tutorkd-evaluation"
        before = {file: file.read_text() for file in folder.glob("**/result*")}
        assert {file.name for file in before} == {"result.json", "results.json", "results.md"}
        remedy = "choose another --output_dir, or --restart to throw its results away"
        for more in ([], ["--dry_run"]):
            told = fail(capfd, "evaluate", *kinds[second], *more)
            assert told == f"tutorkd-evaluation holds another run ({first} there, {second} now); {remedy}"
        assert {file: file.read_text() for file in folder.glob("**/result*")} == before
        for file in folder.glob("*/result.json"):  # the table alone says it too
            file.unlink()
        assert f"({first} there, {second} now)" in fail(capfd, "evaluate", *kinds[second])
        complete("evaluate", *kinds[first])  # the same command goes on
    complete("evaluate", *embeddings, "--teacher", "teacher", "--output_dir", "other")
    complete("evaluate", *embeddings, "--models", "teacher", "--teacher", "teacher", "--output_dir", "other")
    assert {file.parent.name for file in (here / "other").glob("*/result.json")} == {"student", "teacher"}


@pytest.mark.parametrize("there", ['{"settings": {}, "models": []}', '{"rows": [], "cells": []}', "{"])
def test_results_that_are_of_another_command_are_left_alone(here, capfd, there):
    (here / "out").mkdir()
    (here / "out" / "results.json").write_text(there)
    flags = ["evaluate", "--models", "student", "--sts", "pairs.csv", "--output_dir", "out"]
    for more in ([], ["--restart"]):
        told = fail(capfd, *flags, *more)
        assert told == "out/results.json wasn't written by tutorkd evaluate, or is damaged: choose another --output_dir"
    assert (here / "out" / "results.json").read_text() == there


def test_another_pooling_is_another_model(here):
    flags = ["evaluate", "--models", "student", "--sts", "pairs.csv", "--output_dir", "out"]
    complete(*flags)
    before = results(here / "out")["student"]["figures"]
    (folder,) = (here / "student").glob("1_Pooling")
    set_json(folder / "config.json", pooling_mode="cls")
    complete(*flags)
    assert results(here / "out")["student"]["figures"] != before


def test_rows_of_another_length_and_another_prompt_make_another_model(here):
    flags = ["evaluate", "--models", "student", "--sts", "pairs.csv", "--output_dir", "out"]
    complete(*flags)
    found = [results(here / "out")["student"]["figures"]]
    changes = {
        "sentence_bert_config.json": {"max_seq_length": 6},
        "config_sentence_transformers.json": {"prompts": {"it": "w1 w2 "}, "default_prompt_name": "it"},
    }
    for name, change in changes.items():
        set_json(here / "student" / name, **change)
        complete(*flags)
        found.append(results(here / "out")["student"]["figures"])
    model, data = SentenceTransformer("student"), pairs()
    first, second = (model.encode(data[side].tolist()) for side in ("sentence1", "sentence2"))
    expected = pearsonr((first * second).sum(-1), data["score"]).statistic
    assert found[2]["STS: Pearson"] == pytest.approx(expected, abs=1e-5)
    assert found[0] != found[1] != found[2]


def test_a_table_without_the_teacher_has_each_figure_once(here):
    pair = EmbeddingArguments(sts="pairs.csv")
    embedding_models.evaluate_embeddings(
        ["student"], EvaluateArguments(output_dir="out"), "teacher", pair, with_teacher=False
    )
    lines = (here / "out" / "results.md").read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| STS")]
    names = ["STS: Spearman", f"STS: Spearman{ASYMMETRIC}", "STS: Pearson", f"STS: Pearson{ASYMMETRIC}"]
    assert rows == names


def test_a_dry_run_says_what_there_is_and_loads_nothing(here, capsys, monkeypatch):
    monkeypatch.setattr(embedding_models, "_measure", None)
    complete(
        "evaluate", "--models", "student", "--sts", "pairs.csv", "--paraphrases", "pairs.csv", *SEARCH, "--dry_run"
    )
    shown = " ".join(capsys.readouterr().out.split())
    answers = int(pairs(1)["label"].sum())
    assert f" STS {PAIRS} pairs, cosines" in shown
    assert f" retrieval {answers} queries, {PAIRS} passages to find among." in shown
    assert f"{100 * pairs()['label'].mean():.1f} % of them paraphrases." in shown


ROWS = "a,b,n\nw1,w2,1\nw3,w4,0\n"


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "a,b,n\nw1,w2,1\nw3,w4,high\n",
            ["--sts", "d.csv"],
            "d.csv: row 2 has 'high' in column 'n', which isn't a num",
        ),
        ("a,b,n\nw1,w2,1\nw3,w4,inf\n", ["--sts", "d.csv"], "d.csv: row 2 has 'inf' in column 'n', which isn't a numb"),
        ("a,b,n\nw1,w2,1\nw3,w4,\n", ["--sts", "d.csv"], "d.csv: row 2 has no value in column 'n'"),
        ("a,b,n\nw1,w2,1\nw3,,2\n", ["--sts", "d.csv"], "d.csv: row 2 has no value in column 'b'"),
        (
            "a,b,n\nw1,w2,1\nw3,w4,1\n",
            ["--sts", "d.csv"],
            "d.csv: every row has 1 in column 'n'; two values are needed",
        ),
        ("a,b,n\nw1,w2,1\nw3,w4,2\n", ["--paraphrases", "d.csv"], "d.csv: row 2 has 2 in column 'n'; labels are 1 for"),
        (ROWS, ["--sts", "d.csv", "--sts_columns", "a", "b"], "sts_columns takes 3 names of columns, not 2"),
        (
            ROWS,
            ["--sts", "d.csv", "--sts_columns", "a", "b", "m"],
            "d.csv: line 1, the header: no column 'm' among a, b, n; did you mean 'n'? Name it with --sts_columns",
        ),
        (ROWS, ["--sts", "nowhere.csv"], "data nowhere.csv: there is no such file"),
        (ROWS, ["--retrieval", "d.csv", "--retrieval_columns", "a"], "retrieval_columns takes 2 or 3 names of columns"),
        (
            ROWS,
            ["--retrieval", "d.csv", "--retrieval_label", "yes"],
            "d.csv: no row has yes in column 'n', which --ret",
        ),
        ("a,b,n\nw1,w2,1\nw3,w2,1\n", ["--retrieval", "d.csv"], "d.csv: every row has the same passage"),
        (
            ROWS,
            ["--sts", "d.csv", "--train", "d.csv"],
            "--sts measures embedding models without training, and --train isn't",
        ),
        (
            ROWS,
            ["--sts", "d.csv", "--text", "x"],
            "--sts measures embedding models without training, and --text isn't",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(here, capfd, text, flags, message):
    (here / "d.csv").write_text(text)
    columns = [part for kind in ("sts", "paraphrase", "retrieval") for part in (f"--{kind}_columns", "a", "b", "n")]
    given = [*(columns if not any("columns" in flag for flag in flags) else []), *flags]
    assert fail(capfd, "evaluate", "--models", "student", *given).startswith(message)


def test_models_that_give_no_vectors_are_told(here, capfd):
    save_causal(tiny.tiny_causal(), here / "causal")
    told = fail(capfd, "evaluate", "--models", "causal", "--sts", "pairs.csv")
    assert told == "causal is a causal language model, which gives no vector of a text: give it --text or --tasks"
    assert fail(capfd, "evaluate", "--sts", "pairs.csv").startswith("no model to evaluate: give one or more")
    told = fail(capfd, "evaluate", "--models", "student", "--teacher", "teacher")
    assert told.endswith("or, for its vectors, --sts, --paraphrases or --retrieval")


def test_without_the_extra_it_says_what_to_install(here, capfd, monkeypatch):
    monkeypatch.setattr(embedding_models, "find_spec", lambda name: None)
    told = fail(capfd, "evaluate", "--models", "student", "--sts", "pairs.csv")
    assert told == "--sts needs the package sentence-transformers: pip install 'tutorkd[embedding]'"
