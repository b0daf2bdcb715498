"""Whose an output folder is, and whether its run is finished."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
import yaml
from commands import SHORT, assert_same, complete, fail, save, save_corpus, weights

from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.run_folder import FINISHED_FILE, RUN_FILE, lacking


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A place with models, text, and two finished runs of the commands below."""
    place = tmp_path_factory.mktemp("made")
    save(tiny.masked_lm(), place / "teacher")
    save(tiny.masked_lm(num_hidden_layers=2).base_model, place / "small")
    (place / "text").mkdir()
    save_corpus(place / "text" / "corpus.txt")
    os.chdir(place)
    complete(*distill())
    complete(*adapt())
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, in which this test runs."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "place"))
    return tmp_path / "place"


def distill(*more: str, corpus: str = "text") -> list[str]:
    given = ["--teacher", "teacher", "--student", "small", "--corpus", corpus, "--output_dir", "student"]
    return ["distill", "--method", "tutor-kd", *given, "--cache_dir", "cache", *SHORT, *more]


def adapt(*more: str) -> list[str]:
    given = ["--model", "teacher", "--corpus", "text", "--output_dir", "adapted", "--cache_dir", "cache"]
    return ["adapt", *given, *SHORT, *more]


def _unfinish(out: Path) -> None:
    """As if it had been killed after its first checkpoint."""
    shutil.rmtree(out / "checkpoint-4")
    for file in (*out.glob("*.safetensors"), out / FINISHED_FILE):
        file.unlink()


# The same run


def test_a_finished_run_is_known_however_its_paths_are_spelled_and_no_text_is_read(place, capfd, monkeypatch):
    for command in (distill(), adapt()):
        complete(*command)  # notes that the copy's text is the same

    def read(*args):
        raise AssertionError("text was read")

    monkeypatch.setattr(CorpusArguments, "load", read)
    other = distill("--teacher", str(place / "teacher"), "--student", "./small/", corpus=f"{place}/text/")
    for command in (distill(), other, adapt(), adapt("--model", "./teacher/")):
        capfd.readouterr()
        complete(*command)
        assert "is finished; --restart runs it again" in capfd.readouterr().out


@pytest.mark.parametrize("command", [distill, adapt])
def test_checkpoints_are_dropped_on_request_and_the_run_stays_finished(place, capfd, command):
    out = Path(command()[command().index("--output_dir") + 1])
    expected = weights(out)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    complete(*command("--drop_checkpoints"))
    printed = capfd.readouterr().out
    assert "is finished" in printed
    assert f"removed  checkpoint-2, checkpoint-4 of {out}" in printed
    assert not list(out.glob("checkpoint-*"))
    complete(*command())
    said = f"{out} is finished; --restart runs it again\nreport   {out}/report.html\n"
    assert capfd.readouterr().out == said
    complete(*command("--restart", "--drop_checkpoints"))
    assert not list(out.glob("checkpoint-*"))
    assert_same(weights(out), expected)


def test_an_interrupted_run_goes_on_however_its_paths_are_spelled(place, capfd):
    expected = weights(place / "student")
    _unfinish(place / "student")
    shutil.copytree("text", "copied")  # another place and time, the same content
    os.utime("copied/corpus.txt", (1, 1))
    complete(*distill("--teacher", str(place / "teacher"), "--student", f"{place}/small/", corpus="copied/"))
    printed = capfd.readouterr().out
    assert "going on from student/checkpoint-2" in printed
    assert "done     2 of 4 steps in" in printed
    assert_same(weights(place / "student"), expected)


def test_a_text_that_was_only_touched_is_the_same(place, capfd):
    os.utime("text/corpus.txt", (1, 1))
    complete(*distill())
    assert "is finished" in capfd.readouterr().out
    os.utime("text/corpus.txt", (2, 2))
    complete(*distill())


def test_run_yaml_can_be_read_by_people(place):
    told = yaml.safe_load(Path("student", RUN_FILE).read_text())
    assert (told["teacher"], told["student"], told["corpus"], told["processes"]) == ("teacher", "small", ["text"], 1)
    assert "output_dir" not in told


