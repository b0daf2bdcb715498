"""A user's mistakes, each told in one line with exit code 2, and nothing half-written."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from commands import (
    SHORT,
    assert_same,
    complete,
    environment,
    fail,
    history,
    lines_of,
    save,
    save_corpus,
    set_json,
    spoil,
    weights,
)
from transformers import AutoModel, AutoModelForMaskedLM, DebertaV2Config, PreTrainedTokenizerFast

from tutorkd import identity
from tutorkd.cli.main import main
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.trainer import DistillationTrainer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Models and texts, right and wrong ones."""
    root = tmp_path_factory.mktemp("errors")
    teacher = tiny.masked_lm()
    for family in ("bert", "roberta", "modernbert"):
        save(tiny.masked_lm(family), root / family)
    save(teacher.base_model, root / "headless")
    save(tiny.masked_lm(num_hidden_layers=3), root / "odd")
    teacher.save_pretrained(root / "without_tokenizer")
    deberta = DebertaV2Config(
        vocab_size=tiny.VOCABULARY,
        **tiny.SIZES,
        max_position_embeddings=64,
        relative_attention=True,
        pos_att_type="c2p",
    )
    save(AutoModelForMaskedLM.from_config(deberta), root / "deberta")
    student = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
    save(student, root / "student")
    save(student, root / "other_word")
    _rename(root / "other_word" / "tokenizer.json", "w3", "cat")
    student.save_pretrained(root / "other_tokens")
    PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer().backend_tokenizer,
        **{
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
            "cls_token": "[SEP]",
            "sep_token": "[CLS]",
        },
    ).save_pretrained(root / "other_tokens")
    small = tiny.config("bert", num_hidden_layers=2)
    small.vocab_size = 90
    AutoModel.from_config(small).save_pretrained(root / "small_vocabulary")
    shutil.copytree(root / "bert", root / "wrong_sizes")
    set_json(root / "wrong_sizes" / "config.json", hidden_size=64)
    shutil.copytree(root / "bert", root / "too_deep")
    set_json(root / "too_deep" / "config.json", num_hidden_layers=8)
    shutil.copytree(root / "bert", root / "no_such_family")
    set_json(root / "no_such_family" / "config.json", model_type="bertolt")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copytree(root / "bert", folder := root / f"half_of_{name}")
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    save_corpus(root / "corpus.txt")
    (root / "empty.txt").write_text(" \n\n \n", encoding="utf-8")
    (root / "empty.csv").touch()
    (root / "table.csv").write_text("txt,label\nw1 w2,0\n", encoding="utf-8")
    (root / "latin1.txt").write_bytes("w1 w2\n\nw3 é w4".encode("latin1"))
    return root


def _rename(file: Path, word: str, to: str) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace(f'"{word}"', f'"{to}"'), encoding="utf-8")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def distill(root: Path, out: Path, *more: str, teacher: str = "bert", corpus: str = "corpus.txt") -> list[str]:
    """The command; later flags win."""
    given = ["--teacher", str(root / teacher), "--corpus", str(root / corpus), "--output_dir", str(out)]
    return ["distill", "--method", "tutor-kd", *given, *SHORT, *more]


