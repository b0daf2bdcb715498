"""How many rows a text will give, beside how many it gives."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tutorkd.data import estimate, prepare_corpus
from tutorkd.data.corpus import expected_rows
from tutorkd.data.texts import Texts
from tutorkd.errors import UserError
from tutorkd.objective import MASKED
from tutorkd.pretraining.corpus import CorpusArguments

SETTINGS = {
    "max_length": 16,
    "text_column": "text",
    "heldout": 0.0,
    "split": "train",
    "framed": True,
    "texts": None,
    "lines": False,
}


@pytest.fixture
def documents() -> list[str]:
    return tiny.documents(300)


def given(sources, tmp_path, **settings) -> int:
    settings = {**SETTINGS, **settings}
    return len(prepare_corpus(sources, tiny.tokenizer(), **settings, num_proc=1, cache_dir=tmp_path / "cache").train)


def test_a_small_text_is_counted(tmp_path, documents):
    (tmp_path / "a.txt").write_text("\n\n".join(documents), encoding="utf-8")
    found = expected_rows([str(tmp_path / "a.txt")], tiny.tokenizer(), **SETTINGS)
    assert found == pytest.approx(given(str(tmp_path / "a.txt"), tmp_path), abs=1)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_of_a_large_text_parts_are_looked_at(tmp_path, documents, ending, monkeypatch):
    monkeypatch.setattr("tutorkd.data.shards.BYTES_PER_SHARD", 4000)
    monkeypatch.setattr(estimate, "_CHARACTERS", 1500)
    file = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": documents}), file, row_group_size=20)
    else:
        jsonl = "\n".join(json.dumps({"text": text}) for text in documents)
        file.write_text(jsonl if ending == "jsonl" else "\n\n".join(documents), encoding="utf-8")
    found = expected_rows([str(file)], tiny.tokenizer(), **{**SETTINGS, "heldout": 0.5})
    assert found == pytest.approx(given(str(file), tmp_path) / 2, rel=0.15)


def test_texts_that_stay_apart_are_rows_each(tmp_path, documents):
    (tmp_path / "a.txt").write_text("\n".join(documents), encoding="utf-8")
    settings = {**SETTINGS, "texts": Texts("line")}
    found = expected_rows([str(tmp_path / "a.txt")], tiny.tokenizer(), **settings)
    assert found == len(documents)


def test_nothing_is_told_of_what_would_take_long_or_can_t_be_known(tmp_path, documents, monkeypatch):
    (tmp_path / "a.txt").write_text("\n\n".join(documents), encoding="utf-8")
    name = str(tmp_path / "a.txt")
    assert expected_rows([name, "owner/text"], tiny.tokenizer(), **SETTINGS) is None
    weighted = CorpusArguments(corpus=[name, name], corpus_weights=[1.0, 2.0], max_length=16)
    assert weighted.expected_rows(tiny.tokenizer(), MASKED, None) is None
    monkeypatch.setattr(estimate, "_LARGEST", 100)
    assert expected_rows([name], tiny.tokenizer(), **SETTINGS) is None


def test_what_can_t_be_read_is_told(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n\n\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        expected_rows([str(tmp_path / "a.txt")], tiny.tokenizer(), **SETTINGS)
