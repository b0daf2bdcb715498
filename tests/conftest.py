import gc
import os
import shutil
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # in child processes too: sums depend on the number of threads

import datasets
import pytest
import tiny
import torch
from browser import CHROMIUM
from commands import run_here, save, save_corpus

from tutorkd import runtime

# Whoever starts the tests in the background has them ignore Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _threads():
    torch.set_num_threads(1)  # two of them spin against each other on a busy machine


@pytest.fixture(autouse=True, scope="module")
def _freeze():
    """Leave what is imported out of garbage collections: each run of a trainer makes one, which takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # of whoever starts the tests; tables would be printed for it
    monkeypatch.setenv("TUTORKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))  # of child processes
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(runtime, "_LEAST_SECONDS", 0.05)  # a second for each time that a dry run measures adds up


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests with the marks of ``browser.py``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def graphs_written_once(tmp_path_factory):
    """Let exports write the float32 graph of a model once, which takes seconds, and copy it for the same model.

    What is copied is held against PyTorch as all graphs are, so another model's would be refused.
    """
    from tutorkd.export import exporter

    write, written = exporter.write_float32, {}

    def write_or_copy(model, names, outputs, path):
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        graph = repr(model), weights, *names, *outputs
        if graph not in written:
            write(model, names, outputs, path)
            written[graph] = shutil.copy(path, tmp_path_factory.mktemp("graph"))
        shutil.copy(written[graph], path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "write_float32", write_or_copy)
        yield


@pytest.fixture
def teacher_folder(tmp_path):
    """A masked language model of four layers with its tokenizer, on disk."""
    return Path(save(tiny.masked_lm(), tmp_path / "teacher_model"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def corpus_file(tmp_path):
    """Sixty documents, blank-line separated."""
    return Path(save_corpus(tmp_path / "corpus.txt"))


@pytest.fixture
def in_process(monkeypatch):
    """Cells of a comparison run here, and their names are told."""
    ran: list[str] = []
    monkeypatch.setattr("tutorkd.comparison.command.run_processes", run_here(ran, lambda cell: cell.name))
    return ran
