"""`tutorkd distill-task` and `tutorkd predict`, from a tiny classifier to a small one and to answers in files."""

import csv
import datetime
import gzip
import json
import math
import os
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from commands import complete, fail, lines_of, save, save_causal, save_classifier, write_rows
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, Trainer

from tutorkd.cli.main import main
from tutorkd.evaluation import prediction, task_distillation
from tutorkd.evaluation.answers_file import answers_file
from tutorkd.evaluation.classifier import Classifier, load_trained
from tutorkd.evaluation.soft_target_arguments import SoftTargetWeights
from tutorkd.evaluation.task_arguments import TaskStudentArguments
from tutorkd.evaluation.task_first_stage import first_stage
from tutorkd.evaluation.task_student import make_student
from tutorkd.importance import watching

NAMES = ["no", "yes"]


classifier = partial(save_classifier, AutoModelForSequenceClassification, names=NAMES)


def texts(count, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(f"w{draw.integers(90)}" for _ in range(draw.integers(2, 10))) for _ in range(count)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where commands run: a teacher whose labels the rows have, and other text."""
    monkeypatch.chdir(tmp_path)
    teacher = load_trained(classifier(tmp_path / "teacher"))
    for seed, (name, count) in enumerate((("train", 64), ("validation", 32))):
        found = texts(count, seed)
        answers = teacher.logits(found, max_length=32).argmax(-1)
        write_rows(
            tmp_path / f"{name}.jsonl",
            [{"text": text, "label": NAMES[answer]} for text, answer in zip(found, answers, strict=True)],
        )
    write_rows(tmp_path / "more.jsonl", [{"text": text} for text in texts(40, 5)])
    return tmp_path


@pytest.fixture
def student_alone(monkeypatch):
    """The command makes the student, and neither its files nor the table."""
    monkeypatch.setattr("tutorkd.evaluation.task_command._export", lambda task: None)
    monkeypatch.setattr("tutorkd.evaluation.task_command._measure", lambda task, exported: [])


DISTILL = [
    *("distill-task", "--teacher", "teacher", "--validation", "validation.jsonl", "--output_dir", "out"),
    *("--max_length", "32", "--bf16", "false", "--num_train_epochs", "4", "--learning_rate", "1e-3"),
]


def test_the_student_starts_as_the_layers_and_the_head_of_its_teacher(tmp_path):
    teacher = load_trained(classifier(tmp_path / "teacher"))
    student, _, start = make_student("half", teacher, {}, seed=0)
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == {0: "no", 1: "yes"}
    assert start.endswith("its layers from the teacher's 2, 4; 2 tensors of the head")
    own, there = student.state_dict(), {name: weight.cpu() for name, weight in teacher.model.state_dict().items()}
    for name, weight in own.items():
        origin = name.replace("layer.1.", "layer.3.").replace("layer.0.", "layer.1.")
        assert torch.equal(weight, there[origin]), name
    # With all of the layers it is the teacher, whose answers it gives.
    whole, tokenizer, _ = make_student("half", teacher, {"num_hidden_layers": 4}, seed=0)
    tokens = tokenizer("w1 w2 w3", return_tensors="pt")
    with torch.no_grad():
        assert whole.eval()(**tokens).logits[0].tolist() == pytest.approx(
            teacher.logits(["w1 w2 w3"], max_length=32)[0].tolist(), abs=1e-4
        )


def test_an_encoder_of_ones_own_gets_a_head_for_the_teacher_s_classes(tmp_path):
    teacher = load_trained(classifier(tmp_path / "teacher", names=["b", "a", "c"]))
    encoder = tiny.masked_lm("distilbert", num_hidden_layers=1)
    student, _, start = make_student(save(encoder, tmp_path / "encoder"), teacher, {}, seed=0)
    assert student.config.id2label == {0: "b", 1: "a", 2: "c"}
    assert torch.equal(
        student.distilbert.embeddings.word_embeddings.weight, encoder.distilbert.embeddings.word_embeddings.weight
    )
    assert start.endswith("encoder under a new head")


def test_a_dry_run_tells_what_would_be_made_and_writes_nothing(place, capsys, student_alone):
    told = [*DISTILL, "--train", "train.jsonl", "--unlabelled", "more.jsonl", "--per_device_train_batch_size", "16"]
    complete(*told, "--dry_run")
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["teacher"].startswith("teacher: bert, 4 layers, hidden size 32, 4 heads, 128 neurons a layer, 0.1 M")
    assert shown["student"].startswith("thin: bert, 4 layers, hidden size 32, 4 heads, 32 neurons a layer, ")
    assert "slices, those that matter most on the text, if that can be told" in shown["student"]
    assert shown["student"].endswith("2 tensors of the head")
    assert shown["rows"] == "64 to train on, 32 to measure on"
    assert shown["without"] == "labels 40 rows"
    assert shown["steps"] == "28, of 16 rows"  # 104 rows are 7 steps, four times
    assert shown["time"].endswith(" s on this machine, and then the int8 file and the table")
    assert not (place / "out").exists()
    complete(*told)
    capsys.readouterr()
    complete(*told, "--dry_run")
    assert "time           the student is finished, in out/student; " in capsys.readouterr().out


def test_a_first_stage_on_text_makes_the_student_that_learns_the_task(place, capfd, student_alone, monkeypatch):
    (place / "corpus.txt").write_text("\n\n".join(texts(200, 7)))
    stage = {"max_steps": 3, "max_length": 16, "per_device_train_batch_size": 4}
    (place / "recipe.yaml").write_text(json.dumps({"first_stage": stage, "num_train_epochs": 1}))
    told = [*DISTILL[:-4], "--train", "train.jsonl", "--config", "recipe.yaml", "--corpus", "corpus.txt"]
    told += ["--relation_heads", "4"]
    complete(*told, "--dry_run")
    shown = capfd.readouterr().out
    assert "first stage minilm-v2, 3 steps, in out/_first_stage" in " ".join(shown.split())
    assert "method   MiniLM v2" in shown
    assert not (place / "out").exists()
    complete(*told)
    shown = capfd.readouterr().out
    assert "stage 1 of 2: minilm-v2, 3 steps, in out/_first_stage\n" in shown
    assert "student: the first stage's, with 2 tensors of the teacher's head\n" in shown
    record = json.loads((place / "out" / "student" / "distillation.json").read_text())
    assert record["settings"]["first_stage"]["max_steps"] == 3
    first = AutoModel.from_pretrained(place / "out" / "_first_stage").state_dict()
    teacher = load_trained(str(place / "teacher"))
    student, _, _ = make_student("half", teacher, {}, 0, place / "out" / "_first_stage")
    assert torch.equal(student.classifier.weight, teacher.model.classifier.weight.cpu())
    for name, weight in student.base_model.encoder.state_dict().items():
        assert torch.equal(weight, first[f"encoder.{name}"]), name
    # Given again, the command does neither stage again; with another first stage it refuses.
    with monkeypatch.context() as patch:
        patch.setattr("tutorkd.evaluation.task_distillation.build_trainer", lambda *args: 1 / 0)
        complete(*told)
    (place / "recipe.yaml").write_text(json.dumps({"first_stage": {**stage, "max_steps": 4}, "num_train_epochs": 1}))
    assert "out holds another run (first_stage" in fail(capfd, *told)


def test_a_first_stage_may_be_of_another_method(place):
    args = TaskStudentArguments(teacher="teacher", corpus=["corpus.txt"], student_layers=1, seed=3, output_dir="out")
    weights = SoftTargetWeights(relation_heads=4)
    told = first_stage(args, weights, None)
    assert (told.args.method, told.args.student_layers, told.config.seed) == ("minilm-v2", 1, 3)
    assert (told.settings.relation_heads, told.config.train_batch_size) == (4, 32)
    assert told.config.output_dir == "out/_first_stage"
    other = first_stage(args, weights, {"method": "mlm", "learning_rate": 1e-3, "per_device_train_batch_size": 8})
    assert (other.args.method, other.config.learning_rate, other.config.train_batch_size) == ("mlm", 1e-3, 8)
    assert first_stage(TaskStudentArguments(teacher="teacher"), weights, None) is None


def test_what_a_first_stage_can_t_be_is_told_before_anything_is_trained(place, capfd):
    for section, message in (
        ({"student": "half"}, "first_stage: student isn't to be set there: it follows from the rest of the recipe"),
        ("half", "first_stage: must be a mapping of keys to values"),
        ({"max_step": 3}, "first_stage: unknown key 'max_step'; did you mean max_steps?"),
        ({"max_steps": 3}, "--corpus"),
    ):
        (place / "recipe.yaml").write_text(json.dumps({"first_stage": section}))
        assert message in fail(capfd, *DISTILL, "--train", "train.jsonl", "--config", "recipe.yaml")
    assert not (place / "out" / "student").exists()


def test_one_command_gives_a_student_its_int8_file_and_a_table_and_goes_on(place, capsys, monkeypatch):
    complete(*DISTILL, "--train", "train.jsonl", "--unlabelled", "more.jsonl")
    shown = capsys.readouterr().out
    table = (place / "out" / "results.md").read_text()
    assert table in shown
    assert shown.endswith("\nall of it on one page: out/report.html\n")
    assert "64 labelled rows and 40 rows without" in table
    student = AutoModelForSequenceClassification.from_pretrained(place / "out" / "student")
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (4, 32)
    assert (place / "out" / "student" / "onnx" / "model_quantized.onnx").is_file()
    models = json.loads((place / "out" / "results.json").read_text())["models"]
    assert [each["name"] for each in models] == ["teacher", "student", "student, int8"]
    assert models[0]["scores"]["accuracy"] == models[0]["agreement"] == 1  # the labels are its answers
    # Measured by other means: one row at a time.
    rows = [json.loads(line) for line in (place / "validation.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        with torch.no_grad():
            right += (
                NAMES[student.eval()(**tiny.tokenizer()(row["text"], return_tensors="pt")).logits.argmax()]
                == row["label"]
            )
    assert models[1]["scores"]["accuracy"] == models[1]["agreement"] == pytest.approx(right / 32)
    share = right / 32
    assert models[1]["standard_error"] == pytest.approx((share * (1 - share) / 32) ** 0.5)
    (told,) = (line.split("|")[4].strip() for line in table.splitlines() if line.startswith("| student  "))
    assert told == f"{100 * share:.1f} ± {100 * (share * (1 - share) / 32) ** 0.5:.1f}"
    assert models[2]["bytes"] == (place / "out" / "student" / "onnx" / "model_quantized.onnx").stat().st_size

    monkeypatch.setattr(Trainer, "train", None)
    monkeypatch.setattr("tutorkd.export.exporter.export", None)
    complete(*DISTILL, "--train", "train.jsonl", "--unlabelled", "more.jsonl")
    assert "the student is finished, in out/student" in capsys.readouterr().out


def test_a_student_is_stopped_and_begun_anew_and_another_is_refused(place, capfd, student_alone, monkeypatch):
    told = [*DISTILL, "--train", "train.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr("tutorkd.evaluation.task_distillation.build_trainer", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            complete(*told)
    complete(*told)
    before = (place / "out" / "student" / "model.safetensors").read_bytes()
    message = fail(capfd, *told, "--seed", "1")
    assert message.startswith(
        "out holds another run (seed: 42 there, 1 now); choose another --output_dir, or --restart"
    )
    complete(*told, "--seed", "1", "--restart")
    assert (place / "out" / "student" / "model.safetensors").read_bytes() != before
    (place / "other" / "student").mkdir(parents=True)
    (place / "other" / "student" / "mine.txt").write_text("")
    message = fail(capfd, *told, "--output_dir", "other", "--restart")
    assert message.startswith("other/student holds something that tutorkd distill-task didn't write")
    assert (place / "other" / "student" / "mine.txt").exists()


def test_results_of_another_command_are_left_alone(place, capfd):
    for results in (
        {"settings": {}, "results": []},
        {"settings": {}, "machine": {}, "models": [{"tasks": {"rte": {}}}]},
    ):
        (place / "out").mkdir(exist_ok=True)
        (place / "out" / "results.json").write_text(json.dumps(results))
        for more in ([], ["--restart"]):
            told = fail(capfd, *DISTILL, "--train", "train.jsonl", *more)
            assert (
                told
                == "out/results.json wasn't written by tutorkd distill-task, or is damaged: choose another --output_dir"
            )
        assert json.loads((place / "out" / "results.json").read_text()) == results


def test_columns_are_looked_for_before_a_model_is_loaded(place, capfd, monkeypatch):
    for loader in ("evaluation.task_teacher.load_trained", "evaluation.prediction.load_trained"):
        monkeypatch.setattr(f"tutorkd.{loader}", None)
    monkeypatch.setattr("tutorkd.export.exporter.load_source", None)
    write_rows(place / "odd.jsonl", [{"txt": "w1", "label": "no"}, {"txt": "w2", "label": "yes"}])
    train, predict = ["--train", "train.jsonl"], ["predict", "--model", "teacher", "--output", "answers.csv"]
    taught = ["--distill_from", "teacher", "--validation", "validation.jsonl", "--max_length", "32"]
    for command in (
        [*DISTILL, "--train", "odd.jsonl"],
        [*DISTILL, *train, "--validation", "odd.jsonl"],
        [*DISTILL, *train, "--unlabelled", "odd.jsonl"],
        ["evaluate", "--models", "teacher", *train, *taught, "--unlabelled", "odd.jsonl"],
        [*predict, "--text", "odd.jsonl"],
        ["export", "--model", "teacher", "--validation", "odd.jsonl"],
        ["export", "--model", "teacher", "--texts", "odd.jsonl"],
    ):
        said = "no column 'text' among txt, label; did you mean 'txt'? Name it with --text_column txt"
        assert fail(capfd, *command).endswith(f"odd.jsonl: line 1: {said}")


def test_text_alone_is_enough_and_labels_are_put_in_the_teacher_s_order(place, student_alone, monkeypatch, capfd):
    classifier(place / "teacher", names=["yes", "no"])
    seen = []

    def seen_by(task, *args):
        seen.append(task)

    monkeypatch.setattr("tutorkd.evaluation.task_command.train_student", seen_by)
    complete(*DISTILL, "--unlabelled", "more.jsonl")
    (task,) = seen
    assert (len(task.train), len(task.unlabelled)) == (0, 40)
    assert task.teacher.soft.soft_target_weight == 1
    assert task.validation.features["label"].names == ["yes", "no"]
    rows = [json.loads(line) for line in (place / "validation.jsonl").read_text().splitlines()]
    assert task.validation["label"][:] == [["yes", "no"].index(row["label"]) for row in rows]
    taught = task.teacher.taught(task.train, 32, task.unlabelled)
    assert taught["labelled"][:] == [0.0] * 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "train.jsonl", "--teacher", "encoder"], "the teacher encoder isn't a fine-tuned classifier"),
        (["--teacher", ""], "give the classifier to distil: --teacher PATH_OR_NAME"),
        (["--validation", ""], "no validation data: --validation takes a csv"),
        (
            ["--train", "train.jsonl", "--max_length", "65"],
            "max_length 65 is longer than the 64 positions of the model",
        ),
        (["--unlabelled", "validation.jsonl"], "validation.jsonl: all of its 32 rows are also in the validation set"),
        (
            ["--train", "train.jsonl", "--unlabelled", "more.jsonl", "--soft_target_weight", "0"],
            "text without labels only has soft targets: give a soft_target_weight above 0",
        ),
        ([], "nothing to train on: give labelled rows with --train, text with --unlabelled, or both"),
        (["--train", "train.jsonl", "--student", "none/"], "the model none/: there is no such folder"),
        (
            ["--train", "odd.jsonl"],
            "teacher can't be learned from: its classes are no, yes, but those of the labels are",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_one_line(place, capfd, options, message):
    torch.manual_seed(0)
    save(AutoModelForMaskedLM.from_config(tiny.config("bert")), place / "encoder")
    write_rows(place / "odd.jsonl", [{"text": "w1", "label": "maybe"}, {"text": "w2", "label": "no"}])
    capfd.readouterr()
    assert main([*DISTILL, *options]) == 2
    assert message in lines_of(capfd.readouterr().err)[-1]


def softmax(logits):
    powers = [math.exp(value) for value in logits]
    return [power / sum(powers) for power in powers]


def read_answers(path):
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("source", "output"), [("a.csv", "b.jsonl"), ("a.jsonl", "b.parquet"), ("a.parquet", "b.csv")])
def test_each_row_gets_the_label_and_probabilities_of_its_text_in_its_place(place, monkeypatch, capsys, source, output):
    monkeypatch.setattr(prediction, "_CHUNK", 7)
    found = [*texts(20, 8), None, "w1, with a comma", "w1 \r w2", 'w1 \n "w2"']
    if source == "a.csv":
        with (place / source).open("w", newline="") as file:
            csv.writer(file).writerows([["text", "other"], *([text or "", "x"] for text in found)])
    elif source == "a.jsonl":
        write_rows(place / source, [{"text": text, "other": 1} for text in found])
    else:
        pq.write_table(pa.table({"text": found, "other": [1] * len(found)}), place / source)
    complete("predict", "--model", "teacher", "--text", source, "--output", output, "--max_length", "32")
    assert f"written to {output}: 24 rows, 1 without a text, which have no answer" in capsys.readouterr().out
    answers = read_answers(place / output)
    assert [row["text"] or None for row in answers] == found
    assert b"\r\n" not in (place / output).read_bytes() or output == "b.parquet"
    model = AutoModelForSequenceClassification.from_pretrained(place / "teacher").eval()
    for row in answers:
        assert list(row) == ["text", "label", "probability_no", "probability_yes"]
        if not row["text"]:
            assert row["label"] is None
            assert row["probability_yes"] is None
            continue
        with torch.no_grad():
            (logits,) = model(**tiny.tokenizer()(row["text"], return_tensors="pt")).logits.tolist()
        wanted = softmax(logits)
        assert [float(row["probability_no"]), float(row["probability_yes"])] == pytest.approx(wanted, abs=1e-5)
        assert row["label"] == NAMES[wanted.index(max(wanted))]
    assert not list(place.glob(".*partial"))


def test_files_parted_by_tabs_or_semicolons_or_compressed_are_read_alike_and_tabs_are_written(place):
    found = texts(6, 8)
    write_rows(place / "a.jsonl", [{"text": text} for text in found])
    lines = ["id{0}text", *(f"{number}{{0}}{text}" for number, text in enumerate(found))]
    (place / "a.tsv").write_text("\n".join(lines).format("\t"))
    (place / "a.csv").write_text("\n".join(lines).format(";"))
    with gzip.open(place / "a.jsonl.gz", "wb") as file:
        file.write((place / "a.jsonl").read_bytes())
    for number, source in enumerate(["a.jsonl", "a.tsv", "a.csv", "a.jsonl.gz"]):
        complete("predict", "--model", "teacher", "--text", source, "--output", f"{number}.tsv")
    with (place / "0.tsv").open(newline="") as file:
        first = list(csv.DictReader(file, delimiter="\t"))
    assert [row["text"] for row in first] == found
    assert list(first[0]) == ["text", "label", "probability_no", "probability_yes"]
    for number in (1, 2, 3):
        assert (place / f"{number}.tsv").read_bytes() == (place / "0.tsv").read_bytes()


def test_other_columns_are_kept_on_request_ahead_of_the_text(place):
    found, day = texts(3, 8), datetime.date(2026, 11, 27)
    kept = {"id": [7, 8, 9], "source": [{"page": 1}, None, {"page": 3}], "day": [day] * 3}
    pq.write_table(pa.table({"text": found, **kept}), place / "a.parquet")
    rows = [{"text": text, "id": 7 + number, "source": {"page": number}} for number, text in enumerate(found)]
    write_rows(place / "a.jsonl", rows)
    (place / "a.csv").write_text("id,text\n" + "".join(f"00{number},{text}\n" for number, text in enumerate(found)))

    def answered(source, output, *columns):
        flags = ["--model", "teacher", "--text", source, "--output", output]
        complete("predict", *flags, "--keep_columns", *columns, "text")  # the text is there once
        return read_answers(place / output)

    answers = ["label", "probability_no", "probability_yes"]
    of_parquet = answered("a.parquet", "b.parquet", "id", "source", "day")
    assert list(of_parquet[0]) == ["id", "source", "day", "text", *answers]
    assert [row["text"] for row in of_parquet] == found
    for name, values in kept.items():
        assert [row[name] for row in of_parquet] == values
    plain = answered("a.parquet", "c.csv", "id", "source", "day")
    assert [(row["id"], row["source"], row["day"]) for row in plain] == [
        ("7", '{"page": 1}', "2026-11-27"),
        ("8", None, "2026-11-27"),
        ("9", '{"page": 3}', "2026-11-27"),
    ]
    assert [row["day"] for row in answered("a.parquet", "d.jsonl", "day")] == ["2026-11-27"] * 3
    assert [row["source"] for row in answered("a.jsonl", "e.jsonl", "source")] == [row["source"] for row in rows]
    untyped = answered("a.jsonl", "f.parquet", "id", "source")
    assert (untyped[0]["id"], untyped[0]["source"]) == ("7", '{"page": 0}')
    assert [row["id"] for row in answered("a.csv", "g.parquet", "id")] == ["000", "001", "002"]
    assert [row["label"] for row in untyped] == [row["label"] for row in of_parquet]


def test_several_classes_numbers_and_pairs_are_answered(place):
    classifier(place / "several", names=["a", "b", "c"], problem_type="multi_label_classification")
    classifier(place / "number", names=["score"])
    write_rows(place / "a.jsonl", [{"one": "w1 w2", "two": "w3"}, {"one": "w9", "two": "w5 w6 w7"}])
    pair = ["--text", "a.jsonl", "--text_column", "one", "--text_pair_column", "two"]
    complete("predict", "--model", "several", *pair, "--output", "b.jsonl")
    complete("predict", "--model", "several", *pair, "--output", "b.csv")
    complete("predict", "--model", "number", *pair, "--output", "c.parquet")
    logits = load_trained("several").logits(["w1 w2", "w9"], ["w3", "w5 w6 w7"], max_length=128)
    for row, of_row in zip(read_answers(place / "b.jsonl"), logits, strict=True):
        assert row["label"] == [name for name, logit in zip("abc", of_row, strict=True) if logit > 0]
        for name, logit in zip("abc", of_row, strict=True):
            assert row[f"probability_{name}"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    in_csv = [json.loads(row["label"]) for row in read_answers(place / "b.csv")]
    assert in_csv == [row["label"] for row in read_answers(place / "b.jsonl")]
    numbers = load_trained("number").logits(["w1 w2", "w9"], ["w3", "w5 w6 w7"], max_length=128)[:, 0]
    found = read_answers(place / "c.parquet")
    assert list(found[0]) == ["one", "two", "label"]
    assert [row["label"] for row in found] == pytest.approx(numbers.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "none.jsonl"}, "the file none.jsonl isn't there; did you mean more.jsonl?"),
        ({"text": "a.txt"}, "a.txt: give a file that ends in .csv, .tsv, .jsonl, .json, .parquet"),
        ({"output": "a.csv.gz"}, "a.csv.gz: give --output a name that ends in .csv, .tsv, .jsonl, .json, .parquet"),
        ({"output": "./more.jsonl"}, "more.jsonl is the file that is read: give --output another name"),
        ({"text_column": "txt"}, "no column 'txt'"),
        ({"model": "encoder"}, "the model encoder isn't a fine-tuned classifier, it is a BertForMaskedLM"),
        ({"model": "decoder"}, "a LlamaForCausalLM; fine-tune it first with transformers, as an AutoModelForSequence"),
        ({"model": "results"}, "/results; there is one in it: results/student"),
        ({"text": "number.jsonl"}, "number.jsonl: line 1: column 'text' holds int, not text"),
        ({"text": "labelled.jsonl", "text_column": "label"}, "the column 'label' of labelled.jsonl would be one of"),
        (
            {"text": "both.jsonl", "keep_columns": "label"},
            "the column 'label' of both.jsonl would be one of the answers",
        ),
        ({"text": "both.jsonl", "keep_columns": "labels"}, "both.jsonl: line 1: no column 'labels'"),
        ({"text": "empty.csv"}, "empty.csv is empty: there are no rows"),
        ({"model": ""}, "tutorkd predict takes --model CLASSIFIER --text FILE --output FILE; --model is missing"),
    ],
)
def test_what_cannot_be_predicted_is_refused_and_leaves_nothing(place, capfd, changes, message):
    save(tiny.masked_lm(), place / "encoder")
    save_causal(tiny.tiny_causal(), place / "decoder")
    save(tiny.masked_lm(), place / "results" / "student")
    (place / "results" / "student" / "onnx").mkdir()
    (place / "results" / "student" / "onnx" / "model.onnx").write_bytes(b"")
    write_rows(place / "number.jsonl", [{"text": 5}])
    write_rows(place / "labelled.jsonl", [{"label": "w5"}])
    write_rows(place / "both.jsonl", [{"label": "w5", "text": "w6"}])
    (place / "empty.csv").write_text("text\n")
    told = {"model": "teacher", "text": "more.jsonl", "output": "answers.csv"} | changes
    assert message in fail(capfd, "predict", *(word for key, value in told.items() for word in (f"--{key}", value)))
    assert not list(place.glob("*answers*"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_two_processes_that_answer_to_one_file_leave_the_whole_answers_of_the_last(tmp_path, monkeypatch, name):
    def answered(label, count, process):
        monkeypatch.setattr(os, "getpid", lambda: process)
        return [
            {"text": f"w{row}", "label": label, "probability_no": 0.5, "probability_yes": 0.5} for row in range(count)
        ]

    model, path = load_trained(classifier(tmp_path / "model")), tmp_path / name
    first = answered("no", 3, 1)
    with answers_file(path, {}, ["text"], model) as write:
        second = answered("yes", 2, 2)
        with answers_file(path, {}, ["text"], model) as write_too:
            write_too(second)
            write(first)
        assert [row["label"] for row in read_answers(path)] == ["yes"] * 2
    assert [row["label"] for row in read_answers(path)] == ["no"] * 3
    assert not list(tmp_path.glob(".*"))


def test_a_narrower_student_starts_from_what_matters_on_the_task_s_rows(place):
    teacher = load_trained("teacher")
    sizes = {"hidden_size": 16, "intermediate_size": 24}
    found = texts(64, 3)
    student, _, start = make_student("half", teacher, sizes, 0, None, lambda: teacher.logits(found, max_length=32))
    evenly, _, _ = make_student("half", teacher, sizes, 0)
    rows = teacher.tokenizer(found, padding=True, return_tensors="pt")
    with watching(teacher.model.base_model) as watch:
        teacher.model(**rows)
    expected = watch.importance().hidden.topk(16).indices.sort().values
    embeddings = teacher.model.get_input_embeddings().weight
    assert torch.equal(student.get_input_embeddings().weight, embeddings[:, expected])
    assert torch.equal(student.classifier.weight, teacher.model.classifier.weight[:, expected])
    assert not torch.equal(evenly.get_input_embeddings().weight, student.get_input_embeddings().weight)
    assert "as slices, those that matter most on the text, its layers" in start


def test_what_matters_to_a_task_is_chosen_on_rows_of_all_classes(place, student_alone, monkeypatch):
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: row["label"])
    write_rows(place / "sorted.jsonl", [row for row in rows for _ in range(10)])  # 640, of which 256 are read
    read = []
    logits = Classifier.logits
    monkeypatch.setattr(
        Classifier, "logits", lambda self, texts, *rest, **how: read.append(texts) or logits(self, texts, *rest, **how)
    )
    monkeypatch.setattr(task_distillation, "run_training", lambda trainer: None)
    complete(*DISTILL, "--train", "sorted.jsonl")
    label = {row["text"]: row["label"] for row in rows}
    found = next([label[text] for text in texts] for texts in read if len(texts) == 256)
    assert 0.8 < found.count("no") / 256 * len(rows) / sum(row["label"] == "no" for row in rows) < 1.2
