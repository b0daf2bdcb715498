"""Seeds, names, numbers and lists of classes: what `tutorkd evaluate` makes of them."""

import json
import os
import signal
import statistics

import numpy as np
import pytest
import tiny
from commands import complete, fail, lines_of, save, write_rows
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, Trainer

from tutorkd.cli.main import main
from tutorkd.evaluation.checkpoint import Checkpoint
from tutorkd.evaluation.classifier import load_trained
from tutorkd.evaluation.metrics import answers_of, scores_of
from tutorkd.evaluation.records import result_names, shown_names


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where commands run: models of one name in two folders, and another."""
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("one/student", "two/student", "other")):
        save(tiny.masked_lm("bert", seed=number, num_hidden_layers=2), tmp_path / folder)
    return tmp_path


def write(path, labels, seed=0):
    """Rows that hold the word w<n> for each number n that stands for the label."""
    draw = np.random.default_rng(seed)
    rows = []
    for words, label in labels:
        texts = [f"w{draw.integers(50, 90)}", *(f"w{word}" for word in words for _ in range(2))]
        rows.append({"text": " ".join(texts), "label": label})
    write_rows(path, rows)


def classes(count):
    return [([row % 2], ("no", "yes")[row % 2]) for row in range(count)]


def command(*models, **options):
    told = {"train": "train.jsonl", "validation": "validation.jsonl", "output_dir": "out", "max_length": 16}
    told |= {"num_train_epochs": 1, "bf16": "false"} | options
    flags = [
        word
        for key, value in told.items()
        for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
    ]
    return ["evaluate", "--models", *models, *flags]


def results(place):
    return json.loads((place / "out" / "results.json").read_text())


def test_a_model_is_fine_tuned_with_each_seed_and_has_its_mean_and_deviation(place, capfd, monkeypatch):
    write(place / "train.jsonl", classes(40))
    write(place / "validation.jsonl", classes(20), seed=1)
    told = command("other", "one/student", seeds=[3, 4, 3], learning_rate=1e-3)
    complete(*told)
    found = results(place)
    assert [(each["name"], each["seed"]) for each in found["results"]] == [
        *(("other", 3), ("other", 4), ("one/student", 3), ("one/student", 4)),
    ]
    for model, two in zip(found["over_seeds"], (found["results"][:2], found["results"][2:]), strict=True):
        values = [each["accuracy"] for each in two]
        assert model["accuracy"]["mean"] == pytest.approx(statistics.fmean(values))
        assert model["accuracy"]["sd"] == pytest.approx(statistics.stdev(values))
    table = (place / "out" / "results.md").read_text()
    mean, sd = (100 * found["over_seeds"][0]["accuracy"][name] for name in ("mean", "sd"))
    assert f"| {mean:.1f} ± {sd:.1f} |" in table
    assert "mean ± standard deviation over 2 seeds" in table
    assert {str(file.relative_to(place / "out")) for file in (place / "out").glob("**/result.json")} == {
        f"{model}/seed{seed}/result.json" for model in ("other", "student") for seed in (3, 4)
    }

    trained = []
    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, *args: trained.append(self.args.seed) or train(self, *args))
    complete(*command("other", "one/student", seeds=[4, 5], learning_rate=1e-3))  # a seed more is a run more
    assert trained == [5, 5]
    message = fail(capfd, *command("other", learning_rate=1e-3))
    assert message.startswith("out holds another run (seed: None there, 42 now)")


def test_each_seed_gives_what_it_gives_alone(place):
    write(place / "train.jsonl", classes(40))
    write(place / "validation.jsonl", classes(20), seed=1)
    complete(*command("other", seeds=[7, 8], learning_rate=2e-4))
    both = [each["accuracy"] for each in results(place)["results"]]
    for seed, accuracy in zip((7, 8), both, strict=True):
        complete(*command("other", seed=seed, learning_rate=2e-4, restart="true"))
        assert results(place)["results"][0]["accuracy"] == accuracy


def test_classifiers_lie_in_folders_of_the_models_names(place, capfd):
    write(place / "train.jsonl", classes(20))
    write(place / "validation.jsonl", classes(20))
    complete(*command("one/student", "two/student", "other", save_models="true"))
    shown, progress = capfd.readouterr()
    table = (place / "out" / "results.md").read_text()
    for model, name in (("one/student", "one-student"), ("two/student", "two-student"), ("other", "other")):
        assert (place / "out" / name / "classifier" / "model.safetensors").is_file()
        assert f"classifier of {model}: out/{name}/classifier" in shown
        assert f"{name}: accuracy " in progress
        assert f"{name}: fine-tuning:" in progress
        assert f"| {name} " in table


def test_models_take_the_names_that_are_given(place, capfd):
    write(place / "train.jsonl", classes(20))
    write(place / "validation.jsonl", classes(20))
    complete(*command("one/student", "two/student", names=["a", "b"], save_models="true"))
    assert [each["name"] for each in results(place)["results"]] == ["a", "b"]
    assert (place / "out" / "a" / "classifier" / "config.json").is_file()
    for names, message in (
        (["a"], "--names has 1 names for 2 models: give one for each, or none"),
        (["a", "a"], "--names has a twice: give each model a name of its own"),
        (["a", "x/y"], "--names 'x/y' can't be a folder's name: take letters"),
    ):
        assert fail(capfd, *command("one/student", "two/student", names=names)).startswith(message)


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_a_model_that_stands_there_twice_is_refused_however_it_is_written(place, capfd, names):
    write(place / "train.jsonl", classes(20))
    write(place / "validation.jsonl", classes(20))
    more = {"names": names} if names else {}
    message = fail(capfd, *command("one/student", str(place / "one" / "student"), **more))
    assert message.startswith(f"--models has {place}/one/student twice: give each model once")


def test_a_model_of_the_same_name_never_takes_another_s_place(place, capfd):
    write(place / "train.jsonl", classes(20))
    write(place / "validation.jsonl", classes(20))
    complete(*command("one/student"))
    message = fail(capfd, *command("two/student"))
    assert message.startswith(f"out/student holds the result of {place}/one/student, not of two/student: give each")
    complete(*command("two/student", names=["second"]))
    assert {file.parent.name for file in (place / "out").glob("*/result.json")} == {"student", "second"}


@pytest.mark.parametrize(
    ("sources", "given", "names"),
    [
        (["/a/b/student", "org/student", "/a/teacher"], [], ["b-student", "org-student", "teacher"]),
        (["/a/x/m", "/b/x/m"], [], ["a-x-m", "b-x-m"]),
        (["/a/m", "/a/m"], [], ["m", "m"]),
        (["/m", "/a/m"], [], ["m", "a-m"]),
        (["/a/Modell ä", "/a/!!"], [], ["Modell-ä", "model"]),
        (["/a/m", "/b/n", "/c/m"], ["n"], ["n", "b-n", "m"]),
    ],
)
def test_names_can_be_foreseen_and_are_one_to_a_model(sources, given, names):
    found = [Checkpoint(source, source, 1, {"source": source}) for source in sources]
    assert result_names(found, given) == names


def test_numbers_are_learned_and_judged_by_their_correlation(place):
    for name, count in (("train", 120), ("validation", 40)):
        write(place / f"{name}.jsonl", [([row % 6], float(row % 6) / 2) for row in range(count)], seed=count)
    complete(*command("other", num_train_epochs=8, learning_rate=2e-3, save_models="true"))
    (found,) = results(place)["results"]
    assert found["spearman"] > 0.8
    model = load_trained("out/other/classifier")
    assert model.problem == "regression"
    rows = [json.loads(line) for line in (place / "validation.jsonl").read_text().splitlines()]
    answers = model.logits([row["text"] for row in rows], max_length=16)[:, 0]
    labels = [row["label"] for row in rows]
    assert found["spearman"] == pytest.approx(spearmanr(labels, answers).statistic, abs=1e-4)
    assert found["pearson"] == pytest.approx(pearsonr(labels, answers).statistic, abs=1e-4)
    assert "Spearman %" in (place / "out" / "results.md").read_text()


def test_lists_of_classes_are_learned_and_judged_by_f1(place):
    for name, count in (("train", 120), ("validation", 40)):
        sets = [[kind for kind in range(3) if row >> kind & 1] for row in range(count)]
        write(place / f"{name}.jsonl", [(each, [f"c{kind}" for kind in each]) for each in sets], seed=count)
    complete(*command("other", num_train_epochs=10, learning_rate=2e-3, save_models="true"))
    (found,) = results(place)["results"]
    assert found["micro_f1"] > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(place / "out" / "other" / "classifier")
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "c0", 1: "c1", 2: "c2"}

    options = {"distill_from": "out/other/classifier", "output_dir": "again", "soft_target_weight": 1}
    write(place / "more.jsonl", [([0, 2, 30], "")] * 8)
    complete(*command("one/student", unlabelled="more.jsonl", **options))
    assert json.loads((place / "again" / "results.json").read_text())["results"][0]["unlabelled_rows"] == 8


def test_scores_are_those_of_other_libraries():
    logits = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, -0.1]])
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    answers = answers_of("multi_label_classification", logits)
    assert answers.tolist() == [[1, 0], [1, 1], [0, 0]]
    found = scores_of("multi_label_classification", ["a", "b"], labels, answers)
    assert found == {"micro_f1": pytest.approx(2 * 2 / 6), "macro_f1": pytest.approx((0.5 + 1) / 2)}
    assert found["macro_f1"] == f1_score(labels, answers, average="macro")
    same = scores_of("regression", ["score"], np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert same == {"spearman": 0.0, "pearson": 0.0}


def test_seeds_out_of_range(place, capfd):
    assert "seeds must be whole numbers from 0" in fail(capfd, *command("other", seeds=[-1]))


@pytest.mark.parametrize(("flag", "which"), [([], ""), (["--restart"], " without --restart")])
def test_one_who_stops_an_evaluation_is_told_how_it_goes_on(place, capfd, monkeypatch, flag, which):
    write(place / "train.jsonl", classes(20))
    write(place / "validation.jsonl", classes(20))
    train, trained = Trainer.train, []

    def stopped(self, *args, **options):
        trained.append(self)
        if len(trained) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, *args, **options)

    monkeypatch.setattr(Trainer, "train", stopped)
    told = command("one/student", "other")
    assert main([*told, *flag]) == 130
    assert lines_of(capfd.readouterr().err)[-1] == (
        f"tutorkd: stopped; the same command{which} continues with what isn't finished"
    )
    complete(*told)
    assert len(trained) == 3
    assert "student: accuracy" in (shown := capfd.readouterr().err)
    assert "finished before, in out/student/result.json" in shown


def test_a_table_shortens_paths_and_no_other_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "student").mkdir(parents=True)
    (tmp_path / "student").mkdir()
    assert shown_names(["student", "org/teacher", "student"]) == ["student", "teacher", "student"]
    assert shown_names(["student", "a/student"]) == [f"{tmp_path.name}-student", "a-student"]
    assert shown_names(["Tutor-KD student", "teacher (int8)"]) == ["Tutor-KD student", "teacher (int8)"]
