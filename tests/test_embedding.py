"""Embedding models distilled: the losses, the vectors, and what the saved folder gives."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import assert_goes_on_exactly, complete, fail, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from sklearn.linear_model import Ridge
from transformers import AutoModel

from tutorkd import sentence_teacher
from tutorkd.config import DistillationConfig
from tutorkd.errors import UserError
from tutorkd.methods import embedding
from tutorkd.methods.embedding import cosine_loss, ridge_regression, similarity_loss, squared_loss
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import SentenceTeacher, load_sentence_teacher
from tutorkd.students import build_student
from tutorkd.trainer import DistillationTrainer

TEXTS = ["w1 w2 w3", "w7 w8 w9 w10 w11 w12 w13", "w20", " ".join(f"w{i}" for i in range(60))]
RUN = [
    *("--method", "embedding", "--max_length", "16", "--max_steps", "4", "--per_device_train_batch_size", "4"),
    *("--logging_steps", "1", "--eval_steps", "2", "--save_steps", "2", "--heldout", "0.2", "--warmup_steps", "0"),
]


def vectors(count: int = 5, size: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def cosine(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# The losses


def test_losses_of_rows_are_their_means():
    student, teacher = vectors(), vectors(seed=1)
    rows = [*zip(student.double().tolist(), teacher.double().tolist(), strict=True)]
    cosines = sum(1 - cosine(s, t) for s, t in rows) / 5
    squares = sum((x - y) ** 2 for s, t in rows for x, y in zip(s, t, strict=True)) / 5
    assert cosine_loss(student, teacher).item() == pytest.approx(cosines, rel=1e-5)
    assert squared_loss(student, teacher).item() == pytest.approx(squares, rel=1e-5)
    assert cosine_loss(student, teacher, 10).item() == pytest.approx(cosines / 2, rel=1e-5)
    assert squared_loss(student, teacher, 10).item() == pytest.approx(squares / 2, rel=1e-5)


def test_the_squared_distance_of_vectors_of_length_1_is_twice_the_cosine_loss():
    student, teacher = (torch.nn.functional.normalize(vectors(seed=seed)) for seed in (0, 1))
    assert squared_loss(student, teacher).item() == pytest.approx(2 * cosine_loss(student, teacher).item(), rel=1e-5)


def test_the_loss_of_similarities_leaves_each_row_itself_out():
    student, teacher = vectors(), vectors(size=9, seed=1)  # sizes may differ
    s, t = student.double().tolist(), teacher.double().tolist()
    by_hand = sum((cosine(s[i], s[j]) - cosine(t[i], t[j])) ** 2 / 4 for i in range(5) for j in range(5) if i != j) / 5
    assert similarity_loss(student, teacher).item() == pytest.approx(by_hand, rel=1e-4)
    assert similarity_loss(student, teacher, 10).item() == pytest.approx(by_hand / 2, rel=1e-4)
    assert similarity_loss(student[:1], teacher[:1]) == 0


@pytest.mark.parametrize("loss", [cosine_loss, squared_loss, similarity_loss])
def test_gradients_are_finite_and_flow_to_the_student_alone(loss):
    student = torch.cat([vectors(4), torch.zeros(1, 7)]).requires_grad_()
    teacher = vectors(seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_ridge_regression_is_that_of_another_library():
    given, wanted = vectors(200, 5) @ vectors(5, 5, seed=2) + 3, vectors(200, 4, seed=3)
    wanted[:, 0] += given[:, 1] - 2 * given[:, 2]
    weight, bias = ridge_regression(given, wanted)
    centred = given - given.mean(0)
    expected = Ridge(alpha=0.01 * float(centred.square().sum(0).mean())).fit(given.numpy(), wanted.numpy())
    np.testing.assert_allclose(weight.numpy(), expected.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected.intercept_, rtol=1e-4, atol=1e-4)


def test_ridge_regression_needs_fewer_rows_than_dimensions():
    weight, bias = ridge_regression(vectors(3, 8), vectors(3, 4, seed=1))
    assert weight.shape == (4, 8)
    assert weight.isfinite().all()
    constant = torch.ones(5, 8)
    weight, bias = ridge_regression(constant, vectors(5, 4))
    torch.testing.assert_close((constant.double() @ weight.mT + bias)[0], vectors(5, 4).double().mean(0))


# The teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.sentence_encoder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(tiny.documents()))
    return str(path)


def batch_of(texts: list[str], tokenizer, length: int = 24):
    rows = [{"input_ids": tokenizer(text, truncation=True, max_length=length)["input_ids"]} for text in texts]
    return TextCollator(tokenizer, tiny.VOCABULARY)([{**row, "draw": 0} for row in rows])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "weightedmean"])
def test_vectors_are_those_of_sentence_transformers_however_rows_are_padded(tmp_path, pooling):
    folder = tiny.sentence_encoder(tmp_path, pooling)
    teacher = load_sentence_teacher(str(folder))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    batch = batch_of(TEXTS, teacher.tokenizer)
    torch.testing.assert_close(teacher.vectors(batch.input_ids, batch.attention_mask), expected, atol=1e-5, rtol=1e-4)
    for text, vector in zip(TEXTS, expected, strict=True):
        alone = batch_of([text], teacher.tokenizer)
        assert alone.attention_mask is None
        torch.testing.assert_close(teacher.vectors(alone.input_ids, None)[0], vector, atol=1e-5, rtol=1e-4)


def test_the_teacher_knows_its_longest_text_and_its_prompts(folder):
    encoder = SentenceTransformer(str(folder), device="cpu", prompts={"query": "w90 w91 "}, default_prompt_name="query")
    teacher = SentenceTeacher(encoder)
    assert teacher.tokenizer.model_max_length == 24
    assert (teacher.prompt(None), teacher.prompt("document")) == ("w90 w91 ", "")
    with pytest.raises(UserError, match="has no prompt 'passage'; it has query, document"):
        teacher.prompt("passage")
    encoder[1].include_prompt = False
    with pytest.raises(UserError, match="leaves its prompt out"):
        teacher.prompt("query")


def test_an_encoder_of_another_make_is_refused(folder):
    class Odd(Normalize):
        def forward(self, features):
            features["sentence_embedding"] = features["sentence_embedding"] + features["input_ids"][:, :1]
            return features

    encoder = SentenceTransformer(str(folder), device="cpu")
    with pytest.raises(UserError, match=r"^the teacher .* can't be distilled: .* KeyError where it was tried"):
        SentenceTeacher(SentenceTransformer(modules=[*encoder.children(), Odd()], device="cpu"))


def test_settings_of_other_teachers_are_refused(folder, corpus, tmp_path, capfd):
    command = ["distill", "--teacher", str(folder), "--corpus", corpus, *RUN, "--output_dir", str(tmp_path / "out")]
    assert fail(capfd, *command, "--teacher_dtype", "int8").startswith("teacher_dtype int8 isn't for embedding models")
    assert fail(capfd, *command, "--torch_compile", "true").startswith("torch_compile: rows of unequal lengths")
    assert "is more than the 24 tokens" in fail(capfd, *command, "--max_length", "32")
    assert "has no prompt 'x'" in fail(capfd, *command, "--prompt_name", "x")
    plain = save(tiny.masked_lm(), tmp_path / "plain")
    assert "isn't a model of sentence-transformers" in fail(capfd, *command, "--teacher", plain)
    layers = "--hidden_state_weight", "1", "--student_layers", "5"
    assert "can't be matched to the 4 of its teacher" in fail(capfd, *command, *layers)


# Training


def trainer(folder: Path, out: Path, student="half", rows=None, given=None, **settings) -> DistillationTrainer:
    teacher = load_sentence_teacher(str(folder))
    config = DistillationConfig(
        output_dir=str(out),
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
    )
    rows = rows or [{"input_ids": teacher.tokenizer(text)["input_ids"][:24]} for text in tiny.documents(16)]
    made = embedding.EmbeddingSettings(**settings)
    return DistillationTrainer(
        student, given or teacher, config, rows, teacher.tokenizer, method="embedding", settings=made
    )


def test_a_student_that_is_the_teacher_has_nothing_to_learn(folder, tmp_path):
    twin = AutoModel.from_pretrained(folder)
    weights = dict.fromkeys(
        (
            *("cosine_weight", "squared_weight", "similarity_weight"),
            *("hidden_state_weight", "attention_score_weight", "relation_weight"),
        ),
        1.0,
    )
    weights["relation_heads"] = 8
    made = trainer(folder, tmp_path, twin, **weights)
    made.model.eval()
    output = made.model(batch_of(TEXTS, made.processing_class), made.teacher)
    assert {*output.metrics} == {figure.name for figure in embedding.FIGURES}
    assert output.loss.item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_may_be_named_or_loaded(folder, tmp_path):
    losses = []
    for given in (str(folder), SentenceTransformer(str(folder), device="cpu"), load_sentence_teacher(str(folder))):
        made = trainer(folder, tmp_path, given=given)
        made.model.eval()
        losses.append(made.model(batch_of(TEXTS, made.processing_class), made.teacher).loss.item())
    assert losses[0] == losses[1] == losses[2] > 0


def test_losses_are_of_the_vectors_of_real_tokens(folder, tmp_path):
    made = trainer(folder, tmp_path, cosine_weight=2, squared_weight=3, similarity_weight=5)
    batch = batch_of(TEXTS, made.processing_class)
    made.model.eval()
    teacher, student = (
        torch.cat([read(batch_of([text], made.processing_class)) for text in TEXTS])
        for read in (lambda batch: made.teacher.vectors(batch.input_ids, None), made.model.vectors)
    )
    expected = 2 * cosine_loss(student, teacher) + 3 * squared_loss(student, teacher)
    expected = expected + 5 * similarity_loss(student, teacher)
    torch.testing.assert_close(made.model(batch, made.teacher).loss, expected, atol=1e-5, rtol=1e-4)


def test_vectors_in_the_batch_stand_for_the_teacher_s(folder, tmp_path):
    made = trainer(folder, tmp_path)
    batch = batch_of(TEXTS, made.processing_class)
    known = made.teacher.vectors(batch.input_ids, batch.attention_mask)
    made.model.eval()
    asked = made.model(batch, made.teacher).loss
    torch.testing.assert_close(made.model(batch._replace(vectors=known), None).loss, asked)


def test_micro_batches_sum_to_the_batch(folder, tmp_path):
    made = trainer(folder, tmp_path, squared_weight=1.0)
    batch = batch_of(TEXTS, made.processing_class)
    parts = [batch_of([text], made.processing_class)._replace(num_items=batch.num_items) for text in TEXTS]
    made.model.eval()
    whole = made.model(batch, made.teacher).loss
    torch.testing.assert_close(sum(made.model(part, made.teacher).loss for part in parts), whole)


def test_rows_of_a_step_are_of_like_lengths_and_each_is_read_once(folder, tmp_path):
    rows = [{"input_ids": [2, *[5] * length, 3]} for length in range(1, 17)]
    made = trainer(folder, tmp_path, rows=rows)
    draws = list(made._get_train_sampler())
    steps = [draws[start : start + 4] for start in range(0, 16, 4)]
    assert sorted(draws) == list(range(16))
    assert sorted(map(sorted, steps)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert steps != sorted(steps)


def test_a_narrower_student_starts_near_the_teacher_s_vectors_and_learns_their_space(folder, tmp_path):
    teacher = load_sentence_teacher(str(folder))
    student = build_student("half", teacher.config, {"hidden_size": 16}).eval()
    made = trainer(folder, tmp_path, copy.deepcopy(student))
    rows = [torch.tensor([row["input_ids"]]) for row in made.train_dataset.rows]
    own, goal = (
        torch.stack([reader(input_ids=each)[0][0].mean(0) for each in rows]) for reader in (student, teacher.body)
    )
    weight, bias = ridge_regression(own.detach(), goal.detach())
    linear = made.model.head.parts[1].linear
    torch.testing.assert_close(linear.weight, weight.float(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(linear.bias, bias.float(), atol=1e-4, rtol=1e-3)
    assert made.model.training
    before = copy.deepcopy(linear.weight)
    made.train()
    made.save_model()
    assert not torch.equal(linear.weight, before)
    saved = SentenceTransformer(str(tmp_path), device="cpu")
    assert [type(part) for part in saved.children()][1:] == [Pooling, Dense, Normalize]
    expected = made.model.eval().vectors(batch_of(TEXTS, made.processing_class))
    found = saved.encode(TEXTS, convert_to_tensor=True)
    assert found.shape == (4, 32)
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


def test_a_student_of_an_earlier_stage_goes_on_with_its_own_dense_layer(folder, tmp_path):
    teacher = load_sentence_teacher(str(folder))
    first = trainer(folder, tmp_path / "first", build_student("half", teacher.config, {"hidden_size": 16}))
    first.train()
    first.save_model()
    second = trainer(folder, tmp_path / "second", AutoModel.from_pretrained(tmp_path / "first"))
    batch = batch_of(TEXTS, teacher.tokenizer)
    expected = first.model.eval().vectors(batch)
    torch.testing.assert_close(second.model.eval().vectors(batch), expected, atol=1e-6, rtol=1e-5)


def test_a_student_of_the_hub_goes_on_with_its_own_dense_layer_too(folder, tmp_path, monkeypatch):
    teacher = load_sentence_teacher(str(folder))
    first = trainer(folder, tmp_path / "first", build_student("half", teacher.config, {"hidden_size": 16}))
    first.save_model()
    student = AutoModel.from_pretrained(tmp_path / "first")
    student.config.name_or_path = "owner/first"  # as it is called where it came from the Hub
    load = sentence_teacher.load_sentence_encoder
    monkeypatch.setattr(sentence_teacher, "is_sentence_encoder", lambda name, role: name == "owner/first")
    monkeypatch.setattr(
        sentence_teacher, "load_sentence_encoder", lambda name, *told: load(str(tmp_path / "first"), *told)
    )
    own, kept = first.model.head.parts[1], teacher.head_for(student).parts[1]
    assert isinstance(kept, Dense)
    torch.testing.assert_close(kept.linear.weight, own.linear.weight.detach(), rtol=0, atol=0)


def test_a_student_of_another_method_gets_the_teacher_s_pooling(folder, tmp_path):
    plain = tiny.masked_lm(num_hidden_layers=2).base_model
    plain.save_pretrained(tmp_path / "plain")
    made = trainer(folder, tmp_path, AutoModel.from_pretrained(tmp_path / "plain"))
    assert [type(part) for part in made.model.head.parts] == [Pooling, Normalize]


@pytest.fixture(scope="module")
def run(folder, corpus, tmp_path_factory) -> Path:
    """A finished run from a teacher with a default prompt."""
    place = tmp_path_factory.mktemp("run")
    teacher = SentenceTransformer(str(folder), device="cpu", prompts={"query": "w90 "}, default_prompt_name="query")
    teacher.save_pretrained(str(place / "teacher"), create_model_card=False)
    complete(
        *("distill", "--teacher", str(place / "teacher"), "--student", "half", "--corpus", corpus, *RUN),
        *("--output_dir", str(place / "out"), "--save_initial_student"),
    )
    return place


def test_the_saved_folder_is_a_model_of_sentence_transformers_as_its_teacher_is(run):
    teacher, student = (SentenceTransformer(str(run / name), device="cpu") for name in ("teacher", "out"))
    assert student.prompts == teacher.prompts
    assert student.default_prompt_name == "query"
    assert student.max_seq_length == teacher.max_seq_length == 24  # rows of the run had 16
    assert student[1].get_config_dict() == teacher[1].get_config_dict()
    found = student.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4))
    body = AutoModel.from_pretrained(run / "out").eval()
    for text, vector in zip(TEXTS, found, strict=True):
        rows = student.tokenizer("w90 " + text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            mean = body(**rows).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_the_student_comes_closer_to_its_teacher(run):
    teacher, student, start = (
        SentenceTransformer(str(run / name), device="cpu").encode(tiny.documents(30), convert_to_tensor=True)
        for name in ("teacher", "out", "out/initial_student")
    )
    assert (student * teacher).sum(-1).mean() > (start * teacher).sum(-1).mean() + 0.01


def test_held_out_texts_are_judged_by_their_cosine_and_the_card_tells(run):
    state = json.loads((run / "out/trainer_state.json").read_text())
    told = [entry["eval_cosine"] for entry in state["log_history"] if "eval_cosine" in entry]
    assert len(told) == 2
    assert told[0] < told[1] < 1
    card = (run / "out/README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f"cosine {told[1]:.3f}" in card
    assert 'SentenceTransformer("THIS_FOLDER_OR_REPOSITORY")' in card


def test_a_resumed_run_equals_one_that_was_never_interrupted(corpus, folder, tmp_path):
    command = ["distill", "--teacher", str(folder), "--corpus", corpus, *RUN, "--student_hidden_size", "16"]
    assert_goes_on_exactly(command, tmp_path)


def test_a_dry_run_says_what_a_step_takes(folder, corpus, tmp_path, capsys):
    complete(
        *("distill", "--teacher", str(folder), "--corpus", corpus, *RUN, "--dry_run"),
        *("--output_dir", str(tmp_path / "out")),
    )
    told = capsys.readouterr().out
    assert "tokens a step" in told
    assert "int8 teacher" not in told
    assert not (tmp_path / "out").exists()


def test_a_stream_is_read_too(folder, corpus, tmp_path):
    complete(
        *("distill", "--teacher", str(folder), "--corpus", corpus, *RUN, "--streaming"),
        *("--output_dir", str(tmp_path / "out")),
    )
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS).shape == (4, 32)