def adapt(root: Path, out: Path, *more: str, model: str = "bert") -> list[str]:
    given = ["--model", str(root / model), "--corpus", str(root / "corpus.txt"), "--output_dir", str(out)]
    return ["adapt", *given, *SHORT, *more]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # No such model or data, or no network (which tests haven't).
        (["--teacher", "nobody/nothing"], "the teacher nobody/nothing isn't a folder here; HF_HUB_OFFLINE forbids"),
        (["--teacher", "./nothing"], "the teacher ./nothing: there is no such folder"),
        (["--teacher", ""], "no teacher: name an encoder, a causal language model or an embedding model with"),
        (["--student", "nobody/nothing"], "the student nobody/nothing is neither thin, half, extreme-12, extreme-6, "
         "extreme-2 nor a folder here; HF_HUB_OFFLINE forbids"),
        (["--student", "/no/where"], "the student /no/where: there is no such folder"),
        (["--student", "3"], "there is no student 3: choose thin, half, extreme-12, extreme-6, extreme-2, a Hub name "
         "or a path; its number of layers is --student_layers 3"),
        (["--corpus", "nobody/nothing:en"], "data nobody/nothing:en: there is no such file or folder here; HF_HUB_OFF"),
        (["--corpus", "nobody/nothing", "--streaming"], "data nobody/nothing: there is no such file or folder here; "),
        (["--corpus", "nothing.txt"], "nothing.txt: no such file or folder"),
        # Depths and heads.
        (["--student_layers", "5"], "the layers of a student of 5 can't be matched to the 4 of its teacher: "),
        (["--student_layers", "0"], "can't have 0 as its num_hidden_layers"),
        (["--student_heads", "2"], "attention scores of 2 student heads and 4 teacher heads can't be compared: give "
         "the student as many heads, or train without them: --attention_score_weight 0"),
        # Settings.
        (["--max_length", "65"], "rows of 65 tokens are longer than the 64 positions of the teacher; set --max_length"),
        (["--max_length", "7"], "max_length 7 is too short for a row"),
        (["--learning_rate", "nan"], "learning_rate must be a finite number, not nan"),
        (["--mlm_probability", "15"], "mlm_probability can't be 15.0: the least is 0, the most 1"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size can't be 0"),
        (["--sampling", "top-k", "--top_k", "96"], "top_k can't be 96: choose from 1 to the 95 tokens that"),
        (["--streaming", "--max_steps", "-1"], "max_steps has to be specified"),
        (["--max_steps", "0"], "max_steps can't be 0: give 1 or more, or -1 to go by num_train_epochs"),
        (["--max_steps", "-2"], "max_steps can't be -2"),
        (["--max_steps", "-1", "--num_train_epochs", "0"], "num_train_epochs can't be 0.0: it must be above 0"),
        # What isn't installed, or needs the network.
        (["--report_to", "swanlab"], "SwanLabCallback requires swanlab to be installed"),
        (["--report_to", "paper"], "paper is not supported, only"),
        (["--optim", "galore_adamw", "--optim_target_modules", "all-linear"], "install `galore_torch`"),
        (["--push_to_hub"], "push_to_hub: HF_HUB_OFFLINE forbids asking the Hub: unset it, or name what is here or "
         "was downloaded before; or leave push_to_hub out; no step was done"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_flags_of_distill(root, out, capfd, flags, message):
    assert message in fail(capfd, *distill(root, out, *flags))
    assert not out.exists()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("headless", "has no trained MLM head, which Tutor-KD needs: choose --method minilm-v2,"),
        ("without_tokenizer", "has no tokenizer: there is no vocabulary"),
        ("deberta", "whose attention doesn't go through transformers' attention interface and so can't be compared: "),
        ("odd", "half of 3 layers isn't a whole number: set --student_layers"),
        ("wrong_sizes", "isn't a whole bert model: 65 weights are missing or have another shape"),
        ("too_deep", "isn't a whole bert model: 64 weights are missing or have another shape"),
        ("no_such_family", "can't be loaded: The checkpoint you are trying to load has model type `bertolt`"),
        ("half_of_config.json", "can't be loaded:"),
        ("half_of_model.safetensors", "can't be loaded:"),
        ("half_of_tokenizer.json", "can't be loaded:"),
        (".", "isn't a checkpoint: there is no config.json in it; there are some in it: "),
    ],
    ids=lambda value: value.split(" ")[0],
)  # fmt: skip
def test_bad_teachers(root, out, capfd, teacher, message):
    assert message in fail(capfd, *distill(root, out, "--student", "half", teacher=teacher))
    assert not out.exists()


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("other_word", "differ: token 8 is 'cat' and 'w3'; choose models that share one, or build the student by"),
        ("other_tokens", "differ: cls_token '[SEP]' and '[CLS]', sep_token '[CLS]' and '[SEP]'"),
        ("small_vocabulary", "the tokenizer has 100 tokens and the student 90: use the teacher's own tokenizer"),
        ("deberta", "the student is a DebertaV2Model, whose attention doesn't go through transformers' attention"),
        ("wrong_sizes", "the student {} isn't a whole bert model: 65 weights"),
        ("half_of_model.safetensors", "the student {} can't be loaded:"),
    ],
)
def test_bad_students(root, out, capfd, student, message):
    folder = str(root / student)
    assert message.format(folder) in fail(capfd, *distill(root, out, "--student", folder))
    assert not out.exists()


