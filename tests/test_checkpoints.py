"""A checkpoint is whole or doesn't count, and has its place only when it is whole."""

import json
import random
from pathlib import Path

import pytest

from tutorkd.checkpoints import FILES_FILE, SCRATCH, defect, last_checkpoint, publish

FILES = {
    "model.safetensors": b"weights" * 9,
    "optimizer.pt": b"PK optimizer",
    "rng_state_0.pth": b"PK first",
    "rng_state_1.pth": b"PK second",
    "trainer_state.json": b'{"global_step": 2}',
    "parts/tokenizer.json": b"{}",
}


def _checkpoint(output_dir: Path, step: int) -> Path:
    written = output_dir / SCRATCH / f"checkpoint-{step}"
    for name, content in FILES.items():
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_bytes(content)
    return publish(written, output_dir)


def test_a_published_checkpoint_is_whole_and_lists_its_files(tmp_path):
    place = _checkpoint(tmp_path, 2)
    assert place == tmp_path / "checkpoint-2"
    assert defect(place) is None
    assert json.loads((place / FILES_FILE).read_text()) == {name: len(content) for name, content in FILES.items()}
    assert not (tmp_path / SCRATCH / "checkpoint-2").exists()


def test_what_stood_in_its_place_goes(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "rng_state_7.pth").write_bytes(b"left by a run of eight processes")
    place = _checkpoint(tmp_path, 2)
    assert defect(place) is None
    assert not (place / "rng_state_7.pth").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["missing", "empty", "cut", "of another length"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(tmp_path, name, change):
    before, newest = (_checkpoint(tmp_path, step) for step in (8, 10))
    assert last_checkpoint(tmp_path) == newest
    whole = (newest / name).read_bytes()
    if change == "missing":
        (newest / name).unlink()
    else:
        (newest / name).write_bytes({"empty": b"", "cut": whole[:-1], "of another length": whole + b"[]"}[change])
    assert name in str(defect(newest))
    assert last_checkpoint(tmp_path) == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"model.safetensors": "much"}', '{"model.safetensors": null}']
)
def test_a_damaged_list_makes_a_checkpoint_that_doesn_t_count(tmp_path, content):
    newest = _checkpoint(tmp_path, 10)
    (newest / FILES_FILE).write_text(content)
    assert defect(newest) == f"{FILES_FILE} is damaged"
    (newest / FILES_FILE).unlink()
    assert defect(newest) == f"{FILES_FILE} is missing"
    assert last_checkpoint(tmp_path) is None


def test_the_newest_is_the_one_of_most_steps_and_other_names_don_t_count(tmp_path):
    steps = [2, 10, 9, 100]
    random.Random(0).shuffle(steps)
    for step in steps:
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-mine").mkdir()
    (tmp_path / "checkpoint-200").write_text("")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
