"""The commands against a Hub on the loopback: what they load, what they leave for later, what they can be refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import glue_data
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from commands import SHORT, assert_same, by_tutor_kd, lines_of, save, weights
from huggingface_hub import ModelCard

from tutorkd.hub import nearest_path

_GONE = "http://127.0.0.1:9"  # where nothing listens
# Runs commands one after another, since a process takes seconds to start; what they say goes to a file.
_CHILD = """
import contextlib, gc, io, json, os, sys
from pathlib import Path
from tutorkd.cli.main import main
commands, told = json.loads(sys.stdin.read()), []
for variables, argv in commands:
    os.environ.update(variables)
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(argv)
    told.append([code, out.getvalue(), error.getvalue()])
    gc.freeze()  # each run of a trainer looks for garbage, half a second long in all that was imported
Path(sys.argv[1]).write_text(json.dumps(told))
"""


class Told(NamedTuple):
    code: int
    out: str
    error: str


class Place:
    """A Hub, a cache of it, and a folder to run commands in."""

    def __init__(self, hub: hub_server.Hub, folder: Path):
        self.hub, self.folder = hub, folder

    def run(self, commands: dict[str, list[str]], **variables: str) -> dict[str, Told]:
        """Run commands in one process, with variables of the environment; those that push are logged in."""
        variables = {"HF_HUB_ETAG_TIMEOUT": "2", **variables}
        tokens = ({"HF_TOKEN": hub_server.TOKEN if "--hub_model_id" in argv else ""} for argv in commands.values())
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(self.folder / "told.json")],
            input=json.dumps(list(zip(tokens, commands.values(), strict=True))),
            cwd=self.folder,
            env=self.hub.environment(self.folder / "home", **variables),
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        assert not lines_of(done.stderr)
        told = json.loads((self.folder / "told.json").read_text())
        return {name: Told(*each) for name, each in zip(commands, told, strict=True)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with hub_server.serving() as hub:
        model = save(tiny.masked_lm(), folder / "here")
        hub.add("models", "lab/teacher", model)
        hub.renamed["teacher"] = "lab/teacher"
        for name, texts in (("train", tiny.documents()), ("test", tiny.documents(20, seed=1))):
            (folder / "text/data").mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": texts}), folder / f"text/data/{name}-00000-of-00001.parquet")
        hub.add("datasets", "lab/text", folder / "text")
        (folder / "more").mkdir()
        pq.write_table(pa.table({"text": tiny.documents(30, seed=2)}), folder / "more/first.parquet")
        hub.add("datasets", "lab/more", folder / "more")
        pq.write_table(pa.table({"text": tiny.documents(25, seed=3)}), folder / "more/second.parquet")
        hub.add("datasets", "lab/versions", folder / "more")
        hub.repositories["datasets", "lab/versions"].tags["v1"] = hub.repositories["datasets", "lab/more"]
        glue_data.write_task(folder / "glue", "rte")
        card = "---\nconfigs:\n- config_name: rte\n  data_files:\n"
        for split in ("train", "validation"):
            card += f"  - split: {split}\n    path: rte/{split}.parquet\n"
        (folder / "glue/README.md").write_text(f"{card}- config_name: mnli\n  data_files: mnli/train.parquet\n---\n")
        hub.add("datasets", "nyu-mll/glue", folder / "glue")
        for trouble in hub_server.TROUBLES:
            for kind, content in (("models", model), ("datasets", folder / "text")):
                hub.add(kind, f"lab/{trouble.replace(' ', '-')}", content, trouble)
        (folder / "text.txt").write_text("\n\n".join(tiny.documents()), encoding="utf-8")
        (folder / "recipe.yaml").write_text(
            "common: {max_steps: 2, max_length: 16, per_device_train_batch_size: 4, num_proc: 1}\nvariants: [mlm]\n"
            "seeds: [0]\nevaluate: {max_length: 16, num_train_epochs: 1, text_column: sentence1}\nreferences: false\n",
            encoding="utf-8",
        )
        yield Place(hub, folder)


def distill(out: str, teacher: str = "lab/teacher", corpus: str = "lab/text", *more: str) -> list[str]:
    return by_tutor_kd(teacher, corpus, out, "--num_proc", "1", *SHORT, *more)


def adapt(out: str, model: str = "here", corpus: str = "text.txt", *more: str) -> list[str]:
    return ["adapt", "--model", model, "--corpus", corpus, "--output_dir", out, "--num_proc", "1", *SHORT, *more]


def labelled(train: str, validation: str) -> list[str]:
    return ["--train", train, "--validation", validation, "--text_column", "sentence1", "--max_length", "16"]


EVALUATE = ["evaluate", "--models", "lab/teacher", *labelled("nyu-mll/glue:rte", "nyu-mll/glue:rte")]
GLUE = ["--tasks", "rte", "--seeds", "0", "--learning_rates", "1e-3", "--batch_sizes", "8", "--epochs", "1"]


@pytest.fixture(scope="module")
def online(place):
    """What commands say that find what they name."""
    compare = ["compare", "recipe.yaml", "--teacher", "lab/teacher", "--corpus", "lab/text", "--output_dir", "compared"]
    return place.run(
        {
            "first": distill("online"),
            "files": distill("files", "here", "text/data/train-00000-of-00001.parquet"),
            "renamed, streamed": adapt("streamed", "teacher", "lab/text", "--streaming"),
            "cut once": distill("cut", "lab/cut-once", "lab/cut-once"),
            "evaluate": [*EVALUATE, "--output_dir", "evaluated"],
            "export": ["export", "--model", "lab/teacher", "--texts", "lab/text", "--output_dir", "onnx"],
            "glue": ["glue", "lab/teacher", *GLUE, "--max_length", "16", "--output_dir", "glued"],
            "compare": [*compare, "--train", "nyu-mll/glue:rte", "--validation", "nyu-mll/glue:rte"],
            "push": distill("student", "here", "text.txt", "--push_to_hub", "--hub_model_id", "member/student"),
        }
    )


def without_network(place, folder, **variables):
    """What commands say that find what was downloaded before, and those that don't; nothing reaches the Hub."""
    asked = len(place.hub.requests)
    told = place.run(
        {
            "distill": distill(folder),
            "streamed": adapt(f"{folder}/adapted", "lab/teacher", "lab/text", "--streaming"),
            "evaluate": [*EVALUATE, "--output_dir", f"{folder}/evaluated"],
            "no model": adapt("out", "lab/other"),
            "no data": adapt("out", "here", "lab/other"),
            "no configuration": adapt("out", "here", "nyu-mll/glue:mnli"),
            "no push": adapt("out", "here", "text.txt", "--push_to_hub"),
        },
        **variables,
    )
    assert len(place.hub.requests) == asked
    for name, (code, _, error) in told.items():
        assert code == (2 if name.startswith("no ") else 0), error
        assert len(lines_of(error)) == code // 2
    return told


