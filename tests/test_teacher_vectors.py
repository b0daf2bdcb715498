"""A teacher's vectors on disk: those it gives, computed once, gone on from where a run was killed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import assert_same, complete, weights
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from tutorkd import teacher_vectors
from tutorkd.data.rows import DrawnRows, RowsBeside
from tutorkd.errors import Interrupted, UserError
from tutorkd.sentence_teacher import load_sentence_teacher
from tutorkd.teacher_vectors import VECTORS, kept_vectors, vector_bytes

TEXTS = [text[: 3 + 5 * i] for i, text in enumerate(tiny.documents(20))]
RUN = [
    *("--method", "embedding", "--max_length", "16", "--per_device_train_batch_size", "8", "--heldout", "0.2"),
    *("--save_strategy", "no", "--eval_strategy", "no", "--bf16", "false"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.sentence_encoder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def rows(folder) -> Dataset:
    tokenizer = load_sentence_teacher(str(folder)).tokenizer
    return Dataset.from_list([{"input_ids": tokenizer(text, truncation=True)["input_ids"]} for text in TEXTS])


def test_vectors_are_the_teacher_s_in_the_order_of_the_rows(folder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_vectors, "_ROWS_PER_BLOCK", 7)
    monkeypatch.setattr(teacher_vectors, "_ROWS_PER_BATCH", 3)
    teacher = load_sentence_teacher(str(folder))
    kept = kept_vectors(teacher, rows, tmp_path / "kept", torch.device("cpu"))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert kept.arrays[VECTORS].dtype == np.float16
    assert kept.arrays[VECTORS].nbytes == vector_bytes(teacher, len(TEXTS))
    np.testing.assert_allclose(kept.arrays[VECTORS], expected, atol=1e-3)
    assert not kept.reused
    assert kept_vectors(teacher, rows, tmp_path / "kept", torch.device("cpu")).reused


def test_vectors_that_are_damaged_are_told_in_a_line(folder, rows, tmp_path):
    given = load_sentence_teacher(str(folder)), rows, tmp_path / "kept", torch.device("cpu")
    kept_vectors(*given)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"what is kept in {tmp_path}/kept is damaged .*; remove that folder"):
        kept_vectors(*given)


def test_what_a_killed_run_computed_is_not_computed_again(folder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_vectors, "_ROWS_PER_BLOCK", 5)
    plain, seen = teacher_vectors._vectors, []

    def compute(teacher, block, device):
        if len(seen) == 2:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(block["input_ids"][0])
        return plain(teacher, block, device)

    monkeypatch.setattr(teacher_vectors, "_vectors", compute)
    teacher = load_sentence_teacher(str(folder))
    with pytest.raises(Interrupted):
        kept_vectors(teacher, rows, tmp_path / "kept", torch.device("cpu"))
    assert not (tmp_path / "kept").exists()
    kept = kept_vectors(teacher, rows, tmp_path / "kept", torch.device("cpu"))
    assert [each for each in seen if each] == [rows[start]["input_ids"] for start in (0, 5, 10, 15)]
    np.testing.assert_allclose(kept.arrays[VECTORS], plain(teacher, rows, torch.device("cpu")), atol=1e-3)


def test_each_row_comes_with_its_vector(rows):
    vectors = np.arange(40, dtype=np.float16).reshape(20, 2)
    drawn = DrawnRows(RowsBeside(rows, "vector", vectors))
    for row in drawn.__getitems__([27, 3]):
        assert row["input_ids"] == rows[row["draw"] % 20]["input_ids"]
        assert row["vector"].tolist() == vectors[row["draw"] % 20].tolist()
    assert drawn.lengths.tolist() == [len(ids) for ids in rows["input_ids"]]


def test_a_run_of_whole_passes_keeps_vectors_and_learns_as_one_that_does_not(folder, tmp_path, capsys, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.documents()))
    command = ["distill", "--teacher", str(folder), "--corpus", str(text), *RUN, "--cache_dir", str(tmp_path / "cache")]
    complete(*command, "--num_train_epochs", "2", "--output_dir", str(tmp_path / "kept"))
    assert "vectors  48 of the teacher, 0.0 MB, computed once and kept in" in capsys.readouterr().out
    complete(*command, "--num_train_epochs", "2", "--output_dir", str(tmp_path / "again"))
    assert "computed before in" in capsys.readouterr().out
    assert_same(weights(tmp_path / "kept"), weights(tmp_path / "again"))
    monkeypatch.setattr("tutorkd.pretraining.asked_before.MOST_BYTES", 0)
    complete(*command, "--num_train_epochs", "2", "--output_dir", str(tmp_path / "asked"))
    assert "vectors  the teacher's vectors are computed as the rows are read" in capsys.readouterr().out
    kept, asked = (weights(tmp_path / name) for name in ("kept", "asked"))
    for name, value in kept.items():
        torch.testing.assert_close(value, asked[name], atol=2e-3, rtol=0)


def test_a_teacher_with_other_modules_has_other_vectors(folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.documents()))
    command = ["distill", "--corpus", str(text), *RUN, "--cache_dir", str(tmp_path / "cache"), "--teacher"]
    complete(*command, str(folder), "--output_dir", str(tmp_path / "first"))
    other = tiny.sentence_encoder(tmp_path, "cls")
    complete(*command, str(other), "--output_dir", str(tmp_path / "second"))
    assert capsys.readouterr().out.count("computed once and kept") == 2


def test_a_run_that_reads_a_part_of_the_text_keeps_none(folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.documents()))
    command = ["distill", "--teacher", str(folder), "--corpus", str(text), *RUN, "--cache_dir", str(tmp_path / "cache")]
    for number, length in enumerate(["--max_steps", "--num_train_epochs"]):
        complete(*command, length, ["2", "0.5"][number], "--output_dir", str(tmp_path / str(number)))
        assert "are computed as the rows are read" in capsys.readouterr().out


def test_vectors_are_those_of_the_teacher_wherever_it_lies(folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.documents()))
    command = ["distill", "--corpus", str(text), *RUN, "--cache_dir", str(tmp_path / "cache"), "--teacher"]
    complete(*command, str(folder), "--output_dir", str(tmp_path / "first"))
    shutil.copytree(folder, tmp_path / "moved")
    complete(*command, str(tmp_path / "moved"), "--output_dir", str(tmp_path / "second"))
    assert "computed before in" in capsys.readouterr().out
