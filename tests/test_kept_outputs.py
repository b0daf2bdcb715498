"""What a teacher says of rows, on disk."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from tutorkd.errors import Interrupted
from tutorkd.kept_outputs import Output, kept_outputs

ROWS = Dataset.from_dict({"input_ids": [[row] for row in range(10)]})
COUNTS = np.arange(10) * 1000
OUTPUTS = {"numbers": Output(np.dtype(np.float32), 8), "ids": Output(np.dtype(np.uint16), 3)}


def _of(block: Dataset) -> list[np.ndarray]:
    rows = [row for (row,) in block["input_ids"]]
    entries = np.concatenate([np.full(COUNTS[row], row) for row in rows])
    return [np.outer(entries, np.arange(8) + 1), np.outer(entries, [1, 0, 2])]


def _kept(folder: Path, compute) -> dict[str, np.ndarray]:
    return kept_outputs(ROWS, COUNTS, OUTPUTS, compute, folder, 3, "Outputs").arrays


def test_outputs_of_blocks_follow_one_another(tmp_path):
    arrays = _kept(tmp_path / "kept", _of)
    for name, wanted in zip(OUTPUTS, _of(ROWS), strict=True):
        assert arrays[name].dtype == OUTPUTS[name].dtype
        np.testing.assert_array_equal(arrays[name], wanted)


def test_a_run_that_was_stopped_keeps_what_it_computed(tmp_path):
    asked = []

    def compute(block: Dataset) -> list[np.ndarray]:
        asked.append(block["input_ids"][0][0])
        if len(asked) == 3:
            raise KeyboardInterrupt(15)
        return _of(block)

    with pytest.raises(Interrupted, match="asks the teacher on after 6 of 10 rows") as stop:
        _kept(tmp_path / "kept", compute)
    assert stop.value.signal_number == 15
    arrays = _kept(tmp_path / "kept", compute)
    assert asked == [0, 3, 6, 6, 9]
    np.testing.assert_array_equal(arrays["numbers"], _of(ROWS)[0])


def test_the_disk_never_holds_more_than_what_is_kept(tmp_path):
    held = []

    def compute(block: Dataset) -> list[np.ndarray]:
        held.append(sum(file.stat().st_blocks * 512 for file in tmp_path.rglob("*") if file.is_file()))
        return _of(block)

    arrays = _kept(tmp_path / "kept", compute)
    assert max(held) < sum(array.nbytes for array in arrays.values()) + 32_768