def test_a_file_of_a_student_is_answered_with_its_folder(root, out, capfd):
    file = root / "bert" / "config.json"
    said = fail(capfd, *distill(root, out, "--student", str(file)))
    assert f"the student {file} is a file: give the folder that it lies in, {file.parent}" in said


def test_sizes_for_a_checkpoint_s_own_weights_are_refused(root, out, capfd):
    flags = ["--student", str(root / "student"), "--student_heads", "2"]
    assert "has weights, which fix its sizes" in fail(capfd, *distill(root, out, *flags))
    assert not out.exists()


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("empty.txt", "holds no text: every document is empty"),
        ("empty.csv", "empty.csv: no column 'text', nor any other: is the file empty?"),
        ("table.csv", "no column 'text' among txt, label; did you mean 'txt'? Name it with --text_column txt"),
        ("latin1.txt", "latin1.txt: not UTF-8 at byte 10 (line 3); convert the file to UTF-8"),
    ],
)
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_bad_text(root, out, capfd, corpus, message, streaming):
    assert message in fail(capfd, *distill(root, out, "--streaming", streaming, corpus=corpus))
    assert not out.exists()


@pytest.mark.parametrize(("family", "positions"), [("roberta", 63), ("modernbert", 64)])
def test_rows_longer_than_the_positions(root, out, capfd, family, positions):
    """RoBERTa's positions begin behind its padding index, here 0, and so are one less."""
    message = f"rows of {positions + 1} tokens are longer than the {positions} positions of the"
    too_long = ["--max_length", str(positions + 1)]
    assert message in fail(capfd, *distill(root, out, *too_long, teacher=family))
    assert message in fail(capfd, *adapt(root, out, *too_long, model=family))
    assert not out.exists()
    complete(*adapt(root, out, "--max_length", str(positions), model=family))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("too_deep", "isn't a whole bert model: 64 weights"),
        ("wrong_sizes", "isn't a whole bert model: 65 weights"),
        ("without_tokenizer", "has no tokenizer"),
        ("nowhere", "there is no such folder"),
    ],
)
def test_bad_models_to_adapt(root, out, capfd, model, message):
    assert message in fail(capfd, *adapt(root, out, model=model))
    assert not out.exists()


def test_adapt_gives_a_headless_encoder_the_head_that_distill_asks_for(root, tmp_path, capfd):
    fail(capfd, *distill(root, tmp_path / "out", teacher="headless"))
    complete(*adapt(root, tmp_path / "adapted", model="headless"))
    complete(*distill(root, tmp_path / "out", teacher=str(tmp_path / "adapted")))


def test_differing_heads_work_without_attention_scores(root, out):
    complete(*distill(root, out, "--student_heads", "2", "--attention_score_weight", "0"))
    assert "loss_attention_score" not in history(out)[0]


