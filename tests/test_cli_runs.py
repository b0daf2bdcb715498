"""Short runs through the real command, and what they leave behind."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import pytest
import tiny
import torch
from commands import (
    SHORT,
    assert_same,
    by_tutor_kd,
    complete,
    environment,
    history,
    lines_of,
    save,
    save_corpus,
    weights,
)
from huggingface_hub import ModelCard
from transformers import AutoModel

from tutorkd import TutorKDConfig, TutorKDTrainer
from tutorkd.data.corpus import CorpusCounts, PackedCorpus
from tutorkd.pretraining.corpus import CorpusArguments

FAMILIES = ["bert", "roberta", "electra", "distilbert", "modernbert"]
FLOAT32 = ["--bf16", "false"]

# Loads each folder as somebody would who has transformers alone, and says what it found.
LOADER = """
import importlib.abc, json, sys, torch

class NothingOfOurs(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tutorkd":
            raise ImportError(name)

sys.meta_path.insert(0, NothingOfOurs())
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

found = {}
for folder in sys.argv[1:]:
    kind = AutoModelForMaskedLM if folder.endswith("adapted") else AutoModel
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    encoded = AutoTokenizer.from_pretrained(folder)("w1 w2", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        output = model(**encoded)[0]
    found[folder] = {
        "keys": [sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "family": model.config.model_type,
        "sizes": [model.config.num_hidden_layers, model.config.hidden_size],
        "shape": list(output.shape),
        "finite": bool(output.isfinite().all()),
        "attention": model.config._attn_implementation,
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """For each family a teacher, half of it, a student from a checkpoint, and it adapted; and an extreme student."""
    root = tmp_path_factory.mktemp("runs")
    corpus = save_corpus(root / "corpus.txt")
    common = ["--corpus", corpus, "--cache_dir", str(root / "cache"), *SHORT]
    for family in FAMILIES:
        folder = root / family
        teacher = save(tiny.masked_lm(family), folder / "teacher")
        checkpoint = save(tiny.masked_lm(family, 1, num_hidden_layers=2).base_model, folder / "checkpoint")
        distill = ["distill", "--method", "tutor-kd", "--teacher", teacher, *common]
        complete(*distill, "--student", "half", "--save_initial_student", "--output_dir", str(folder / "half"))
        complete(*distill, "--student", checkpoint, "--output_dir", str(folder / "from_checkpoint"))
        complete("adapt", "--model", teacher, *common, "--output_dir", str(folder / "adapted"))
    sizes = {"hidden_size": 24, "heads": 4, "intermediate_size": 40, "embedding_size": 12}
    flags = [flag for name, size in sizes.items() for flag in (f"--student_{name}", str(size))]
    distill = ["distill", "--method", "tutor-kd", "--teacher", str(root / "bert" / "teacher"), *common]
    complete(*distill, "--student", "extreme-2", *flags, "--output_dir", str(root / "bert" / "extreme"))
    return root


@pytest.fixture(scope="module")
def loaded(runs) -> dict[str, dict]:
    """What a process without tutorkd finds in the saved folders, by their path below ``runs``."""
    folders = [str(runs / family / name) for family in FAMILIES for name in ("half", "from_checkpoint", "adapted")]
    command = [sys.executable, "-c", LOADER, *folders, str(runs / "bert" / "extreme")]
    process = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=runs, timeout=120)
    assert process.returncode == 0, process.stderr
    return {str(Path(folder).relative_to(runs)): facts for folder, facts in json.loads(process.stdout).items()}


@pytest.mark.parametrize("name", ["half", "from_checkpoint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_loads_without_tutorkd_whole_and_as_a_plain_model(loaded, family, name):
    found = loaded[f"{family}/{name}"]
    assert found["keys"] == [[], [], []]
    assert (found["family"], found["sizes"]) == (family, [2, 32])
    assert found["shape"] == [1, 4, 32]
    assert found["finite"]
    assert found["attention"] == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_teacher_loads_without_tutorkd_with_its_head(loaded, family):
    found = loaded[f"{family}/adapted"]
    assert found["keys"] == [[], [], []]
    assert found["sizes"] == [4, 32]
    assert found["shape"] == [1, 4, tiny.VOCABULARY]


def test_a_student_may_be_of_another_family_and_width_than_its_teacher(loaded, runs):
    found = loaded["bert/extreme"]
    assert found["keys"] == [[], [], []]
    assert (found["family"], found["sizes"], found["shape"]) == ("electra", [2, 24], [1, 4, 24])
    trained = weights(runs / "bert" / "extreme")
    assert trained["model.embeddings.word_embeddings.weight"].shape == (tiny.VOCABULARY, 12)
    assert trained["training_heads.projection.weight"].shape == (32, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_changes_student_and_heads_and_writes_down_its_figures(runs, family):
    folder = runs / family / "half"
    before, after = (AutoModel.from_pretrained(path).state_dict() for path in (folder / "initial_student", folder))
    assert not torch.equal(before[(layer := _a_weight(before))], after[layer])
    first, last = (weights(folder / f"checkpoint-{step}") for step in (2, 4))
    assert_same(last, weights(folder))
    changed = {name.split(".")[1] for name in last if not torch.equal(first[name], last[name])}
    assert {"tutor", "modified_logit_head", "projection"} <= changed
    logged = [entry for entry in history(folder) if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert {"loss_modified_logit", "loss_hidden_state", "loss_attention_score", "reward_student"} <= entry.keys()
        assert {"tokens_per_second", "seconds_left", "grad_norm_student", "grad_norm_tutor"} <= entry.keys()


def _a_weight(state: dict[str, torch.Tensor]) -> str:
    return max(state, key=lambda name: state[name].numel())


@pytest.mark.parametrize("method", ["tutor-kd", "kd", "minilm-v2", "adapt"])
def test_a_text_of_a_word_in_which_steps_mask_nothing_logs_numbers_alone(runs, tmp_path, method):
    (tmp_path / "word.txt").write_text("w1", encoding="utf-8")
    flags = ["--corpus", str(tmp_path / "word.txt"), *SHORT, "--output_dir", str(tmp_path / "out")]
    teacher = str(runs / "bert" / "teacher")
    if method == "adapt":
        complete("adapt", "--model", teacher, *flags)
    else:
        extra = ["--relation_heads", "4"] if method == "minilm-v2" else []
        complete("distill", "--teacher", teacher, "--method", method, *extra, *flags)
    logged = [entry for entry in history(tmp_path / "out") if "loss" in entry]
    assert len(logged) == 4
    assert all(math.isfinite(value) for entry in logged for value in entry.values())
    assert not any("skipped_steps" in entry for entry in logged)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_folder_holds_plain_files_and_no_trace_of_our_attention(runs, family):
    plain = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    kept = {"run.yaml", "trainer_state.json", "report.html", "checkpoint-2", "checkpoint-4"}
    assert {path.name for path in (runs / family / "adapted").iterdir()} == plain | kept
    student = {path.name for path in (runs / family / "half").iterdir()}
    assert student == plain | kept | {"training_heads.safetensors", "initial_student"}
    for name in ("half", "adapted", "half/initial_student"):
        text = (runs / family / name / "config.json").read_text(encoding="utf-8")
        assert "sdpa" not in text
        assert "attn_implementation" not in text
    for state in ("optimizer.pt", "scheduler.pt"):
        torch.load(runs / family / "half" / "checkpoint-4" / state, weights_only=True)


def test_all_files_have_the_permissions_that_the_umask_leaves(runs, tmp_path):
    before = os.umask(0o027)
    try:
        teacher, corpus = str(runs / "bert" / "teacher"), str(runs / "corpus.txt")
        flags = [*SHORT, "--save_initial_student", "--output_dir", str(tmp_path / "out")]
        complete("distill", "--method", "tutor-kd", "--teacher", teacher, "--corpus", corpus, *flags)
    finally:
        os.umask(before)
    modes = {path: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").rglob("*")}
    assert set(modes.values()) == {"0o640", "0o750"}
    assert all((mode == "0o750") == path.is_dir() for path, mode in modes.items())


@pytest.mark.parametrize(("name", "task"), [("half", "feature-extraction"), ("adapted", "fill-mask")])
def test_the_model_card_has_valid_metadata_and_no_path_for_a_base_model(runs, name, task):
    card = ModelCard.load(runs / "bert" / name / "README.md", ignore_metadata_errors=False)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", task)
    assert card.data.base_model is None
    assert "from_pretrained" in card.text


def test_the_model_card_tells_the_text_and_what_differs_from_the_defaults(tmp_path, runs):
    facts = _facts(runs / "bert" / "half")
    assert re.fullmatch(r"corpus\.txt, [\d,]+ tokens", facts["text"])
    assert facts["longest row"] == "16 tokens"
    args = TutorKDConfig(output_dir=str(tmp_path), top_k=3, policy_weight=2.0)
    trainer = TutorKDTrainer("half", tiny.masked_lm(), args, tiny.rows(4), tiny.tokenizer())
    trainer.save_model()
    assert _facts(tmp_path)["constants"] == "policy_weight 2.0; otherwise the defaults"
    assert "text" not in _facts(tmp_path)  # rows that were handed over say nothing of where they came from


@pytest.mark.parametrize(
    ("constants", "told"),
    [
        ({}, "the defaults"),
        (
            {"tutor": "teacher", "policy_weight": 2.0, "rewards": "student"},
            "tutor teacher; otherwise the",
        ),
        ({"relation_heads": 8}, "the defaults"),
        ({"relation_heads": 8, "relation_weight": 1.0}, "relation_weight 1.0, relation_heads 8; otherwise the"),
        ({"hidden_state_weight": 0.0}, "hidden_state_weight 0.0; otherwise the defaults"),
    ],
)
def test_the_model_card_tells_no_constant_that_the_run_was_made_without(tmp_path, constants, told):
    args = TutorKDConfig(output_dir=str(tmp_path), **constants)
    TutorKDTrainer("half", tiny.masked_lm(), args, tiny.rows(4), tiny.tokenizer()).save_model()
    assert _facts(tmp_path)["constants"].startswith(told)


def test_the_model_card_names_data_sets_of_the_hub_and_no_path_of_files(tmp_path):
    save_corpus(tmp_path / "a.txt")
    names = ["owner/texts:de", f"{tmp_path}/*.txt"]
    counts = [CorpusCounts(name, None, 0, None, 0.0, None, 0, None, False, None, "") for name in names]
    about = CorpusArguments(corpus=names, max_length=64).about(PackedCorpus(None, None, tuple(counts), ""))
    assert about.datasets == ["owner/texts"]
    assert about.facts == {"text": "owner/texts:de; *.txt", "longest row": "64 tokens"}


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags: [a]\n---\n", None),
        ("---\n: [\n---\n", None),
        ("no head", None),
    ],
)
def test_the_model_card_tells_the_licence_of_a_teacher_whose_folder_names_one(tmp_path, head, told):
    teacher = save(tiny.masked_lm(), tmp_path / "teacher")
    (tmp_path / "teacher/README.md").write_text(head)
    args = TutorKDConfig(output_dir=str(tmp_path / "run"))
    TutorKDTrainer("half", teacher, args, tiny.rows(4), tiny.tokenizer()).save_model()
    assert _facts(tmp_path / "run").get("licence of the base model") == told


@pytest.mark.parametrize(
    ("head", "asked", "told"),
    [
        ("---\nlanguage: de\n---\n", None, ["de"]),
        ("---\nlanguage: [de, fr]\n---\n", None, ["de", "fr"]),
        ("---\nlanguage: de\n---\n", ["is"], ["is"]),
        ("---\nlanguage: {de: 1}\n---\n", None, None),
        ("no head", None, None),
    ],
)
def test_the_model_card_tells_the_teacher_s_language_or_the_one_that_is_given(tmp_path, head, asked, told):
    teacher = save(tiny.masked_lm(), tmp_path / "teacher")
    (tmp_path / "teacher/README.md").write_text(head)
    trainer = TutorKDTrainer(
        "half", teacher, TutorKDConfig(output_dir=str(tmp_path / "run")), tiny.rows(4), tiny.tokenizer()
    )
    trainer.about_text = CorpusArguments(corpus=[], language=asked).about(PackedCorpus(None, None, (), ""))
    trainer.save_model()
    found = ModelCard.load(tmp_path / "run/README.md").data.language
    assert ([found] if isinstance(found, str) else found) == told


def _facts(folder):
    rows = re.findall(r"^\| (.+?) +\| (.+?) +\|$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {name: value.replace("\\", "") for name, value in rows}


def test_the_model_card_names_a_base_model_of_the_hub(tmp_path):
    teacher = tiny.masked_lm()
    teacher.config.name_or_path = "google-bert/bert-base-uncased"
    args = TutorKDConfig(output_dir=str(tmp_path), max_steps=1)
    trainer = TutorKDTrainer("half", teacher, args, tiny.rows(4), tiny.tokenizer())
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()  # Trainer calls it when it pushes to the Hub
    assert ModelCard.load(tmp_path / "README.md").data.base_model == "google-bert/bert-base-uncased"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"eval_probe_auc": 0.75, "eval_probe_correlation": 0.25}, "probe AUC 0.750, probe corr. 0.250"),
        ({"eval_loss": 2.0, "eval_accuracy": 0.5}, "held-out loss 2.000, accuracy 0.500"),
    ],
)
def test_the_model_card_tells_the_last_look_at_held_out_text_in_the_log_s_words(tmp_path, given, told):
    args = TutorKDConfig(output_dir=str(tmp_path))
    trainer = TutorKDTrainer("half", tiny.masked_lm(), args, tiny.rows(4), tiny.tokenizer())
    before = dict.fromkeys(given, 9.0)
    trainer.state.log_history = [before, {"loss": 1.0}, {**given, "eval_runtime": 1.0}, {"loss": 1.0}]
    trainer.save_model()
    assert f"| held-out text | {told} |" in " ".join((tmp_path / "README.md").read_text().split())


def test_without_tqdm_a_run_shows_no_bar_and_no_table_and_is_the_same(tmp_path, runs, capfd):
    teacher, corpus = str(runs / "bert" / "teacher"), str(runs / "corpus.txt")
    command = ["distill", "--method", "tutor-kd", "--teacher", teacher, "--corpus", corpus, *SHORT, "--output_dir"]
    complete(*command, str(tmp_path / "shown"), "--cache_dir", str(tmp_path / "first"))
    shown = capfd.readouterr()
    assert "Tokenizing" in shown.err
    assert "step/s" in shown.err
    assert "L_mod" in shown.out
    complete(*command, str(tmp_path / "quiet"), "--cache_dir", str(tmp_path / "second"), "--disable_tqdm", "true")
    quiet = capfd.readouterr()
    assert quiet.err == ""
    roles = [line.split()[0] for line in quiet.out.splitlines() if not line.startswith(" ")]
    assert roles == ["teacher", "student", "method", "text", "note", "done", "result", "note", "report"]
    assert "L_mod" not in quiet.out
    assert not datasets.are_progress_bars_disabled()  # whoever comes next has theirs
    assert_same(weights(tmp_path / "quiet"), weights(tmp_path / "shown"))
    assert [entry.keys() for entry in history(tmp_path / "quiet")] == [
        entry.keys() for entry in history(tmp_path / "shown")
    ]


def test_a_trainer_without_tqdm_prints_nothing(tmp_path, capfd):
    args = TutorKDConfig(output_dir=str(tmp_path), max_steps=2, logging_steps=1, disable_tqdm=True, report_to="none")
    TutorKDTrainer("half", tiny.masked_lm(), args, tiny.rows(4), tiny.tokenizer()).train()
    assert capfd.readouterr() == ("", "")


def test_a_run_prints_progress_and_results_and_nothing_of_the_libraries(runs, tmp_path):
    """Through the module as a process of its own, whose warnings nobody catches."""
    flags = [*SHORT, *FLOAT32, "--num_proc", "2", "--seed", "3"]
    distill = partial(by_tutor_kd, runs / "bert" / "teacher", runs / "corpus.txt")
    command = [sys.executable, "-m", "tutorkd.cli.main", *distill("out", *flags)]
    process = subprocess.run(command, capture_output=True, env=environment(), cwd=tmp_path, timeout=120)
    stdout, stderr = process.stdout.decode(), process.stderr.decode()
    assert process.returncode == 0, stderr
    assert lines_of(stderr) == []
    for expected in ("teacher ", "student ", "text ", "L_mod", "tok/s", "probe", "done     4 steps"):
        assert expected in stdout
    complete(*distill(tmp_path / "again", *flags))
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "again"))