def test_models_and_data_of_the_hub_are_used_as_files_are(place, online):
    assert {name: told.code for name, told in online.items()} == dict.fromkeys(online, 0), online
    trained = weights(place.folder / "online")
    assert_same(weights(place.folder / "files"), trained)
    assert place.hub.repositories["models", "lab/cut-once"].cut == {"model.safetensors"}
    assert len(place.hub.repositories["datasets", "lab/cut-once"].cut) == 2
    assert_same(weights(place.folder / "cut"), trained)  # the same model and text, in two pieces each


def test_nothing_is_asked_for_but_what_was_named(place, online):
    named = ("lab/teacher", "/teacher", "lab/text", "lab/cut-once", "nyu-mll/glue")
    asked = place.hub.requests[: place.hub.requests.index("HEAD /") + 1]
    assert asked
    assert [request for request in asked if not any(name in request for name in named)] == ["HEAD /"]
    assert not [request for request in place.hub.requests if "pytorch_model" in request]


@pytest.fixture(scope="module")
def versions(place):
    """What was read of versions and files of a data set, of 30 documents in its first file and 25 in its second."""
    others = ["--corpus", "text.txt", "lab/versions"]

    def run(out: str, *more: str) -> list[str]:
        return adapt(out, "here", "lab/versions", *more, "--save_strategy", "no")

    commands = {
        "newest": run("v-newest"),
        "tag": run("v-tag", "--corpus_revision", "v1"),
        "file": run("v-file", "--corpus_data_files", "sec*.parquet"),
        "each": run("v-each", *others, "--corpus_revision", "v1", "", "main", "--corpus_data_files", "", "", "second*"),
        "streamed": run("v-streamed", "--corpus_revision", "v1", "--streaming"),
        "last": run("v-last", "--corpus_revision", "v1"),
    }
    return place.run(commands)


def test_a_revision_and_files_of_a_data_set_are_read_for_each_corpus(versions):
    def documents(told: Told) -> list[int]:
        assert told.code == 0, told.error
        return [int(count) for count in re.findall(r"lab/versions: (\d+) documents", told.out + told.error)]

    assert documents(versions["newest"]) == [55]
    assert documents(versions["tag"]) == [30]
    assert documents(versions["file"]) == [25]
    assert documents(versions["each"]) == [30, 25]
    assert versions["streamed"].code == 0
    assert documents(versions["last"]) == [30]


