"""Whether two runs are made from the same: worked out by hand for each kind of setting."""

import pytest

from tutorkd.identity import difference, with_contents

RUN = {"seed": 1, "top_k": None, "teacher": "t", "teacher_sha256": "a", "student": "half", "corpus": ["c"]}
ROWS, FILES = {"corpus_sha256": "r"}, {"corpus_files_sha256": "f"}


@pytest.mark.parametrize(
    ("there", "now"),
    [
        ({}, {}),
        (ROWS | FILES, ROWS | FILES),
        ({}, {"teacher": "./t"}),
        (FILES, FILES | {"corpus": ["./c"]}),
        (ROWS, ROWS | {"corpus": ["./c"]}),
        (ROWS | FILES, ROWS | {"corpus_files_sha256": "touched"}),
        ({"text": ["h"], "text_files_sha256": "h"}, {"text": ["./h"], "text_files_sha256": "h"}),
        ({"data_dir": "d", "data_dir_sha256": "x"}, {"data_dir": "./d", "data_dir_sha256": "x"}),
        ({"temperature": None}, {}),  # an option that there was none of, left at none
        ({}, {"temperature": None}),
    ],
)
def test_what_gives_the_same_is_no_difference(there, now):
    assert difference(RUN | there, RUN | now) is None


@pytest.mark.parametrize(
    ("there", "now", "told"),
    [
        ({}, {"seed": 2}, "seed: 1 there, 2 now"),
        ({}, {"top_k": 3}, "top_k: None there, 3 now"),
        ({}, {"student": "extreme-12"}, "student: half there, extreme-12 now"),
        ({}, {"seed": 2, "top_k": 3, "student": "s"}, "seed: 1 there, 2 now and 2 more"),
        ({"data_sha256": "x"}, {"data_sha256": "y"}, "data_sha256: x there, y now"),
        ({"data_sha256": "x"}, {"data_sha256": "y", "seed": 2}, "seed: 1 there, 2 now and 1 more"),
        ({}, {"teacher_sha256": "b"}, "the contents of teacher t have changed"),
        (
            {"data_dir": "d", "data_dir_sha256": "x"},
            {"data_dir": "d", "data_dir_sha256": "y"},
            "the contents of data_dir d have changed",
        ),
        ({}, {"teacher": "u", "teacher_sha256": "b"}, "teacher: t there, u now"),
        ({}, {"corpus": ["./c"]}, "corpus: ['c'] there, ['./c'] now"),  # nothing tells what it holds
        (FILES, {"corpus_files_sha256": "g"}, "the contents of corpus ['c'] have changed"),
        (FILES, ROWS | {"corpus_files_sha256": "g"}, "the contents of corpus ['c'] have changed"),
        (ROWS | FILES, {"corpus_sha256": "s"} | FILES, "the contents of corpus ['c'] have changed"),
        (
            {"text": ["h"], "text_files_sha256": "h"},
            {"text": ["h"], "text_files_sha256": "i"},
            "the contents of text ['h'] have changed",
        ),
    ],
)
def test_the_first_difference_is_told_and_how_many_more_there_are(there, now, told):
    assert difference(RUN | there, RUN | now) == told


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_other_weights_are_another_model(file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(b"one")
    before = with_contents({"teacher": str(tmp_path)})
    (tmp_path / file).write_bytes(b"another")
    assert with_contents({"teacher": str(tmp_path)}) != before
