"""ONNX files beside the models that they were made of."""

import json
import os
import re
import signal

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import tiny
import torch
from commands import complete, fail, save, save_causal, set_json, write_rows
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from tutorkd.cli import export as command
from tutorkd.cli.main import main
from tutorkd.export import exporter, to_onnx
from tutorkd.export.check import check
from tutorkd.export.to_onnx import write_float32

pytestmark = pytest.mark.usefixtures("graphs_written_once")

TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9", "w20", "w30 w31 w30 w90"]
FILES = ["model.onnx", "model_quantized.onnx"]


def onnx_output(file, tokens):
    session = onnxruntime.InferenceSession(file)
    (output,) = session.run(None, {each.name: tokens[each.name] for each in session.get_inputs()})
    return output


def encoder(seed=0):
    return tiny.masked_lm("bert", seed, num_hidden_layers=1).base_model


def tokens_of(texts):
    return tiny.tokenizer()(texts, padding=True, return_tensors="np")


def classifier(place, kind=AutoModelForSequenceClassification, labels=("no", "maybe", "yes")):
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = tiny.config(
        "bert", num_hidden_layers=1, initializer_range=0.5, id2label=names, label2id={v: k for k, v in names.items()}
    )
    model = kind.from_config(config).eval()
    return model, save(model, place / "classifier")


def test_a_causal_language_model_isn_t_exported_and_what_takes_it_is_named(place, capfd):
    told = fail(capfd, "export", "--model", save_causal(tiny.tiny_causal(), place / "decoder"))
    assert "is a causal language model, and export writes files of encoders alone" in told
    assert "llama.cpp" in told


