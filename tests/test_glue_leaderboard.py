import numpy as np
import pytest

from tutorkd.glue.leaderboard import lacking, tsv
from tutorkd.glue.tasks import TASKS


def test_the_leaderboard_s_files():
    files = lacking([])
    assert set(files) == {
        *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"),
        *("QNLI.tsv", "RTE.tsv", "WNLI.tsv"),
    }
    assert len(files) == 11
    assert lacking(list(TASKS)) == []
    assert lacking([name for name in TASKS if name != "mnli"]) == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rte", ["entailment", "not_entailment"]),
        ("qnli", ["entailment", "not_entailment"]),
        ("mnli", ["entailment", "neutral", "contradiction"]),
        *((name, ["0", "1"]) for name in ("cola", "sst2", "mrpc", "qqp", "wnli")),
    ],
)
def test_classes_have_the_leaderboard_s_words(name, words):
    text = tsv(TASKS[name], [5, 7, 6][: len(words)], np.arange(len(words)))
    lines = [f"{number}\t{word}" for number, word in zip([5, 7, 6], words, strict=False)]
    assert text == "\n".join(["index\tprediction", *lines, ""])


def test_similarities_are_numbers_from_0_to_5():
    text = tsv(TASKS["stsb"], [0, 1, 2, 3], np.array([-0.3, 2.34567, 5.2, 5.0]))
    assert text == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n3\t5.000\n"
