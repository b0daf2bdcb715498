"""ONNX files of models of sentence-transformers, beside the vectors that these give."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import tiny
from commands import complete, fail
from transformers import AutoTokenizer

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

pytestmark = pytest.mark.usefixtures("graphs_written_once")

TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9", "w20", "w30 w31 w30 w90", " ".join(["w7 w8 w9"] * 20)]
FILES = ["model.onnx", "model_quantized.onnx"]


def encoder(place, *behind, **changes):
    """The tiny BERT, with what stands behind it."""
    body = Transformer(str(tiny.sentence_encoder(place / "made", num_hidden_layers=2, **changes)), max_seq_length=24)
    SentenceTransformer(modules=[body, *behind]).save_pretrained("encoder", create_model_card=False)
    return SentenceTransformer("encoder", device="cpu")


def vectors(file, texts, folder="out"):
    """Of texts together in a batch, cut where the tokenizer beside the file says."""
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(file)
    inputs = {each.name: tokens[each.name] for each in session.get_inputs()}
    return session.run(["sentence_embedding"], inputs)[0]


def cosines(first, second):
    return (first * second).sum(-1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))


@pytest.mark.parametrize(
    "behind",
    [
        lambda: [Pooling(32, "mean"), Normalize()],
        lambda: [Pooling(32, "cls")],
        lambda: [Pooling(32, "max")],
        lambda: [Pooling(32, "mean"), Dense(32, 8), Normalize()],
    ],
    ids=["mean", "cls", "max", "projected"],
)
def test_the_files_give_the_vectors_of_sentence_transformers(place, behind):
    model = encoder(place, *behind())
    complete("export", "--model", "encoder", "--output_dir", "out")
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(vectors("out/onnx/model.onnx", TEXTS), expected, rtol=1e-4, atol=1e-5)
    rounded = vectors("out/onnx/model_quantized.onnx", TEXTS)
    assert cosines(rounded, expected).min() > 0.95
    assert not np.array_equal(rounded, expected)


def test_padding_changes_no_vector_and_long_texts_are_cut_as_the_model_s_are(place):
    model = encoder(place, Pooling(32, "mean"), Normalize())
    complete("export", "--model", "encoder", "--output_dir", "out")
    together = vectors("out/onnx/model.onnx", TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vectors("out/onnx/model.onnx", [text])[0], vector, rtol=1e-4, atol=1e-6)
    assert AutoTokenizer.from_pretrained("out").model_max_length == model.max_seq_length == 24
    longer = vectors("out/onnx/model.onnx", [TEXTS[-1] + " w60"])
    np.testing.assert_array_equal(longer[0], vectors("out/onnx/model.onnx", [TEXTS[-1]])[0])


def test_the_hidden_states_are_there_too_for_those_who_pool_themselves(place):
    model = encoder(place, Pooling(32, "mean"), Normalize())
    complete("export", "--model", "encoder", "--output_dir", "out")
    session = onnxruntime.InferenceSession("out/onnx/model.onnx")
    assert [each.name for each in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    tokens = model.tokenizer(TEXTS[:1], return_tensors="np")
    hidden, vector = session.run(None, {each.name: tokens[each.name] for each in session.get_inputs()})
    mean = hidden.mean(1)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, rtol=1e-4, atol=1e-6)


def test_what_is_said_of_the_files_is_measured_against_sentence_transformers(place, capsys):
    encoder(place, Pooling(32, "mean"), Normalize())
    (place / "text.txt").write_text("\n\n".join(TEXTS))
    complete("export", "--model", "encoder", "--output_dir", "out", "--texts", "text.txt")
    shown = capsys.readouterr().out
    assert "| cosine | lowest cosine |" in shown
    assert "the mean cosine between a row's vector and that of sentence-transformers" in shown
    record = json.loads((place / "out" / "onnx" / "export.json").read_text())
    assert record["outputs"] == ["last_hidden_state", "sentence_embedding"]
    assert record["checked_on"] == "the first 4 documents of the text, cut at 24 tokens"
    near = cosines(vectors("out/onnx/model_quantized.onnx", TEXTS), vectors("out/onnx/model.onnx", TEXTS))
    (_, exact, rounded) = record["files"]
    assert exact["lowest"] == pytest.approx(1, abs=1e-5)
    assert rounded["agreement"] == pytest.approx(near.mean(), abs=1e-4)
    assert rounded["lowest"] == pytest.approx(near.min(), abs=1e-4)
    card = (place / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    for name in ("THIS_FOLDER_OR_REPOSITORY", "THIS_FOLDER"):
        code = code.replace(name, "out")
    found = {}
    exec(code, found)
    assert found["sentence_embedding"].shape == (2, 32)


def test_sentence_transformers_finds_its_modules_beside_the_files(place):
    """The weights alone are missing, for which it takes the ONNX file if Optimum is installed."""
    model = encoder(place, Pooling(32, "mean"), Dense(32, 8), Normalize())
    for _ in range(2):  # the second time over the first
        complete("export", "--model", "encoder", "--output_dir", "out")
    shutil.copy("encoder/model.safetensors", "out")
    again = SentenceTransformer("out", device="cpu")
    assert again.max_seq_length == 24
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_files_may_stand_beside_the_weights(place):
    model = encoder(place, Pooling(32, "mean"), Normalize())
    before = {file.name: file.read_bytes() for file in (place / "encoder").rglob("*") if file.is_file()}
    complete("export", "--model", "encoder", "--output_dir", "encoder")
    assert {name: (place / "encoder" / name).exists() for name in ("modules.json", "onnx/model.onnx")} == {
        "modules.json": True,
        "onnx/model.onnx": True,
    }
    after = {
        file.name: file.read_bytes()
        for file in (place / "encoder").rglob("*")
        if file.is_file() and file.parent.name != "onnx"
    }
    assert after == before | {"report.html": after["report.html"]}
    found = vectors("encoder/onnx/model.onnx", TEXTS[:3], "encoder")
    np.testing.assert_allclose(found, model.encode(TEXTS[:3]), rtol=1e-4, atol=1e-5)


def test_a_prompt_that_isn_t_pooled_is_told(place, capfd):
    encoder(place, Pooling(32, "mean", include_prompt=False))
    told = fail(capfd, "export", "--model", "encoder", "--output_dir", "out")
    assert told.startswith("the model encoder leaves its prompt out of the vector (include_prompt), which an ONNX file")
    assert not (place / "out").exists()
