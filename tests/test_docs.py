"""What the documentation says, held against the code."""

import ast
import doctest
import importlib
import io
import re
from pathlib import Path

import pytest
import tiny
import torch
from commands import save, save_corpus
from transformers import AutoModel

import tutorkd
from tutorkd.methods import methods_for
from tutorkd.objective import CAUSAL, EMBEDDING, MASKED
from tutorkd.step import LOSS_AXIS

ROOT = Path(__file__).parents[1]
_HOLE = "\0"  # in the place of a value in a message
_README_BYTES = 8192


def _messages() -> list[str]:
    """Every text in the code, with holes where values are put in."""
    texts = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else _HOLE for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def _in_the_page() -> list[str]:
    told, messages = False, []
    for line in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        told = line.startswith("|") and (told or cells[0] == "message begins")
        if told and cells[0] != "message begins" and set(cells[0]) != {"-"}:
            messages.append(cells[0])
    return messages


def test_messages_that_are_explained_are_those_of_the_code():
    known, explained = _messages(), _in_the_page()
    assert len(explained) > 10
    for message in explained:
        pieces = re.split(r"\.\.\.|\b(?:teacher|student)\b", message)
        pattern = ".*".join(re.escape(piece.strip()) for piece in pieces)
        assert any(re.search(pattern, text, re.DOTALL) for text in known), message


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.encode()) <= _README_BYTES
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("http")]
    assert len(links) > 20
    for link in links:
        file, _, place = link.partition("#")
        text = (ROOT / file).read_text(encoding="utf-8")
        headings = {_anchor(line) for line in text.splitlines() if line.startswith("#")}
        assert not place or place in headings, link


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_every_page_is_in_the_table_of_contents():
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index", "results", "contributing"}
    pages |= {f"notebooks/{page.stem}" for page in (ROOT / "docs/notebooks").glob("*.ipynb")}
    contents = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert pages == {page for page in pages if re.search(rf"^{re.escape(page)}$", contents, re.MULTILINE)}


@pytest.mark.parametrize("objective", [MASKED, CAUSAL, EMBEDDING], ids=lambda objective: objective.name)
def test_every_column_of_a_method_s_log_is_explained_with_the_method(objective):
    rows = [
        line.replace(r"\|", "").split("|")
        for line in (ROOT / "docs/log.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    explained = {(row[1].strip(" `"), row[-2].strip(" `")): row for row in rows}
    for name, method in methods_for(objective).items():
        for figure in method.figures:
            if figure.name == "mlm_accuracy":  # which a sentence explains
                continue
            row = explained[figure.label, figure.name]
            if figure.axis == LOSS_AXIS and name != "tutor-kd":
                assert f"`{name}`" in row[3], (name, figure)


@pytest.mark.parametrize("module", ["tutorkd.functional", "tutorkd.divergence", "tutorkd.importance"])
def test_examples_in_docstrings_give_what_they_say(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


@pytest.fixture
def folders_of_examples(tmp_path, monkeypatch):
    """What examples find where they run: a model of four layers in `teacher`, sixty documents in `my_text`."""
    save(tiny.masked_lm(), tmp_path / "teacher")
    (tmp_path / "my_text").mkdir()
    save_corpus(tmp_path / "my_text" / "text.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", tutorkd.__all__)
def test_the_example_of_each_public_name_gives_what_it_says(name, folders_of_examples):
    runner, said = doctest.DocTestRunner(), io.StringIO()
    for found in doctest.DocTestFinder(recurse=False).find(getattr(tutorkd, name), name, globs={"torch": torch}):
        runner.run(found, out=said.write)
    assert runner.summarize(verbose=False).attempted
    assert not said.getvalue()


def test_the_program_in_the_documentation_trains_a_student(folders_of_examples):
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    program, of_parts = (each.split("```")[0] for each in page.split("```python\n")[1:3])
    for theirs, ours in (
        ("google-bert/bert-base-uncased", "teacher"),
        ("max_length=128", "max_length=16, cache_dir='cache'"),
        ("max_steps=1000", "max_steps=2, report_to='none'"),
    ):
        assert theirs in program
        program = program.replace(theirs, ours)
    exec(program, names := {})
    assert AutoModel.from_pretrained(folders_of_examples / "run").config.intermediate_size == 32
    exec(of_parts.replace('"num_hidden_layers": 4', '"num_hidden_layers": 1'), names)
    assert names["student"].config.num_hidden_layers == 1
    assert torch.equal(
        names["student"].get_input_embeddings().weight, names["teacher"].body.get_input_embeddings().weight
    )