# Another run


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("command", "out", "role"),
    [
        (distill, "student", "corpus ['text']"),
        (distill, "student", "teacher teacher"),
        (distill, "student", "student small"),
        (adapt, "adapted", "corpus ['text']"),
        (adapt, "adapted", "model teacher"),
    ],
)
def test_other_content_under_the_same_name_is_another_run(place, capfd, command, out, role, finished):
    if not finished:
        _unfinish(place / out)
    before = weights(place / out / "checkpoint-2")
    if role.startswith("corpus"):
        Path("text", "corpus.txt").write_text("\n\n".join(tiny.documents(seed=1)), encoding="utf-8")
    elif role == "student small":
        save(tiny.masked_lm(num_hidden_layers=2, seed=1).base_model, place / "small")
    else:
        save(tiny.masked_lm(seed=1), place / "teacher")
    told = fail(capfd, *command())
    assert told == (
        f"{out} holds another run (the contents of {role} have changed); choose another --output_dir, or --restart to "
        "throw that run away"
    )
    assert_same(weights(place / out / "checkpoint-2"), before)
    complete(*command("--restart"))


def test_another_name_is_told_by_its_name(place, capfd):
    shutil.copytree("small", "other")
    save(tiny.masked_lm(num_hidden_layers=2, seed=1).base_model, place / "other")
    assert "holds another run (student: small there, other now)" in fail(capfd, *distill("--student", "other"))


def _began_with(**settings: int) -> None:
    """As if the run in the folder had begun with other settings."""
    file = Path("student", RUN_FILE)
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))


def test_a_run_of_more_processes_goes_on_with_one_and_its_steps_keep_their_rows(place, capfd):
    _unfinish(place / "student")
    _began_with(processes=3)
    complete(*distill())
    printed = capfd.readouterr().out
    assert "began with another number of processes; a step has as many rows now, 3 batches of 4 a process" in printed
    assert "going on from student/checkpoint-2" in printed
    assert yaml.safe_load(Path("student", RUN_FILE).read_text())["processes"] == 3  # what it began with
    _unfinish(place / "student")
    complete(*distill())
    assert "going on from student/checkpoint-2" in capfd.readouterr().out


def test_batches_of_another_size_are_the_same_run_where_a_step_has_the_same_rows(place, capfd):
    complete(*distill("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"))
    assert "is finished" in capfd.readouterr().out
    told = fail(capfd, *distill("--per_device_train_batch_size", "2"))
    assert "holds another run (per_device_train_batch_size: 4 there, 2 now)" in told
    told = fail(capfd, *distill("--gradient_accumulation_steps", "2"))
    assert "holds another run (gradient_accumulation_steps: 1 there, 2 now)" in told


def test_a_run_that_is_to_take_less_memory_goes_on(place, capfd):
    """With checkpointing a step computes what it would without, as tests/test_gradient_checkpointing.py sees."""
    complete(*distill("--gradient_checkpointing", "true"))
    assert "is finished" in capfd.readouterr().out
    _unfinish(place / "student")
    complete(*distill("--gradient_checkpointing", "true"))
    assert "going on from student/checkpoint-2" in capfd.readouterr().out
    assert "checkpointing" not in (place / "student" / "run.yaml").read_text()


@pytest.mark.parametrize(("began", "rows"), [({"processes": 2}, 5), ({"processes": 3}, 8)])
@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_a_step_that_the_processes_can_t_share_are_refused(place, capfd, began, rows, finished):
    if not finished:
        _unfinish(place / "student")
    _began_with(**began)
    step = 4 * began["processes"]
    assert fail(capfd, *distill("--per_device_train_batch_size", str(rows))) == (
        f"student holds a run of {step} rows a step, which 1 process with {rows} rows a batch can't share; choose a "
        f"number of processes and a --per_device_train_batch_size whose product divides {step}, another --output_dir, "
        "or --restart to throw that run away"
    )


