"""Models whose code comes with their checkpoint: run where that is asked for, and never otherwise."""

import sys
from pathlib import Path

import pytest
import tiny
from commands import SHORT, by_tutor_kd, complete, fail, save, set_json
from transformers import AutoModel

CODE = """
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM, BertModel

Path({mark!r}).touch()

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertModel):
    config_class = OwnConfig

class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig
"""
CLASSES = {"AutoConfig": "OwnConfig", "AutoModel": "OwnModel", "AutoModelForMaskedLM": "OwnForMaskedLM"}


@pytest.fixture
def ran(tmp_path) -> Path:
    """A file that the code makes when it is run."""
    return tmp_path / "ran"


@pytest.fixture
def teacher(tmp_path, monkeypatch, ran) -> str:
    """A masked language model of a family that transformers doesn't know."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = Path(save(tiny.masked_lm(), tmp_path / "teacher"))
    (folder / "modeling_own.py").write_text(CODE.format(mark=str(ran)))
    auto_map = {kind: f"modeling_own.{name}" for kind, name in CLASSES.items()}
    set_json(folder / "config.json", model_type="own", architectures=["OwnForMaskedLM"], auto_map=auto_map)
    return str(folder)


def test_code_that_comes_with_a_teacher_is_not_run_unasked(tmp_path, teacher, corpus_file, ran, capfd):
    said = fail(capfd, *by_tutor_kd(teacher, corpus_file, tmp_path / "out", *SHORT))
    assert "contains custom code" in said
    assert not ran.exists()


@pytest.mark.parametrize("method", ["tutor-kd", "kd"])
def test_a_student_of_such_a_teacher_is_of_its_family_and_has_its_code_beside_it(
    tmp_path, teacher, corpus_file, ran, method
):
    out = tmp_path / "out"
    command = ["distill", "--teacher", teacher, "--corpus", str(corpus_file), "--method", method, "--num_proc", "1"]
    complete(*command, "--trust_remote_code", "--output_dir", str(out), *SHORT)
    assert ran.exists()
    student = AutoModel.from_pretrained(out, trust_remote_code=True)
    assert (type(student).__name__, student.config.num_hidden_layers) == ("OwnModel", 4)
    assert (out / "modeling_own.py").read_text() == Path(teacher, "modeling_own.py").read_text()
