"""Students of embedding models that cut texts into other tokens than their teacher does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import assert_goes_on_exactly, complete, edited, fail, history, set_json, weights
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from sklearn.linear_model import Ridge
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from tutorkd.config import DistillationConfig
from tutorkd.data import prepare_corpus
from tutorkd.data.rows import RowsBeside
from tutorkd.data.texts import Taught, Texts
from tutorkd.errors import UserError
from tutorkd.methods.embedding import EmbeddingSettings
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import load_sentence_teacher
from tutorkd.trainer import DistillationTrainer

RUN = [
    *("--method", "embedding", "--max_length", "24", "--per_device_train_batch_size", "8", "--warmup_steps", "0"),
    *("--logging_steps", "1", "--heldout", "0.2", "--bf16", "false", "--use_cpu"),
]
TEXTS = [" ".join(text.split()[: 3 + i % 9]) for i, text in enumerate(tiny.documents(40))]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """Of words, with prompts, and vectors of length 1."""
    folder = tiny.sentence_encoder(tmp_path_factory.mktemp("teacher"))
    set_json(folder / "config_sentence_transformers.json", prompts={"query": "w90 w91 "}, default_prompt_name=None)
    return str(folder)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    """A smaller encoder that reads pairs of bytes."""
    folder = tmp_path_factory.mktemp("student")
    tokenizer = tiny.causal_tokenizer()
    tokenizer.pad_token = tiny.END_OF_TEXT
    tokenizer.save_pretrained(folder)
    sizes = tiny.SIZES | {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **tiny.NO_DROPOUT)
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(TEXTS))
    return str(file)


def _rows(texts: list[str], student: str, teacher: str, **beside) -> Dataset:
    own, of_teacher = AutoTokenizer.from_pretrained(student), load_sentence_teacher(teacher).tokenizer
    columns = {"input_ids": [own(text)["input_ids"] for text in texts], **beside}
    columns.setdefault("teacher_ids", [of_teacher(text)["input_ids"] for text in texts])
    return Dataset.from_dict(columns)


def _trainer(student: str, teacher: str, out: Path, rows, settings=None, heldout=None) -> DistillationTrainer:
    args = DistillationConfig(
        output_dir=str(out),
        max_steps=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    tokenizer = AutoTokenizer.from_pretrained(student)
    return DistillationTrainer(student, teacher, args, rows, tokenizer, heldout, settings=settings)


def test_the_student_s_vectors_are_in_the_teacher_s_space(teacher, student, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    run = [
        "--teacher",
        teacher,
        "--student",
        student,
        "--corpus",
        corpus,
        *RUN,
        "--max_steps",
        "40",
        "--learning_rate",
        "3e-3",
    ]
    complete("distill", *run, "--eval_strategy", "steps", "--eval_steps", "40", "--output_dir", str(out))
    said = capsys.readouterr().out
    assert "the student has a tokenizer of its own" in said
    assert "vectors  32 of the teacher" in said
    of_student, of_teacher = (SentenceTransformer(str(each), device="cpu") for each in (out, teacher))
    assert [type(part).__name__ for part in of_student] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert of_student.tokenizer.get_vocab() == tiny.causal_tokenizer().get_vocab()
    assert of_student.prompts["query"] == "w90 w91 "
    expected, found = of_teacher.encode(TEXTS), of_student.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = (expected * found).sum(1)
    told = [entry["eval_cosine"] for entry in history(out) if "eval_cosine" in entry]
    assert told[-1] > 0.8
    assert cosines.mean() == pytest.approx(told[-1], abs=0.1)  # of eight texts that were held out, and of all


def test_held_out_cosines_are_those_of_the_saved_model(teacher, student, tmp_path):
    rows = _rows(TEXTS, student, teacher)
    trainer = _trainer(student, teacher, tmp_path / "out", rows, heldout=rows.select(range(10)))
    cosine = trainer.evaluate()["eval_cosine"]
    trainer.save_model()
    found, expected = (
        SentenceTransformer(str(each), device="cpu").encode(TEXTS[:10]) for each in (tmp_path / "out", teacher)
    )
    assert cosine == pytest.approx(float((found * expected).sum(1).mean()), abs=1e-5)


def test_the_dense_layer_starts_at_the_ridge_regression_of_the_teacher_s_vectors(teacher, student, tmp_path):
    trainer = _trainer(student, teacher, tmp_path / "out", _rows(TEXTS, student, teacher))
    body, tokenizer = AutoModel.from_pretrained(student).eval(), AutoTokenizer.from_pretrained(student)
    with torch.no_grad():
        states = [body(**tokenizer(text, return_tensors="pt"))[0][0].mean(0).numpy() for text in TEXTS]
    given, wanted = np.stack(states), SentenceTransformer(teacher, device="cpu").encode(TEXTS)
    centred = given - given.mean(0)
    expected = Ridge(alpha=0.01 * float(np.square(centred).sum(0).mean())).fit(given, wanted)
    dense = trainer.model.head.parts[1].linear
    np.testing.assert_allclose(dense.weight.detach().numpy(), expected.coef_, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(dense.bias.detach().numpy(), expected.intercept_, rtol=1e-2, atol=1e-4)


def test_vectors_that_are_known_train_as_ids_that_the_teacher_reads(teacher, student, tmp_path):
    vectors = SentenceTransformer(teacher, device="cpu").encode(TEXTS)
    ids = _rows(TEXTS, student, teacher)
    known = RowsBeside(ids.select_columns(["input_ids"]), "vector", vectors)
    trainers = [_trainer(student, teacher, tmp_path / name, rows) for name, rows in (("ids", ids), ("known", known))]
    for trainer in trainers:
        trainer.train()
        trainer.save_model()
    first, second = (weights(tmp_path / name) for name in ("ids", "known"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-4, rtol=1e-3)


def test_texts_of_both_tokenizers_stay_side_by_side(teacher, student, corpus):
    own, of_teacher = AutoTokenizer.from_pretrained(student), load_sentence_teacher(teacher).tokenizer
    prompt, settings = "w90 w91 ", {"max_length": 24, "heldout": 0.2}
    beside = prepare_corpus(corpus, own, texts=Texts("line", prompt, Taught(of_teacher)), **settings)
    alone = [prepare_corpus(corpus, each, texts=Texts("line", prompt), **settings) for each in (own, of_teacher)]
    for part in ("train", "heldout"):
        rows, (first, second) = getattr(beside, part), (getattr(each, part) for each in alone)
        assert rows["input_ids"][:] == first["input_ids"][:]
        assert rows["teacher_ids"][:] == second["input_ids"][:]
    assert (len(beside.train), beside.documents, beside.tokens) == (32, 40, alone[0].tokens)


def test_a_collator_pads_each_tokenizer_s_rows_by_themselves(teacher, student):
    own, of_teacher = AutoTokenizer.from_pretrained(student), load_sentence_teacher(teacher).tokenizer
    collate = TextCollator(own, len(own), TextCollator(of_teacher, tiny.VOCABULARY))
    batch = collate(
        [{"input_ids": [1, 2, 3], "teacher_ids": [2, 9, 3]}, {"input_ids": [4], "teacher_ids": [2, 7, 8, 3]}]
    )
    assert batch.input_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert [each.tolist() for each in batch.for_teacher] == [[[2, 9, 3, 0], [2, 7, 8, 3]], [[1, 1, 1, 0], [1, 1, 1, 1]]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_student_without_weights_starts_at_random(teacher, student, corpus, tmp_path, capsys):
    config = tmp_path / "config"
    AutoTokenizer.from_pretrained(student).save_pretrained(config)
    BertConfig(vocab_size=320, max_position_embeddings=64, **tiny.SIZES, **tiny.NO_DROPOUT).save_pretrained(config)
    run = ["--teacher", teacher, "--student", str(config), "--corpus", corpus, *RUN, "--max_steps", "1"]
    complete("distill", *run, "--eval_strategy", "no", "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "student: starts at random" in said
    assert "the teacher's vectors are computed as the rows are read" in said


def _own_encoder(student: str, folder: Path, *behind) -> str:
    body = Transformer(student, max_seq_length=32)
    SentenceTransformer(modules=[body, Pooling(16, "cls"), *behind]).save_pretrained(str(folder))
    return str(folder)


def test_an_embedding_model_keeps_its_head_if_its_vectors_have_the_teacher_s_size(teacher, student, tmp_path):
    torch.manual_seed(5)
    own = _own_encoder(student, tmp_path / "own", Dense(16, 32), Normalize())
    trainer = _trainer(own, teacher, tmp_path / "out", _rows(TEXTS, student, teacher))
    kept = SentenceTransformer(own, device="cpu")[2].linear.weight
    assert torch.equal(trainer.model.head.parts[1].linear.weight, kept)


def test_an_embedding_model_of_another_size_keeps_its_pooling(teacher, student, tmp_path):
    own = _own_encoder(student, tmp_path / "own")
    pooling, dense, _ = _trainer(own, teacher, tmp_path / "out", _rows(TEXTS, student, teacher)).model.head.parts
    assert pooling.pooling_mode in ("cls", ("cls",))
    assert dense.linear.weight.shape == (32, 16)


def test_a_resumed_run_equals_one_that_was_never_interrupted(teacher, student, corpus, tmp_path):
    run = ["distill", "--teacher", teacher, "--student", student, "--corpus", corpus, *RUN, "--save_steps", "2"]
    run += ["--max_steps", "4", "--eval_strategy", "no"]
    assert_goes_on_exactly(run, tmp_path)


def test_a_dry_run_counts_both_models(teacher, student, corpus, tmp_path, capsys):
    run = ["--teacher", teacher, "--student", student, "--corpus", corpus, *RUN, "--max_steps", "4"]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"), "--dry_run")
    assert "operations a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--hidden_state_weight", "1"], "are compared token by token"),
        (["--relation_weight", "1"], "are compared token by token"),
        (["--student_init", "teacher"], "leave out --student_init teacher"),
        (["--method", "minilm-v2"], "vocabularies of the student"),
    ],
)
def test_what_needs_the_same_tokens_is_refused(changes, said, teacher, student, corpus, tmp_path, capfd):
    run = ["--teacher", teacher, "--student", student, "--corpus", corpus, *RUN, "--max_steps", "4", *changes]
    assert said in fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))


def test_a_recipe_of_two_stages_is_refused_before_the_first(teacher, student, corpus, tmp_path, capfd):
    run = ["--teacher", teacher, "--student", student, "--corpus", corpus, "--max_length", "24"]
    said = fail(capfd, "distill", "--config", "embedding", *run, "--output_dir", str(tmp_path / "out"))
    assert "take --method embedding without this recipe" in said
    assert not (tmp_path / "out" / "_first_stage").exists()


def test_values_that_aren_t_one_for_each_row_are_refused(teacher, student):
    rows = _rows(TEXTS, student, teacher)
    with pytest.raises(UserError, match="there are 40 rows, but 39 values of vector beside them"):
        RowsBeside(rows, "vector", np.zeros((39, 32)))


def test_rows_without_what_the_teacher_reads_are_refused(teacher, student, tmp_path):
    rows = _rows(TEXTS, student, teacher).select_columns(["input_ids"])
    with pytest.raises(UserError, match="each row needs a column vector"):
        _trainer(student, teacher, tmp_path / "out", rows, EmbeddingSettings())


def test_a_teacher_that_reads_texts_as_chats_is_refused_with_the_reason(teacher, student, corpus, tmp_path, capfd):
    chats = Path(shutil.copytree(teacher, tmp_path / "chats"))
    (chats / "chat_template.jinja").write_text("{% for m in messages %}w9 {{ m.content }}{% endfor %}")
    with edited(chats / "sentence_bert_config.json") as settings:
        settings["modality_config"]["message"] = {**settings["modality_config"]["text"], "format": "flat"}
    run = ["--method", "embedding", "--teacher", str(chats), "--student", student, "--corpus", corpus, "--lines"]
    said = fail(capfd, "distill", *run, "--max_length", "16", "--output_dir", str(tmp_path / "run"))
    assert "puts each text into the chat template" in said
