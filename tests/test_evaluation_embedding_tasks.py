"""Tasks of mteb on tiny models: one that is made here, with data made here."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import tiny
from commands import complete, fail
from scipy.stats import spearmanr

from tutorkd.errors import UserError
from tutorkd.evaluation import embedding_tasks
from tutorkd.evaluation.embedding_tasks import EmbeddingTasks

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer

SCORES = [0, 1, 2, 3, 4, 5] * 3  # equal words, of six
FIRST = [" ".join(text.split()[:6]) for text in tiny.documents(18, seed=1)]
OTHER = [text.split()[:6] for text in tiny.documents(18, seed=2)]
SECOND = [" ".join([*one.split()[:same], *other[same:]]) for one, other, same in zip(FIRST, OTHER, SCORES, strict=True)]


def expected(folder):
    first, second = (SentenceTransformer(str(folder), device="cpu").encode(texts) for texts in (FIRST, SECOND))
    return spearmanr((first * second).sum(-1), SCORES).statistic


def local_task():
    """A task of sentence similarity, of mteb's own class."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    nothing = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")

    class Local(AbsTaskSTS):
        metadata = TaskMetadata(
            name="Local",
            description="pairs",
            dataset={"path": "nobody/nothing", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
            sample_creation=None,
            bibtex_citation=None,
            **dict.fromkeys(nothing),
        )
        min_score, max_score = 0, 5

        def load_data(self, **_):
            rows = {"sentence1": FIRST, "sentence2": SECOND, "score": SCORES}
            self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(rows)), True

    return Local()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(tiny.sentence_encoder(tmp_path / "made"), "model")
    return tmp_path / "model"


@pytest.fixture
def stand_in(monkeypatch):
    """For mteb: one task, whose score is told here."""

    def get_tasks(tasks):
        if tasks != ["Local"]:
            raise KeyError("KeyError: 'Locl' not found. Did you mean: 'Local'?")
        return [SimpleNamespace(metadata=SimpleNamespace(name="Local", main_score="cosine_spearman"))]

    def evaluate(encoder, tasks, cache, co2_tracker, show_progress_bar):
        assert (cache, co2_tracker) == (None, False)
        if encoder is None:
            raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub")
        return SimpleNamespace(task_results=[SimpleNamespace(get_score=lambda: 0.625)])

    monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace(get_tasks=get_tasks, evaluate=evaluate))
    monkeypatch.setattr(embedding_tasks, "find_spec", lambda name: object())


def test_a_task_of_mteb_s_own_class_is_scored_as_by_hand(folder, monkeypatch):
    mteb = pytest.importorskip("mteb")
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [local_task()])
    encoder = SentenceTransformer(str(folder), device="cpu")
    assert EmbeddingTasks(["Local"]).run(encoder) == {
        "Local: cosine_spearman": pytest.approx(expected(folder), abs=1e-4)
    }


def test_a_task_is_known_by_mteb_and_one_that_isn_t_is_told_with_the_nearest():
    pytest.importorskip("mteb")
    assert EmbeddingTasks(["STSBenchmark", "STSBenchmark"]).names == ["STSBenchmark"]
    with pytest.raises(UserError, match=r"^mteb: 'STSBenchmrk' not found. Did you mean: 'STSBenchmark'\?$"):
        EmbeddingTasks(["STSBenchmrk"])


def test_scores_of_tasks_stand_in_the_table_with_and_without_pairs(folder, stand_in, capsys):
    complete("evaluate", "--models", "model", "--tasks", "Local", "--output_dir", "out")
    (result,) = json.loads((folder.parent / "out" / "results.json").read_text())["results"]
    assert result["tasks"] == {"Local: cosine_spearman": 0.625}
    assert (result["figures"], result["milliseconds_per_text"]) == ({}, None)
    assert "Local: cosine_spearman 62.50" in " ".join(capsys.readouterr().out.split())
    rows = [f"{one},{other},{score}" for one, other, score in zip(FIRST, SECOND, SCORES, strict=True)]
    (folder.parent / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    complete("evaluate", "--models", "model", "--sts", "pairs.csv", "--tasks", "Local", "--output_dir", "both")
    (result,) = json.loads((folder.parent / "both" / "results.json").read_text())["results"]
    assert result["figures"]["STS: Spearman"] == pytest.approx(expected(folder), abs=1e-6)
    table = " ".join((folder.parent / "both" / "results.md").read_text().replace("\\", "").split())
    assert "| Local: cosine_spearman | 62.50 |" in table


def test_tasks_that_can_t_be_run_are_told_in_a_line(folder, stand_in, capfd):
    with pytest.raises(UserError, match=r"^mteb can't run Local: Couldn't reach 'nobody/nothing' on the Hub$"):
        EmbeddingTasks(["Local"]).run(None)
    told = fail(capfd, "evaluate", "--models", "model", "--tasks", "Locl")
    assert told == "mteb: 'Locl' not found. Did you mean: 'Local'?"
    told = fail(capfd, "evaluate", "--models", "model", "--tasks", "Local", "--text", "a.txt")
    assert told.startswith("--tasks measures embedding models without training, and --text isn't used for that")


def test_without_mteb_it_says_what_to_install(folder, capfd, monkeypatch):
    monkeypatch.setattr(embedding_tasks, "find_spec", lambda name: None)
    told = fail(capfd, "evaluate", "--models", "model", "--tasks", "STSBenchmark")
    assert told.endswith("those of mteb, which isn't installed: pip install 'tutorkd[mteb]'")