def test_offline_a_revision_is_the_one_that_was_read_last_or_refused(place, versions):
    commit = place.hub.repositories["datasets", "lab/more"].commit
    commands = {
        name: adapt(f"v-off-{name}", "here", "lab/versions", "--corpus_revision", revision)
        for name, revision in {"commit": commit, "tag": "v1", "other": "main"}.items()
    }
    told = place.run(commands, HF_HUB_OFFLINE="1")
    assert told["commit"].code == 0, told["commit"].error
    for name in ("tag", "other"):
        assert re.search(rf"there is only the version that was read last, {commit}; give that", told[name].error)
        assert told[name].code == 2


def test_offline_what_was_downloaded_is_used(place, online):
    told = without_network(place, "offline", HF_HUB_OFFLINE="1")
    assert_same(weights(place.folder / "offline"), weights(place.folder / "online"))
    for name in ("no model", "no data", "no push"):
        assert "HF_HUB_OFFLINE forbids asking the Hub: unset it" in told[name].error
    assert "['rte']" in told["no configuration"].error


def test_where_the_hub_is_out_of_reach_what_was_downloaded_is_used(place, online):
    told = without_network(place, "gone", HF_ENDPOINT=_GONE)
    assert_same(weights(place.folder / "gone"), weights(place.folder / "online"))
    said = f"the Hub ({_GONE}) can't be reached: check the network ([Errno"
    assert f"lab/teacher: {said}" in told["distill"].out
    assert "it is taken from an earlier download" in told["distill"].out
    assert "".join(each.out for each in told.values()).count("lab/teacher: the Hub") == 1
    for name in ("no model", "no data", "no configuration", "no push"):
        assert said in told[name].error