def test_a_student_of_a_bare_configuration_works(root, out, tmp_path):
    tiny.config("bert", num_hidden_layers=2).save_pretrained(tmp_path / "configuration")
    complete(*distill(root, out, "--student", str(tmp_path / "configuration")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "nothing.txt"], "nothing.txt: no such file or folder"),
        (["--corpus", "nothing/"], "nothing/: no such file or folder"),
        (["--corpus", "nothing.txt.gz"], "nothing.txt.gz: no such file or folder"),
        (
            ["--corpus", "nothing"],
            "data nothing: there is no such file or folder here; HF_HUB_OFFLINE forbids",
        ),
        (["--corpus", "unknown.txt"], "corpus 'unknown.txt': the tokenizer doesn't know 67% of its tokens"),
        (["--corpus", "folder"], "folder: no file with one of the extensions .txt"),
        (["--corpus_weights", "1", "2"], "2 weights for 1 corpora"),
        (["--max_length", "7"], "max_length 7 is too short for a row"),
        (["--text_column", "words"], "no column 'words' among txt, label"),
        (["--corpus", "empty.txt"], "holds no text: every document is empty"),
    ],
)
@pytest.mark.parametrize("command", [distill, adapt])
def test_a_dry_run_fails_as_the_run_would_and_writes_nothing(
    root, out, tmp_path, capfd, monkeypatch, command, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "unknown.txt").write_text("w1 один два", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    if "--text_column" in flags:
        flags = ["--corpus", str(root / "table.csv"), *flags]
    argv = command(root, out, *flags)
    if "--corpus" in flags:
        del argv[argv.index("--corpus") : argv.index("--corpus") + 2]
    told = fail(capfd, *argv)
    assert message in told
    assert fail(capfd, *argv, "--dry_run") == told
    assert {path.name for path in tmp_path.iterdir()} == {"empty.txt", "unknown.txt", "folder"}


def test_no_model_no_text_and_no_command(capfd):
    assert fail(capfd, "adapt").startswith("no model: name the model to adapt with --model, or with --config_name")
    assert fail(capfd, "distill", "--teacher", "x").startswith("no text: name it with --corpus")
    assert fail(capfd, "distil").startswith(
        "there is no command 'distil'; did you mean distill? There are trim, adapt, distill, evaluate, "
    )


# The output folder


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_folder_of_another_run_is_left_alone_and_the_first_difference_named(root, out, capfd):
    complete(*distill(root, out))
    before = _listing(out)
    message = fail(capfd, *distill(root, out, "--learning_rate", "1e-3", "--policy_weight", "2"))
    assert "holds another run (learning_rate: 0.0005 there, 0.001 now and 1 more)" in message
    assert "--restart" in message
    assert "holds another run (lr_scheduler_kwargs: None there, {'power': 2} now" in fail(
        capfd, *distill(root, out, "--lr_scheduler_kwargs", '{"power": 2}')
    )
    assert "holds another run (attention_score_weight: 0.5 there, None now" in fail(capfd, *adapt(root, out))
    assert _listing(out) == before


def test_restart_keeps_the_old_run_until_the_new_one_can_begin(root, out, capfd):
    complete(*distill(root, out))
    before = _listing(out)
    fail(capfd, *distill(root, out, "--restart", "--teacher", "./nothing"))
    fail(capfd, *distill(root, out, "--restart", corpus="empty.txt"))
    complete(*distill(root, out, "--restart", "--dry_run"))
    assert _listing(out) == before
    complete(*distill(root, out, "--restart", "--max_steps", "2"))
    assert not (out / "checkpoint-4").exists()


def test_a_folder_of_something_else_is_left_alone(root, out, capfd):
    out.mkdir()
    (out / "thesis.tex").write_text("", encoding="utf-8")
    assert "holds something that isn't a run of tutorkd" in fail(capfd, *distill(root, out))
    assert "holds something that isn't a run" in fail(capfd, *distill(root, out, "--restart"))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", [".", "folder/deeper"])
def test_an_output_folder_that_can_t_be_made(root, tmp_path, capfd, below):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "can't be made: " in fail(capfd, *distill(root, tmp_path / "file" / below))
    told = fail(capfd, *distill(root, tmp_path / "file" / below, "--dry_run"))
    assert "file isn't a folder that can be written" in told


def test_an_output_folder_in_which_nothing_can_be_made(root, tmp_path, capfd, monkeypatch):
    """As on a file system that is there to be read only, which its permissions don't tell."""
    make = os.makedirs

    def refuse(path, *args, **kwargs):
        if Path(path) == tmp_path / "out":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return make(path, *args, **kwargs)

    monkeypatch.setattr(os, "makedirs", refuse)
    for command in (distill, adapt):
        assert "Read-only file system" in fail(capfd, *command(root, tmp_path / "out"))


def test_a_push_that_fails_at_the_end_leaves_the_model_and_the_way_to_go_on(root, out, capfd, monkeypatch):
    def made(trainer):
        trainer.hub_model_id, trainer.push_in_progress = "member/student", None

    monkeypatch.setattr("transformers.Trainer.init_hf_repo", made)
    monkeypatch.setattr("tutorkd.saving.ask_hub", lambda: None)
    message = fail(capfd, *distill(root, out, "--push_to_hub", "--hub_strategy", "end"))
    assert message.startswith("push_to_hub: HF_HUB_OFFLINE forbids asking the Hub")
    assert f"the model is in {out}" in message
    AutoModel.from_pretrained(out)
    complete(*distill(root, out))


# A full disk


def _full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_checkpoint_that_finds_no_space_is_removed_and_the_last_whole_one_named(root, tmp_path, capfd, monkeypatch):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    complete(*distill(root, undisturbed))
    whole, calls = torch.save, []

    def fills_up(*args, **kwargs):
        calls.append(args)
        return _full_disk() if len(calls) > 4 else whole(*args, **kwargs)  # three files in each checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fills_up)
        message = fail(capfd, *distill(root, out))
    assert message.startswith(
        f"{out}/checkpoint-4 couldn't be written ([Errno 28] No space left on device); free space"
    )
    assert f"the last good checkpoint is {out}/checkpoint-2" in message
    assert {path.name for path in out.iterdir()} == {"run.yaml", "checkpoint-2"}
    complete(*distill(root, out))
    assert_same(weights(out), weights(undisturbed))


def test_a_full_disk_at_the_first_checkpoint(root, out, capfd, monkeypatch):
    monkeypatch.setattr(torch, "save", _full_disk)
    assert "no checkpoint had been saved before" in fail(capfd, *distill(root, out))
    assert {path.name for path in out.iterdir()} == {"run.yaml"}


def test_a_full_disk_at_the_end_leaves_no_half_of_a_model(root, tmp_path, capfd, monkeypatch):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    complete(*distill(root, undisturbed))
    write_card = DistillationTrainer._write_card  # the last file of a model

    def fills_up(trainer, folder):
        return _full_disk() if folder.parent == out else write_card(trainer, folder)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "_write_card", fills_up)
        message = fail(capfd, *distill(root, out))
    assert "No space left on device" in message
    assert f"goes on from {out}/checkpoint-4" in message
    assert {path.name for path in out.iterdir()} == {"run.yaml", "checkpoint-2", "checkpoint-4"}
    complete(*distill(root, out))
    assert_same(weights(out), weights(undisturbed))


