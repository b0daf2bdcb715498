"""Students of embedding models that read another text than their teacher, such as a translation."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from commands import assert_goes_on_exactly, complete, fail, history, write_rows
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import Ridge
from transformers import BertModel

from tutorkd.config import DistillationConfig
from tutorkd.data import prepare_corpus
from tutorkd.data.corpus import expected_rows
from tutorkd.data.texts import Taught, Texts
from tutorkd.errors import UserError
from tutorkd.methods.embedding import EmbeddingSettings
from tutorkd.trainer import DistillationTrainer

RUN = [
    *("--method", "embedding", "--max_length", "24", "--per_device_train_batch_size", "8", "--warmup_steps", "0"),
    *("--logging_steps", "1", "--heldout", "0.2", "--bf16", "false", "--use_cpu"),
    *("--text_column", "there", "--teacher_text_column", "here"),
]
HERE = [" ".join(text.split()[: 3 + i % 9]) for i, text in enumerate(tiny.documents(40))]
THERE = [" ".join(f"w{94 - int(word[1:])}" for word in reversed(text.split())) for text in HERE]
ROWS = [{"here": here, "there": there, "number": i} for i, (here, there) in enumerate(zip(HERE, THERE, strict=True))]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return str(tiny.sentence_encoder(tmp_path_factory.mktemp("teacher")))


@pytest.fixture
def corpus(tmp_path) -> str:
    return write_rows(tmp_path / "pairs.jsonl", ROWS)


def _taught(both: bool = True, column: str | None = "here") -> Texts:
    return Texts("document", taught=Taught(tiny.tokenizer(), column, both))


def _prepared(source, tmp_path: Path, texts: Texts, **options):
    settings = {"max_length": 12, "heldout": 0, "text_column": "there", "cache_dir": tmp_path / "cache"} | options
    return prepare_corpus(source, tiny.causal_tokenizer(), texts=texts, **settings)


def _ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text)["input_ids"][:12] for text in texts]


def _by_hand() -> list[dict[str, list[int]]]:
    """Rows of up to twelve tokens: the student's ids of either text, the teacher's of its own."""
    own = [_ids(tiny.causal_tokenizer(), texts) for texts in (THERE, HERE)]
    teachers = [tiny.tokenizer()(text, truncation=True, max_length=12)["input_ids"] for text in HERE]
    sides = [ids for pair in zip(*own, strict=True) for ids in pair]
    return [{"input_ids": ids, "teacher_ids": teachers[row // 2]} for row, ids in enumerate(sides)]


def _csv(path: Path) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    path.write_text(text.getvalue())
    return path


def _parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "Dataset"])
def test_a_pair_gives_a_row_for_each_text_with_what_the_teacher_reads(kind, streaming, tmp_path):
    source = {
        "jsonl": lambda: write_rows(tmp_path / "a.jsonl", ROWS),
        "csv": lambda: _csv(tmp_path / "a.csv"),
        "parquet": lambda: _parquet(tmp_path / "a.parquet"),
        "Dataset": lambda: Dataset.from_list(ROWS),
    }[kind]()
    packed = _prepared(source, tmp_path, _taught(), streaming=streaming)
    rows, expected = list(packed.train), _by_hand()
    if streaming:
        rows, expected = (sorted(each, key=str) for each in (rows, expected))
    assert rows == expected
    if not streaming:
        assert packed.documents == len(ROWS)
        assert packed.tokens == sum(len(row["input_ids"]) for row in expected)


def test_the_student_reads_translations_alone_if_that_is_asked_for(corpus, tmp_path):
    assert list(_prepared(corpus, tmp_path, _taught(both=False)).train) == _by_hand()[::2]


@pytest.mark.parametrize("streaming", [False, True])
def test_of_held_out_pairs_the_student_is_asked_about_its_own_text_and_learns_neither(streaming, corpus, tmp_path):
    packed = _prepared(corpus, tmp_path, _taught(), heldout=0.25, streaming=streaming)
    pairs = [*zip(_by_hand()[::2], _by_hand()[1::2], strict=True)]
    held = [pair for pair in pairs if pair[0] in [*packed.heldout]]
    assert [*packed.heldout] == [own for own, _ in held]
    assert packed.corpora[0].heldout_rows == packed.corpora[0].heldout_documents == len(held) > 1
    learned = [row for pair in pairs if pair not in held for row in pair]
    assert sorted(packed.train, key=str) == sorted(learned, key=str)


def test_columns_inside_another_are_read(tmp_path):
    nested = [{"translation": {"en": here, "de": there}} for here, there in zip(HERE, THERE, strict=True)]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", Dataset.from_list(nested), write_rows(tmp_path / "a.jsonl", nested)):
        packed = _prepared(source, tmp_path, _taught(column="translation.en"), text_column="translation.de")
        assert list(packed.train) == _by_hand()


def test_pairs_that_lack_a_text_are_left_out(tmp_path):
    rows = [{"here": "w1", "there": " "}, {"here": None, "there": "w1"}, {"there": "w2"}, *ROWS, {"here": "w3"}]
    source = write_rows(tmp_path / "a.jsonl", [ROWS[0], *rows])
    packed = _prepared(source, tmp_path, _taught())
    assert packed.documents == 1 + len(ROWS)
    assert list(packed.train)[2:] == _by_hand()


def test_a_pair_is_counted_twice_in_what_a_pass_is_expected_to_have(corpus, tmp_path):
    settings = {"max_length": 12, "text_column": "there", "heldout": 0.25, "split": "train", "framed": True}
    for both, rows in ((True, 60), (False, 30)):
        texts = _taught(both)
        found = expected_rows([corpus], tiny.causal_tokenizer(), **settings, texts=texts, lines=False)
        assert found == pytest.approx(rows)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "w1 w2", "pairs of texts are read from .jsonl, .json, .csv, .tsv, .parquet files"),
        ("a.tsv", "w1 w2\tw3 w4\n", "line 1, the header: no column 'there' among w1 w2, w3 w4"),
        ("a.jsonl", '{"hre": "w1", "there": "w2"}', "did you mean 'hre'? Name it with --teacher_text_column hre"),
        ("a.jsonl", '{"here": "w1", "away": "w2"}', "did you mean 'away'? Name it with --text_column away"),
        ("a.jsonl", '{"here": 1, "there": "w2"}', "column 'here' holds int, not text"),
        ("a.jsonl", '{"here": "w1", "there": ""}', "no row has text in both columns, 'there' and 'here'"),
    ],
)
def test_what_holds_no_pairs_is_refused(name, content, said, teacher, tmp_path, capfd):
    (tmp_path / name).write_text(content)
    run = ["--teacher", teacher, "--corpus", str(tmp_path / name), *RUN, "--max_steps", "1"]
    assert said in fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--relation_weight", "1"], "with --teacher_text_column student and teacher read different texts"),
        (["--text_unit", "sentence"], "with --teacher_text_column set --text_unit document"),
        (["--config", "embedding"], "with --teacher_text_column set --text_unit document"),
        (["--max_length", "30"], "use 24 or less"),
    ],
)
def test_what_needs_one_text_is_refused(changes, said, teacher, corpus, tmp_path, capfd):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--max_steps", "1", *changes]
    assert said in fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))


def test_a_student_learns_the_teacher_s_vectors_for_translations(teacher, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    run = ["--teacher", teacher, "--student", "half", "--corpus", corpus, *RUN, "--max_steps", "120"]
    run += ["--learning_rate", "3e-3", "--eval_steps", "120", "--save_initial_student", "--output_dir", str(out)]
    complete("distill", *run)
    said = capsys.readouterr().out
    assert "text     the student reads 'there' and 'here', the teacher 'here'" in said
    assert "40 pairs" in said
    assert "vectors  64 of the teacher" in said
    wanted = SentenceTransformer(teacher, device="cpu").encode(HERE)
    found = {}
    for name in ("out", "out/initial_student"):
        model = SentenceTransformer(str(tmp_path / name), device="cpu")
        found[name] = [float((model.encode(texts) * wanted).sum(1).mean()) for texts in (HERE, THERE)]
    assert min(found["out"]) > 0.9
    assert found["out/initial_student"][1] < 0.5
    assert [entry["eval_cosine"] for entry in history(out) if "eval_cosine" in entry][-1] > 0.6


def test_vectors_are_kept_for_the_teacher_s_texts_and_are_those_of_the_model(teacher, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORKD_CACHE", str(tmp_path / "cache"))
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--heldout", "0", "--eval_strategy", "no"]
    complete("distill", *run, "--max_steps", "10", "--output_dir", str(tmp_path / "out"))
    (file,) = (tmp_path / "cache").glob("*/vectors.npy")
    wanted = SentenceTransformer(teacher, device="cpu").encode(HERE)
    np.testing.assert_allclose(np.load(file), wanted.repeat(2, axis=0), atol=1e-3)


def _trainer(teacher: str, out: Path, rows, settings=None, **sizes) -> DistillationTrainer:
    args = DistillationConfig(output_dir=str(out), max_steps=1, use_cpu=True, disable_tqdm=True, report_to="none")
    torch.manual_seed(2)
    student = BertModel(tiny.config("bert", **sizes))
    return DistillationTrainer(student, teacher, args, rows, tiny.tokenizer(), method="embedding", settings=settings)


def _rows() -> Dataset:
    tokenizer = tiny.tokenizer()
    return Dataset.from_dict({"input_ids": tokenizer(THERE)["input_ids"], "teacher_ids": tokenizer(HERE)["input_ids"]})


def test_a_dense_layer_starts_from_either_s_own_text(teacher, tmp_path):
    trainer = _trainer(teacher, tmp_path / "out", _rows(), hidden_size=16, num_attention_heads=2)
    bodies = trainer.saved_model, SentenceTransformer(teacher, device="cpu")[0].model
    states = []
    for body, texts in zip(bodies, (THERE, HERE), strict=True):
        body.eval()
        with torch.no_grad():
            each = [body(**tiny.tokenizer()(text, return_tensors="pt"))[0][0].mean(0).numpy() for text in texts]
        states.append(np.stack(each))
    centred = states[0] - states[0].mean(0)
    expected = Ridge(alpha=0.01 * float(np.square(centred).sum(0).mean())).fit(*states)
    np.testing.assert_allclose(trainer.model.head.parts[1].linear.weight.detach(), expected.coef_, rtol=1e-2, atol=1e-4)


def test_rows_of_other_tokens_than_the_student_s_can_t_be_compared_layer_by_layer(teacher, tmp_path):
    with pytest.raises(UserError, match="with teacher_ids the teacher reads other tokens"):
        _trainer(teacher, tmp_path / "out", _rows(), EmbeddingSettings(hidden_state_weight=1))


def test_one_column_for_both_is_as_none(teacher, corpus, tmp_path, capsys):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--text_column", "here", "--max_steps", "1"]
    complete("distill", *run, "--eval_strategy", "no", "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "'here' is the column of the student and of the teacher" in said
    assert "40 lines" in said


def test_a_resumed_run_equals_one_that_was_never_interrupted(teacher, corpus, tmp_path):
    run = ["distill", "--teacher", teacher, "--corpus", corpus, *RUN, "--save_steps", "2", "--max_steps", "4"]
    sizes = ["--student_hidden_size", "16", "--student_heads", "2", "--student_intermediate_size", "32"]
    assert_goes_on_exactly([*run, *sizes, "--eval_strategy", "no"], tmp_path)


@pytest.mark.parametrize("changes", [["--streaming"], ["--dry_run"], ["--dry_run", "--num_train_epochs", "1"]])
def test_pairs_are_streamed_and_planned(changes, teacher, corpus, tmp_path, capsys):
    steps = [] if "--num_train_epochs" in changes else ["--max_steps", "2"]
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, *steps, *changes]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    if "--num_train_epochs" in changes:
        assert "about 8, 1 pass over the text" in said  # 64 rows, 8 a step


def test_the_card_says_what_each_of_them_read(teacher, corpus, tmp_path):
    out = tmp_path / "out"
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--max_steps", "1", "--eval_strategy", "no"]
    complete("distill", *run, "--output_dir", str(out))
    card = (out / "README.md").read_text()
    assert "| teacher_text_column" in card
