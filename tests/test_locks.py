"""One process at a time in an output folder."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import tutorkd
from tutorkd.errors import UserError
from tutorkd.locks import HOLDER_FILE, LOCK_FILE, LOCK_FILES, contents, held

HOLD = """
import sys
from pathlib import Path
from tutorkd.locks import held

sys.argv = ["tutorkd", "distill", "--hub_token", "secret"]
with held(Path("out")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder ``out`` until its input ends."""
    paths = [str(Path(tutorkd.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, env=environment
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_holds_the_folder(holder, tmp_path):
    with pytest.raises(UserError) as refused, held(tmp_path / "out"):
        raise AssertionError
    message = str(refused.value)
    assert f"out is in use by process {holder.pid} on {socket.gethostname()} (tutorkd distill), since 20" in message
    assert "secret" not in message
    assert "\n" not in message
    with held(tmp_path / "out" / "below"):  # another folder
        pass
    with held(tmp_path / "out", held_here=False):  # a second process of the same run
        pass
    holder.communicate()
    with held(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / HOLDER_FILE).read_text())["process"] == os.getpid()


def test_what_a_killed_process_leaves_holds_nobody_back(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert {file.name for file in (tmp_path / "out").iterdir()} == LOCK_FILES
    assert contents(tmp_path / "out") == set()
    with held(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_stays_empty_is_as_it_was(tmp_path):
    with held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK_FILE).exists()
    assert not (tmp_path / "a").exists()
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "model").touch()
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["model"]


def test_a_holder_that_hasn_t_written_who_it_is_holds_too(tmp_path):
    with (
        FileLock(tmp_path / LOCK_FILE),
        pytest.raises(UserError, match="is in use by another process; wait"),
        held(tmp_path),
    ):
        raise AssertionError


def test_a_place_that_can_t_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be made"), held(tmp_path / "file" / "out"):
        raise AssertionError

    def full(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="out can't be written: No space left"), held(tmp_path / "out"):
        raise AssertionError
    assert not (tmp_path / "out").exists()