_LOG_IN = "log in with hf auth login"
_PRESETS = "thin, half, extreme-12, extreme-6, extreme-2"
_TROUBLES = {
    "gated": f"on the Hub it is gated: accept its conditions on URL/KINDlab/gated, and {_LOG_IN}",
    "too-many": "the Hub had too many requests from here: wait 600 seconds, then run this again",
    "broken": "the Hub reports an internal error (500): run this again later",
    "down": "the Hub reports an internal error (503): run this again later",
    "silent": "the Hub (URL) doesn't answer in time: check the network, or run this again later",
    "cut": "the download broke off: run this again",
    "nothing": f"the Hub has no such TITLE: check the name or, if it is private, {_LOG_IN}",
}
FAILURES = {
    **{
        f"model {trouble}": (
            adapt("out", f"lab/{trouble}"),
            f"the model lab/{trouble} isn't a folder here; {said.replace('KIND', '').replace('TITLE', 'model')}",
        )
        for trouble, said in _TROUBLES.items()
    },
    **{
        f"data {trouble}": (
            adapt("out", "here", f"lab/{trouble}"),
            f"data lab/{trouble}: there is no such file or folder here; "
            + said.replace("KIND", "datasets/").replace("TITLE", "data set"),
        )
        for trouble, said in _TROUBLES.items()
    },
    "streamed": (
        adapt("out", "here", "lab/down", "--streaming"),
        f"data lab/down: there is no such file or folder here; {_TROUBLES['down']}",
    ),
    "preset": (
        distill("out", "here", "text.txt", "--student", "huge"),
        f"the student huge is neither {_PRESETS} nor a folder here; the Hub has no such model: check the name or, if "
        f"it is private, {_LOG_IN}",
    ),
    "near a preset": (
        distill("out", "here", "text.txt", "--student", "extreme_6"),
        f"the student extreme_6 is neither {_PRESETS} nor a folder here; the Hub has no such model: check the name or, "
        f"if it is private, {_LOG_IN}; did you mean extreme-6?",
    ),
    "near a folder": (
        adapt("out", "her"),
        "the model her isn't a folder here; the Hub has no such model: check the name or, if it is private, "
        f"{_LOG_IN}; did you mean here?",
    ),
    "no name": (
        adapt("out", "a name"),
        "the model a name: there is no such folder",
    ),
    "no configuration": (
        adapt("out", "here", "nyu-mll/glue:ret"),
        "data nyu-mll/glue:ret: there is no configuration 'ret'; it has rte, mnli; did you mean rte?",
    ),
    "which configuration": (
        adapt("out", "here", "nyu-mll/glue"),
        "data nyu-mll/glue: name a configuration, as nyu-mll/glue:rte; it has rte, mnli",
    ),
    "no split": (
        adapt("out", "here", "lab/text", "--corpus_split", "train[:50%]+tset"),
        "data lab/text: there is no split 'tset'; it has train, test; did you mean test?",
    ),
    "no revision": (
        adapt("out", "here", "lab/versions", "--corpus_revision", "v3"),
        "data lab/versions: there is no such file or folder here; the Hub has no such revision of it: name one of its "
        "branches, tags or commits",
    ),
    "no such files": (
        adapt("out", "here", "lab/versions", "--corpus_data_files", "third*"),
        "data lab/versions: 'third*' doesn't name readable files of one kind there",
    ),
    "revisions for another number of corpora": (
        adapt("out", "here", "lab/versions", "--corpus_revision", "v1", "main", ""),
        "3 revisions for 1 corpora; give one for all, or one for each",
    ),
    "evaluate, model": (
        ["evaluate", "--models", "lab/down", *labelled("nyu-mll/glue:rte", "nyu-mll/glue:rte"), "--output_dir", "out"],
        f"the model lab/down isn't a folder here; {_TROUBLES['down']}",
    ),
    "evaluate, data": (
        ["evaluate", "--models", "here", *labelled("lab/down", "lab/down"), "--output_dir", "out"],
        f"data lab/down: there is no such file or folder here; {_TROUBLES['down']}",
    ),
    "glue": (
        ["glue", "here", "--tasks", "cola", "--max_length", "16", "--output_dir", "out"],
        "data nyu-mll/glue:cola: there is no configuration 'cola'; it has rte, mnli; or give the files with --data_dir",
    ),
    "logged in later": (
        adapt("out", "lab/gated", "text.txt", "--push_to_hub", "--hub_model_id", "others/student"),
        "push_to_hub: the Hub refuses (403: You don't have the rights to create a model under this namespace): "
        f"{_LOG_IN}, as someone who may do this; or leave push_to_hub out; no step was done",
    ),
    "export": (
        ["export", "--model", "lab/down", "--output_dir", "out"],
        f"the model lab/down isn't a folder here; {_TROUBLES['down']}",
    ),
    "push elsewhere": (
        adapt("out", "here", "text.txt", "--push_to_hub", "--hub_model_id", "others/student"),
        "push_to_hub: the Hub refuses (403: You don't have the rights to create a model under this namespace): "
        f"{_LOG_IN}, as someone who may do this; or leave push_to_hub out; no step was done",
    ),
    "push without login": (
        adapt("pushed", "here", "text.txt", "--push_to_hub"),
        f"push_to_hub: the Hub refuses (401: Invalid username or password.): {_LOG_IN}, as someone who may do this; or "
        "leave push_to_hub out; no step was done",
    ),
}


@pytest.fixture(scope="module")
def failures(place):
    return place.run({name: command for name, (command, _) in FAILURES.items()})


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_is_told_in_one_line(place, failures, name):
    told, (_, message) = failures[name], FAILURES[name]
    assert told.code == 2
    assert lines_of(told.error) == [f"tutorkd: error: {message.replace('URL', place.hub.url)}"]
    assert not (place.folder / "out").exists()


@pytest.mark.parametrize("file", ["/lab/{}/resolve/main/config.json", "/datasets/lab/{}/resolve/main/"])
@pytest.mark.parametrize("trouble", ["gated", "too-many", "broken", "silent", "nothing"])
def test_a_refusal_is_taken_at_the_first_word(place, failures, file, trouble):
    """The retries of the client take most of a minute, or as long as the Hub says that there should be quiet."""
    asked = [request for request in place.hub.of_strangers if request.startswith(f"HEAD {file.format(trouble)}")]
    assert len(asked) == 1


def test_a_run_is_pushed_with_its_card_and_without_checkpoints(place, online):
    files = place.hub.repositories["models", "member/student"].files
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        assert files[name] == (place.folder / "student" / name).read_bytes()
    assert ModelCard(files["README.md"].decode()).data.library_name == "transformers"
    assert not [name for name in files if name.startswith("checkpoint-")]


def test_a_path_is_near_by_its_last_part_alone(tmp_path):
    (tmp_path / "opt").mkdir()
    (tmp_path / "teacher").mkdir()
    assert nearest_path(str(tmp_path / "nope")) == ""
    assert nearest_path(str(tmp_path / "teachr")) == f"; did you mean {tmp_path / 'teacher'}?"