@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "distilbert", "modernbert"])
def test_the_files_of_an_encoder_give_its_hidden_states_for_other_batches_and_lengths(place, family, capsys):
    model = tiny.masked_lm(family, num_hidden_layers=2).base_model
    complete("export", "--model", save(model, place / "student"), "--output_dir", "out")
    tokens = tokens_of(TEXTS)
    taken = {name: torch.tensor(tokens[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**taken).last_hidden_state.numpy()
    kept = tokens["attention_mask"].astype(bool)
    exact, rounded = (onnx_output(f"out/onnx/{name}", tokens)[kept] for name in FILES)
    np.testing.assert_allclose(exact, expected[kept], rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(rounded, axis=-1) * np.linalg.norm(expected[kept], axis=-1)
    assert ((rounded * expected[kept]).sum(-1) / lengths).min() > 0.98
    assert not np.array_equal(rounded, exact)
    shown = capsys.readouterr().out
    assert "64 rows of random tokens" in shown
    assert AutoConfig.from_pretrained("out").model_type == family
    assert AutoTokenizer.from_pretrained("out").tokenize("w1 w2") == ["w1", "w2"]
    text = (place / "out" / "onnx" / "export.json").read_text() + (place / "out" / "README.md").read_text()
    assert str(place) not in text  # what is published names no path of this machine
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    assert [file["bytes"] for file in record["files"][1:]] == [
        (place / "out" / "onnx" / name).stat().st_size for name in FILES
    ]


def test_the_head_of_a_masked_language_model_is_left_out(place, capsys):
    model = tiny.masked_lm("bert", num_hidden_layers=1)
    complete("export", "--model", save(model, place / "student"), "--output_dir", "out")
    assert "Only the body was exported, without the head of BertForMaskedLM." in capsys.readouterr().out
    tokens = tokens_of(TEXTS[:1])
    with torch.no_grad():
        expected = model.base_model(torch.tensor(tokens["input_ids"])).last_hidden_state.numpy()
    np.testing.assert_allclose(onnx_output("out/onnx/model.onnx", tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_a_classifier_is_measured_on_labelled_rows(place, capsys, named):
    model, path = classifier(place)
    tokens = tokens_of(texts := tiny.documents(20))
    with torch.no_grad():
        logits = model(**{name: torch.tensor(tokens[name]) for name in tokens}).logits.numpy()
    answers = logits.argmax(-1)
    assert len(set(answers)) > 1
    codes = np.where(np.arange(20) % 4 == 0, (answers + 1) % 3, answers)  # every fourth is wrong: 75 %
    labels = [model.config.id2label[code] for code in codes] if named else codes
    pd.DataFrame({"text": texts, "label": labels}).to_csv("rows.csv", index=False)
    complete("export", "--model", path, "--output_dir", "out", "--validation", "rows.csv")
    np.testing.assert_allclose(onnx_output("out/onnx/model.onnx", tokens), logits, rtol=1e-4, atol=1e-5)
    rows = [
        line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "---" not in line
    ]
    assert [rows[0][column].strip() for column in (6, 7, 8)] == ["same answer %", "accuracy %", "macro F1 %"]
    assert [rows[1][column].strip() for column in (6, 7)] == ["-", "75.0"]
    assert [rows[2][column].strip() for column in (6, 7)] == ["100.0", "75.0"]
    card = (place / "out" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    code = card.split("```python\n")[1].split("```")[0]
    long = " ".join(["w1"] * 500)  # has more tokens than the model has positions
    for name in ("THIS_FOLDER_OR_REPOSITORY", "THIS_FOLDER"):
        code = code.replace(name, "out")
    assert AutoTokenizer.from_pretrained("out").model_max_length == 64
    exec(code.replace('"a text"', f'"{texts[0]}"').replace("another", long), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"['{model.config.id2label[answers[0]]}', ")


def test_a_tagger_gives_logits_for_each_token(place):
    _, path = classifier(place, AutoModelForTokenClassification)
    (place / "text.txt").write_text("\n\n".join(TEXTS))
    complete("export", "--model", path, "--output_dir", "out", "--texts", "text.txt")
    assert onnx_output("out/onnx/model.onnx", tokens_of(TEXTS)).shape == (3, 11, 3)
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    assert record["checked_on"] == "the first 3 documents of the text, cut at 64 tokens"
    assert record["files"][1]["agreement"] == 1
    assert "pipeline_tag: token-classification" in (place / "out" / "README.md").read_text()


@pytest.mark.parametrize("max_length", [8, 64])
def test_a_tagger_is_measured_on_labelled_words(place, max_length):
    names = ("O", "B-X", "I-X")
    model, path = classifier(place, AutoModelForTokenClassification, names)
    words = [[f"w{row + place}" for place in range(2 + row % 9)] for row in range(20)]
    words[0] = ["w1 w2", "w3"]  # the first word is of two pieces
    words[3] = ["w1", " ", "w2"]  # of the second word nothing is left
    rows, right, counted = [], 0, 0
    for of_row in words:
        ids, at = [2], []
        for word in of_row:
            pieces = tiny.tokenizer()(word, add_special_tokens=False)["input_ids"]
            at.append(len(ids) if pieces else None)
            ids += pieces
        with torch.no_grad():
            codes = model(torch.tensor([[*ids[: max_length - 1], 3]])).logits[0].argmax(-1).tolist()
        labels = []
        for place_of_word in at:
            there = place_of_word is not None and place_of_word < max_length - 1
            wrong = there and (counted := counted + 1) % 4 == 0
            labels.append(names[(codes[place_of_word] + wrong) % 3] if there else "B-X")
            right += there and not wrong
        rows.append({"words": of_row, "tags": labels})
    write_rows(place / "rows.jsonl", rows)
    told = ["--text_column", "words", "--label_column", "tags", "--max_length", str(max_length)]
    complete("export", "--model", path, "--output_dir", "out", "--validation", "rows.jsonl", *told)
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    assert record["checked_on"] == f"20 labelled rows, cut at {max_length} tokens"
    for file in record["files"][:2]:
        assert file["scores"].keys() == {"entity_f1", "token_accuracy"}
        assert file["scores"]["token_accuracy"] == right / counted
    assert 0.7 < right / counted < 0.8


def test_a_regression_and_a_list_of_classes_are_measured_on_labelled_rows(place, capsys):
    texts = tiny.documents(20)
    regression, path = classifier(place, labels=["score"])
    with torch.no_grad():
        scores = [regression(torch.tensor(tokens_of([text])["input_ids"])).logits.item() for text in texts]
    scores[0], scores[1] = scores[1], scores[0]
    pd.DataFrame({"text": texts, "label": scores}).to_parquet("rows.parquet")
    complete("export", "--model", path, "--output_dir", "out", "--validation", "rows.parquet")
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    ranks = np.argsort(np.argsort(scores))
    swapped = int(ranks[0] - ranks[1])
    for file in record["files"][:2]:  # Spearman's 1 - 6 sum d^2 / (n (n^2 - 1))
        assert file["scores"]["spearman"] == pytest.approx(1 - 6 * 2 * swapped**2 / (20 * (20**2 - 1)))
    scores[0], scores[1] = scores[1], scores[0]
    pd.DataFrame({"text": texts, "label": range(20)}).to_csv("whole.csv", index=False)
    complete("export", "--model", path, "--output_dir", "whole", "--validation", "whole.csv")
    record = json.loads((place / "whole" / "onnx" / "export.json").read_text())
    expected = pd.Series(range(20)).corr(pd.Series(scores), method="spearman")
    assert record["files"][0]["scores"]["spearman"] == pytest.approx(expected)
    several, path = classifier(place)
    several.config.problem_type = "multi_label_classification"
    save(several, place / "classifier")
    with torch.no_grad():
        logits = [several(torch.tensor(tokens_of([text])["input_ids"])).logits[0] for text in texts]
    lists = [[several.config.id2label[code] for code in range(3) if of_text[code] > 0] for of_text in logits]
    assert any(lists)
    pd.DataFrame({"text": texts, "label": lists}).to_parquet("rows.parquet")
    complete("export", "--model", path, "--output_dir", "lists", "--validation", "rows.parquet")
    record = json.loads((place / "lists" / "onnx" / "export.json").read_text())
    assert [file["scores"]["micro_f1"] for file in record["files"][:2]] == [1, 1]
    code = (place / "lists" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for name in ("THIS_FOLDER_OR_REPOSITORY", "THIS_FOLDER"):
        code = code.replace(name, "lists")
    capsys.readouterr()
    exec(code.replace('"a text"', f'"{texts[0]}"').replace('"another"', f'"{texts[1]}"'), {})
    assert capsys.readouterr().out.strip() == str(lists[:2])


def test_answers_of_several_classes_are_compared_class_by_class():
    """The greatest logit is the same in both, but of four answers one isn't."""
    rows = [{"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1]}, {"input_ids": [2, 3], "attention_mask": [1, 1]}]
    files = {
        name: (1, lambda inputs, logits=logits: np.array(logits)[: len(inputs["input_ids"])])
        for name, logits in (("torch", [[3.0, 1.0], [-1.0, -2.0]]), ("file", [[3.0, -1.0], [-1.0, -2.0]]))
    }
    found = check(files, tiny.tokenizer(), [*rows[0]], rows, None, "multi_label_classification")[1]
    assert (found.agreement, found.lowest) == (0.75, None)


def test_labels_of_another_kind_than_the_model_s_answers_are_told(place, capfd):
    _, path = classifier(place)
    (place / "rows.csv").write_text("text,label\nw1,0.5\nw2,0.25\n")
    told = fail(capfd, "export", "--model", path, "--output_dir", "out", "--validation", "rows.csv")
    assert told == f"rows.csv has a number a row, and {path} gives one class a row"


def test_a_regression_is_compared_by_its_scores(place, capsys):
    _, path = classifier(place, labels=["score"])
    complete("export", "--model", path, "--output_dir", "out")
    assert "and the cosine between the scores of all rows and PyTorch's" in capsys.readouterr().out
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    assert record["files"][1]["agreement"] == pytest.approx(1, abs=1e-5)


def test_the_quantiser_is_told_the_shape_of_a_weight_once(place, monkeypatch):
    """It turns a classifier's weight round; a second note of the old shape then stops some versions of ONNX Runtime."""
    model, _ = classifier(place)
    write_float32(model, ["input_ids"], ["logits"], place / "model.onnx")
    given = []
    monkeypatch.setattr(to_onnx, "quantize_dynamic", lambda graph, *_, **__: given.append(graph))
    to_onnx.write_int8(place / "model.onnx", place / "int8.onnx")
    (graph,) = (each.graph for each in given)
    weights, noted = ({value.name for value in values} for values in (graph.initializer, graph.value_info))
    assert "model.classifier.weight" in weights
    assert not weights & noted
    assert noted  # other tensors keep theirs


def test_figures_are_those_of_their_definitions():
    rows = [{"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1]}, {"input_ids": [2, 3], "attention_mask": [1, 1]}]

    def answering(*logits):
        return lambda inputs: np.array(logits)[: len(inputs["input_ids"])]

    files = {"torch": (8, answering([1.0, 3], [2, 1])), "file": (2, answering([1.0, 3], [2, 4]))}
    names = ["input_ids", "attention_mask"]

    def scores(logits):
        return {"sum": float(logits.sum())}

    reference, found = check(files, tiny.tokenizer(), names, rows, scores, "single_label_classification")
    assert (reference.agreement, reference.scores, reference.difference, reference.bytes) == (1, {"sum": 7}, 0, 8)
    assert (found.agreement, found.scores) == (0.5, {"sum": 10})
    assert found.difference == pytest.approx(3 / np.sqrt((1 + 9 + 4 + 1) / 4))
    (_, found) = check(files, tiny.tokenizer(), names, rows, None, None)
    assert found.agreement == pytest.approx((1 + (2 * 2 + 1 * 4) / np.sqrt(5 * 20)) / 2)
    assert found.scores is None


def test_padding_doesn_t_count():
    rows = [{"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1]}, {"input_ids": [2, 3], "attention_mask": [1, 1]}]

    def answering(at_padding):
        def answer(inputs):
            return np.where(inputs["attention_mask"][..., None], [1.0, 2.0], at_padding)

        return answer

    files = {"torch": (1, answering([0.0, 0.0])), "file": (1, answering([9.0, -9.0]))}
    found = check(files, tiny.tokenizer(), ["input_ids", "attention_mask"], rows, None, None)[1]
    assert (found.difference, found.agreement) == (0, pytest.approx(1))


def test_files_may_stand_beside_the_weights_and_leave_all_else_alone(place):
    path = save(encoder(), place / "student")
    (place / "student" / "README.md").write_text("mine")
    before = {file.name: file.read_bytes() for file in (place / "student").iterdir()}
    complete("export", "--model", path, "--output_dir", path)
    after = {file.name: file.read_bytes() for file in (place / "student").iterdir() if file.is_file()}
    assert after == before | {"report.html": after["report.html"]}
    assert sorted(file.name for file in (place / "student" / "onnx").iterdir()) == ["export.json", *FILES]


def test_another_s_folder_is_left_alone(place, capfd):
    first, second = (save(encoder(seed), place / f"student-{seed}") for seed in (0, 1))
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    assert fail(capfd, "export", "--model", first, "--output_dir", "full").startswith(
        "full holds something that isn't an export of tutorkd; choose another"
    )
    complete("export", "--model", first, "--output_dir", "out")
    weights = (place / "out" / "onnx" / "model.onnx").read_bytes()
    assert "out holds the export of" in fail(capfd, "export", "--model", second, "--output_dir", "out")
    assert (place / "out" / "onnx" / "model.onnx").read_bytes() == weights
    complete("export", "--model", second, "--output_dir", "out", "--restart")
    assert (place / "out" / "onnx" / "model.onnx").read_bytes() != weights


def test_the_folder_of_another_checkpoint_is_left_alone_though_it_has_an_export(place, capfd):
    first, second = (save(encoder(seed), place / f"student-{seed}") for seed in (0, 1))
    complete("export", "--model", first, "--output_dir", first)
    config = (place / "student-0" / "config.json").read_bytes()
    told = fail(capfd, "export", "--model", second, "--output_dir", first, "--restart")
    assert told.endswith("student-0 is the folder of another checkpoint; choose another --output_dir")
    assert (place / "student-0" / "config.json").read_bytes() == config


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), None])
def test_nothing_is_left_of_an_export_that_ends_early(place, capfd, monkeypatch, error):
    def ends(float32, path):
        assert float32.is_file()
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGTERM)

    path = save(encoder(), place / "student")
    monkeypatch.setattr(exporter, "write_int8", ends)
    if error:
        told = fail(capfd, "export", "--model", path, "--output_dir", "out")
        said = r"out, or .+, where ONNX Runtime has files meanwhile, can't be written: No space left on device"
        assert re.fullmatch(said, told.splitlines()[-1])
    else:
        assert main(["export", "--model", path, "--output_dir", "out"]) == 128 + signal.SIGTERM
    assert not (place / "out").exists()


def test_what_a_killed_export_leaves_is_no_obstacle(place):
    (place / "out" / "onnx" / ".partial").mkdir(parents=True)
    (place / "out" / "onnx" / ".partial" / "model.onnx").write_bytes(b"half")
    complete("export", "--model", save(encoder(), place / "student"), "--output_dir", "out")
    assert sorted(file.name for file in (place / "out" / "onnx").iterdir()) == ["export.json", *FILES]


def test_a_file_that_doesn_t_give_the_model_s_answers_is_not_handed_out(place, capfd, monkeypatch):
    path = save(encoder(), place / "student")
    other = encoder(seed=1)
    monkeypatch.setattr(exporter, "write_float32", lambda model, *rest: write_float32(other, *rest))
    told = fail(capfd, "export", "--model", path, "--output_dir", "out")
    assert told.startswith(f"the float32 file doesn't give the answers of {path}: ")
    assert not list((place / "out").rglob("*.onnx"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", ""], "give the checkpoint to export: --model PATH_OR_NAME"),
        (["--max_length", "4"], "max_length must be 8 or more, not 4"),
        (["--texts", "a", "--validation", "b"], "texts and validation both say what to check on: give one of them"),
        (["--texts", "blank.txt"], "blank.txt"),
        (["--validation", "rows.csv"], "doesn't classify, so --validation can't be answered; give --texts"),
        (["--model", "nowhere/at/all"], "there is no such folder"),
        (["--output_dir", "rows.csv"], "rows.csv can't be made: File exists; choose another --output_dir"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(place, capfd, flags, message):
    path = save(encoder(), place / "student")
    (place / "blank.txt").write_text("\n\n")
    (place / "rows.csv").write_text("text,label\nw1,a\nw2,b\n")
    assert message in fail(capfd, "export", "--model", path, "--output_dir", "out", *flags)
    assert not (place / "out").exists()


def test_labels_that_the_model_doesn_t_know_are_told(place, capfd):
    _, path = classifier(place)
    (place / "rows.csv").write_text("text,label\nw1,no\nw2,never\n")
    told = fail(capfd, "export", "--model", path, "--output_dir", "out", "--validation", "rows.csv")
    assert told.startswith("rows.csv has the label never; the classes of")
    assert told.endswith("are no, maybe, yes (0 to 2)")


def test_a_head_without_weights_is_refused(place, capfd):
    model = encoder()
    model.config.architectures = ["BertForSequenceClassification"]
    path = save(model, place / "student")
    set_json(place / "student" / "config.json", architectures=["BertForSequenceClassification"])
    assert "lacks weights of its head, such as classifier" in fail(capfd, "export", "--model", path)


def test_without_the_extra_it_says_what_to_install(place, capfd, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnxscript" else object())
    told = fail(capfd, "export", "--model", "student")
    assert told == "exporting needs onnxscript: pip install 'tutorkd[export]'"