def test_a_full_disk_while_the_initial_student_is_saved(root, out, capfd, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", _full_disk)
    assert "No space left on device" in fail(capfd, *distill(root, out, "--save_initial_student"))
    assert list((out / "initial_student").iterdir()) == []


# A loss that isn't finite


def test_a_step_whose_loss_isn_t_finite_is_skipped_and_counted(root, out, monkeypatch):
    spoil(monkeypatch, {3})
    complete(*distill(root, out, "--save_steps", "1", "--save_total_limit", "9"))
    before, skipped, after = (weights(out / f"checkpoint-{step}") for step in (2, 3, 4))
    assert_same(before, skipped)
    assert any(not torch.equal(value, after[name]) for name, value in skipped.items())
    assert all(value.isfinite().all() for value in after.values())
    logged = [entry for entry in history(out) if "loss" in entry]
    assert [entry.get("skipped_steps", 0) for entry in logged] == [0, 0, 1, 1]
    assert all(abs(value) < float("inf") for entry in logged for value in entry.values())


def test_steps_that_stay_not_finite_end_the_run_and_the_last_checkpoint_is_named(root, out, capfd, monkeypatch):
    spoil(monkeypatch, range(3, 99))
    message = fail(capfd, *distill(root, out, "--max_steps", "9", "--max_nonfinite_steps", "3"))
    assert message.startswith(
        "the gradient wasn't finite in 3 steps in a row, up to step 5; the last good checkpoint is"
    )
    assert f"{out}/checkpoint-4" in message
    assert_same(weights(out / "checkpoint-4"), weights(out / "checkpoint-2"))
    assert not (out / "model.safetensors").exists()


def test_steps_that_aren_t_finite_from_the_start(root, out, capfd, monkeypatch):
    spoil(monkeypatch, range(99))
    message = fail(capfd, *distill(root, out, "--save_steps", "9", "--max_nonfinite_steps", "2"))
    assert "up to step 2; no checkpoint had been saved before" in message


# The command as a process


def test_an_error_is_all_that_a_process_prints_to_stderr(root, tmp_path):
    """Here one that Trainer finds."""
    command = [sys.executable, "-m", "tutorkd.cli.main", *distill(root, tmp_path / "out", "--report_to", "paper")]
    process = subprocess.run(command, capture_output=True, env=environment(), timeout=120)
    assert process.returncode == 2
    (line,) = lines_of(process.stderr.decode())
    assert line.startswith("tutorkd: error: ")
    assert "paper is not supported" in line
    assert not (tmp_path / "out").exists()


def test_sigterm_before_training_ends_the_command_as_ctrl_c_does_and_leaves_nothing(root, out, capfd, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(CorpusArguments, "load", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    assert main(distill(root, out)) == 143
    assert lines_of(capfd.readouterr().err)[-1] == "tutorkd: stopped"
    assert not out.exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_file_that_may_not_be_read_is_told_in_one_line(root, out, capfd, monkeypatch):
    opens = Path.open

    def refused(path, *args, **options):
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr("tutorkd.identity._content", identity._content.__wrapped__)  # nothing was read before
    line = fail(capfd, *distill(root, out))
    assert line.endswith("model.safetensors can't be opened: Permission denied")


@pytest.mark.parametrize("option", ["--output_dir", "--teacher", "--corpus", "--cache_dir"])
def test_a_name_longer_than_the_system_allows_is_told_in_one_line(root, out, capfd, option):
    line = fail(capfd, *distill(root, out), option, str(out / ("x" * 300)))
    assert "longer than the system allows: " in line or "File name too long" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", "-1"], "seed can't be -1: the least is 0, the most 4294967295"),
        (["--data_seed", "4294967296"], "data_seed can't be 4294967296"),
        (["--dataloader_num_workers", "-1"], "dataloader_num_workers can't be -1: the least is 0"),
        (["--mlm_probability", "0"], "mlm_probability can't be 0: nothing would be masked"),
        (["--use_cpu", "--fp16"], "fp16 needs a GPU"),
    ],
)
def test_numbers_out_of_range_are_told_before_anything_is_read(root, out, capfd, monkeypatch, flags, said):
    monkeypatch.setattr(CorpusArguments, "load", lambda *args: pytest.fail("text was read"))
    assert said in fail(capfd, *distill(root, out, *flags))


def test_an_output_that_cannot_hold_a_character_gets_its_number(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr("tutorkd.cli.env.run", lambda argv: print("80.1 \u00b1 1.1", flush=True) or 0)
    assert main(["env"]) == 0
    assert written.getvalue().decode().split() == ["80.1", r"\xb1", "1.1"]


@pytest.mark.parametrize(("argv", "unbuffered"), [(["--help"], ""), (["--help"], "1"), (["env"], "")])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(argv, unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tutorkd.cli.main", *argv]
    told = environment(PYTHONUNBUFFERED=unbuffered)
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=told, timeout=120)
    os.close(write)
    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, b"")


def test_another_broken_pipe_is_no_reader_of_the_output(monkeypatch):
    def broken(argv):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("tutorkd.cli.env.run", broken)
    with pytest.raises(BrokenPipeError):
        main(["env"])
