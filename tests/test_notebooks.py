"""The notebooks of the documentation run, and what they keep is small."""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from commands import environment
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))
_KEPT_BYTES = 40_000

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def _shorter(source: str) -> str:
    """A cell's source with a quarter of the steps, a tenth of the labelled rows and two seeds: it calls the same."""
    for name, divisor in ((r"(?:max|logging|eval|save)_steps", 4), ("max_train_samples", 10)):
        pattern = rf"({name}\W+)(\d+)"
        source = re.sub(pattern, lambda found, by=divisor: f"{found[1]}{max(1, int(found[2]) // by)}", source)
    return source.replace("seeds: [0, 1, 2]", "seeds: [0, 1]")


def _said(book: nbformat.NotebookNode) -> str:
    return json.dumps([cell["outputs"] for cell in book.cells if cell.cell_type == "code"])


@each_notebook
def test_a_notebook_runs_from_its_first_cell_to_its_last(notebook, tmp_path, monkeypatch):
    command = tmp_path / "bin" / "tutorkd"  # which its shell lines find, and the kernel's temporary files go here too
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tutorkd.cli.main "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in environment(PATH=path, TMPDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)

    book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        cell["source"] = _shorter(cell["source"])
    NotebookClient(book, timeout=1800, kernel_name="python3").execute()  # raises where a cell does
    assert "tutorkd: error" not in _said(book)  # of a shell line, which raises nothing


@each_notebook
def test_what_a_notebook_keeps_is_small_and_names_no_folder_of_a_machine(notebook):
    kept = _said(nbformat.read(notebook, as_version=4))
    assert len(kept) < _KEPT_BYTES
    assert '"stderr"' not in kept
    for folder in ("/tmp/", "/home/", "/root/", "site-packages"):
        assert folder not in kept