@pytest.mark.parametrize("value", [0, -1, "two", 1.5, True, None])
@pytest.mark.parametrize("name", ["processes", "per_device_train_batch_size", "gradient_accumulation_steps"])
def test_a_run_yaml_that_doesn_t_tell_the_rows_of_a_step_is_damaged(place, capfd, name, value):
    _began_with(**{name: value})
    assert fail(capfd, *distill()).startswith("student/run.yaml is damaged: it doesn't say which run this is; put it")


@pytest.mark.parametrize("content", ["", "[]", "a: [", "teacher: bert\n", "\x00\x01"])
def test_a_damaged_run_yaml_is_told_in_a_line_and_nothing_is_lost(place, capfd, content):
    _unfinish(place / "student")
    whole = Path("student", RUN_FILE).read_text()
    Path("student", RUN_FILE).write_text(content)
    assert fail(capfd, *distill()).startswith("student/run.yaml is damaged: it doesn't say which run this is; put it")
    Path("student", RUN_FILE).write_text(whole)
    complete(*distill())
    assert "going on from student/checkpoint-2" in capfd.readouterr().out


def test_a_start_that_was_killed_before_its_first_step_is_no_obstacle(place):
    shutil.rmtree("student")
    Path("student").mkdir()
    for name in (".lock", ".held-by.json", f".{RUN_FILE}.partial"):
        Path("student", name).touch()
    complete(*distill())


# Damage


@pytest.mark.parametrize(
    "name",
    [
        *("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "files.json"),
        *("training_heads.safetensors", "tokenizer.json", "config.json"),
    ],
)
@pytest.mark.parametrize("change", ["missing", "empty", "cut", "{}"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(place, capfd, name, change):
    expected = weights(place / "student")
    Path("student", FINISHED_FILE).unlink()
    file = Path("student", "checkpoint-4", name)
    whole = file.read_bytes()
    file.unlink()
    if change != "missing":
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "{}": b"{}"}[change])
    complete(*distill())
    printed = capfd.readouterr().out
    assert f"student/checkpoint-4 isn't whole and doesn't count: {name} " in printed
    assert "going on from student/checkpoint-2" in printed
    assert_same(weights(place / "student"), expected)
    assert sorted(path.name for path in Path("student").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("name", [FINISHED_FILE, "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"cut"])
def test_a_run_without_a_whole_state_and_model_isn_t_finished(place, capfd, name, content):
    expected = weights(place / "student")
    file = Path("student", name)
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(whole[: len(whole) // 2] if content == b"cut" else content)
    assert name in str(lacking(place / "student"))
    complete(*distill())
    printed = capfd.readouterr().out
    assert "going on from student/checkpoint-4" in printed
    assert "done     0 of 4 steps" in printed
    assert lacking(place / "student") is None
    assert_same(weights(place / "student"), expected)


def test_a_damaged_finished_run_says_so(place, capfd):
    Path("student", "model.safetensors").write_bytes(b"")
    complete(*distill())
    told = "the model in student isn't whole and will be made again: model.safetensors is damaged"
    assert told in capfd.readouterr().out


# Kept


def test_with_one_checkpoint_to_be_kept_the_newest_is_kept(place):
    complete(*distill("--restart", "--save_total_limit", "1"))
    assert [path.name for path in Path("student").glob("checkpoint-*")] == ["checkpoint-4"]
    assert not Path("student", ".checkpoint").exists()


def test_the_best_checkpoint_is_found_where_it_is(place):
    best = ["--load_best_model_at_end", "--metric_for_best_model", "loss", "--greater_is_better", "true"]
    complete(*adapt("--restart", *best))
    assert_same(weights(place / "adapted"), weights(place / "adapted" / _best("adapted")))


def _best(out: str) -> str:
    state = json.loads(Path(out, FINISHED_FILE).read_text())
    assert Path(state["best_model_checkpoint"]).is_dir()
    return Path(state["best_model_checkpoint"]).name
