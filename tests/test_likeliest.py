"""Students of decoders whose teacher was asked before training: its likeliest tokens, and all others together."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from commands import assert_same, complete, fail, history, run_here, save_causal, weights, write_rows
from datasets import Dataset
from transformers import AutoModelForCausalLM

from tutorkd.comparison import command as comparing
from tutorkd.config import DistillationConfig
from tutorkd.data import prepare_corpus
from tutorkd.errors import UserError
from tutorkd.likeliest import IDS, LOG_PROBABILITIES
from tutorkd.methods.causal_kd import CausalKDSettings
from tutorkd.pretraining import asked_before
from tutorkd.spacing import SpacedCollator
from tutorkd.teacher import Teacher
from tutorkd.teacher_likeliest import counts_of, likeliest_bytes, with_likeliest
from tutorkd.trainer import DistillationTrainer

RUN = [
    *("--method", "kd", "--max_length", "24", "--per_device_train_batch_size", "4", "--warmup_steps", "0"),
    *("--logging_steps", "1", "--heldout", "0.1", "--bf16", "false", "--use_cpu", "--eval_steps", "2"),
    *("--max_steps", "4", "--torch_compile", "false"),
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": " ".join(text.split()[:4])},
            {"role": "assistant", "content": " ".join(text.split()[4 : 6 + i % 5])},
        ]
    }
    for i, text in enumerate(tiny.documents(20))
]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return save_causal(tiny.tiny_causal(), tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def corpus(tmp_path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(tiny.documents(40)))
    return str(file)


def _rows(chats: bool = False) -> Dataset:
    """Packed text, of which the last row is shorter, or conversations."""
    tokenizer = tiny.causal_tokenizer()
    if not chats:
        ids = [token for text in tiny.documents(6) for token in tokenizer(text)["input_ids"]][: 24 * 7 + 9]
        return Dataset.from_dict({"input_ids": [ids[start : start + 24] for start in range(0, len(ids), 24)]})
    generator = np.random.default_rng(0)
    lengths = [5, 12, 9, 24, 2]
    return Dataset.from_dict(
        {
            "input_ids": [generator.integers(1, 320, n).tolist() for n in lengths],
            "assistant_masks": [[0] * (n // 2) + [1] * (n - n // 2) for n in lengths],
        }
    )


def _known(rows: Dataset, k: int, folder: Path, teacher: Teacher | None = None):
    model = teacher or Teacher(tiny.tiny_causal())
    return with_likeliest(rows, lambda: model, tiny.causal_tokenizer(), k, 320, folder, torch.device("cpu"))


@pytest.mark.parametrize("chats", [False, True])
def test_rows_know_the_teacher_s_likeliest_tokens_and_how_likely_all_others_are(chats, tmp_path, monkeypatch):
    monkeypatch.setattr("tutorkd.teacher_likeliest._POSITIONS_PER_BLOCK", 60)  # of two rows or three
    monkeypatch.setattr("tutorkd.teacher_likeliest._POSITIONS_PER_BATCH", 40)
    rows, model = _rows(chats), tiny.tiny_causal().double()
    known = _known(rows, 5, tmp_path / "kept")
    assert len(known) == len(rows)
    for row in known.__getitems__(list(range(len(rows)))):
        with torch.no_grad():
            logs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)[:-1]
        if chats:
            logs = logs[np.array(row["assistant_masks"][1:], bool)]
        expected = logs.topk(5)
        rest = torch.log1p(-expected.values.exp().sum(-1, keepdim=True))
        assert row[IDS].tolist() == expected.indices.tolist()
        wanted = torch.cat([expected.values, rest], -1).numpy()
        np.testing.assert_allclose(row[LOG_PROBABILITIES], wanted, atol=4e-3)  # as float16 has it


@pytest.mark.parametrize("chats", [False, True])
@pytest.mark.parametrize("divergence", ["forward-kl", "reverse-kl", "js", "skew-kl"])
def test_a_step_from_all_tokens_but_one_is_a_step_with_the_teacher(chats, divergence, tmp_path):
    rows, teacher = _rows(chats), tiny.tiny_causal()
    trainers = []
    for k, name in ((319, "known"), (0, "asked")):
        args = DistillationConfig(
            output_dir=str(tmp_path / name),
            max_steps=2,
            per_device_train_batch_size=4,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        given = _known(rows, k, tmp_path / "kept") if k else rows
        settings = CausalKDSettings(teacher_top_k=k, divergence=divergence)
        torch.manual_seed(0)
        trainer = DistillationTrainer(
            "half", teacher, args, given, tiny.causal_tokenizer(), given, method="kd", settings=settings
        )
        trainer.train()
        trainers.append(trainer)
    known, asked = trainers
    for one, other in zip(known.saved_model.parameters(), asked.saved_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-2)
    for figure in ("eval_perplexity", "eval_kl_to_teacher"):
        assert known.evaluate()[figure] == pytest.approx(asked.evaluate()[figure], rel=5e-3)


def test_the_loss_is_that_of_these_outcomes_in_float64(tmp_path):
    rows, model = _rows(), tiny.tiny_causal().double()
    student = tiny.tiny_causal(seed=7)
    known = _known(rows, 3, tmp_path / "kept")
    args = DistillationConfig(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, report_to="none")
    settings = CausalKDSettings(teacher_top_k=3)
    trainer = DistillationTrainer(
        copy.deepcopy(student), tiny.tiny_causal(), args, known, tiny.causal_tokenizer(), known, "kd", settings
    )
    sums, count = 0.0, 0
    student.double()
    with torch.no_grad():
        for ids in rows["input_ids"]:
            p, q = (each(torch.tensor([ids])).logits[0, :-1].softmax(-1) for each in (model, student))
            top = p.topk(3).indices
            p, q = (torch.cat([(kept := each.gather(-1, top)), 1 - kept.sum(-1, keepdim=True)], -1) for each in (p, q))
            sums, count = sums + float((p * (p / q).log()).sum()), count + len(p)
    assert trainer.evaluate()["eval_kl_to_teacher"] == pytest.approx(sums / count, rel=2e-3)


def test_a_run_asks_its_teacher_before_the_first_step_alone(teacher, corpus, tmp_path, capsys, monkeypatch):
    made, asked, read = [], [], Teacher.forward

    def forward(self, *args, **kwargs):
        asked.append(len(made))
        return read(self, *args, **kwargs)

    begin = DistillationTrainer.__init__

    def init(self, *args, **kwargs):
        made.append(None)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(Teacher, "forward", forward)
    monkeypatch.setattr(DistillationTrainer, "__init__", init)
    monkeypatch.setenv("TUTORKD_CACHE", str(tmp_path / "cache"))
    run = ["--teacher", teacher, "--student", "half", "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete("distill", *run, "--output_dir", str(tmp_path / "first"))
    said = capsys.readouterr().out
    assert "of which this run reads 16" in said
    assert "teacher  its 8 likeliest tokens at each position" in said
    assert asked
    assert not any(asked)
    asked.clear()
    complete("distill", *run, "--output_dir", str(tmp_path / "second"))
    assert "computed before" in capsys.readouterr().out
    assert not asked
    assert_same(weights(tmp_path / "first"), weights(tmp_path / "second"))
    assert "eval_kl_to_teacher" in history(tmp_path / "first")[-2]
    AutoModelForCausalLM.from_pretrained(tmp_path / "first")


@pytest.mark.parametrize("changes", [["--heldout", "0"], ["--eval_strategy", "no"]])
def test_a_run_that_looks_at_no_held_out_text_needs_none(changes, teacher, corpus, tmp_path):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", *changes]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"))
    assert not any("eval_loss" in entry for entry in history(tmp_path / "out"))


def test_conversations_are_asked_about_in_the_answers(teacher, tmp_path, capsys):
    folder = tmp_path / "teacher"
    save_causal(tiny.tiny_causal(), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    chats = write_rows(tmp_path / "chats.jsonl", CHATS)
    run = ["--teacher", str(folder), "--corpus", chats, "--messages_column", "messages", *RUN, "--max_length", "48"]
    complete("distill", *run, "--teacher_top_k", "8", "--output_dir", str(tmp_path / "out"))
    assert "20 conversations" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_exactly(teacher, corpus, tmp_path):
    run = ["distill", "--teacher", teacher, "--corpus", corpus, *RUN, "--save_steps", "2", "--teacher_top_k", "8"]
    complete(*run, "--output_dir", str(tmp_path / "whole"))
    complete(*run, "--output_dir", str(tmp_path / "parts"))
    for name in ("trainer_state.json", "model.safetensors"):
        (tmp_path / "parts" / name).unlink()
    for file in (tmp_path / "parts" / "checkpoint-4").iterdir():
        file.unlink()
    (tmp_path / "parts" / "checkpoint-4").rmdir()
    complete(*run, "--output_dir", str(tmp_path / "parts"))
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_teacher_that_does_not_fit_runs_layer_by_layer(teacher, corpus, tmp_path, monkeypatch):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete("distill", *run, "--output_dir", str(tmp_path / "whole"), "--cache_dir", str(tmp_path / "a"))
    visited, visiting = [], Teacher.visiting
    monkeypatch.setattr(Teacher, "visiting", lambda self, device: visited.append(device) or visiting(self, device))
    monkeypatch.setattr(asked_before, "device_bytes", lambda device: 1)
    complete("distill", *run, "--output_dir", str(tmp_path / "layers"), "--cache_dir", str(tmp_path / "b"))
    assert len(visited) == 1
    assert_same(weights(tmp_path / "layers"), weights(tmp_path / "whole"))


def test_a_teacher_in_8_bits_is_asked_in_8_bits(teacher, corpus, tmp_path, monkeypatch):
    rounded, quantise = [], Teacher.quantise
    monkeypatch.setattr(Teacher, "quantise", lambda self: rounded.append(None) or quantise(self))
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", "--teacher_dtype", "int8"]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"))
    assert len(rounded) == 1


def test_a_narrower_student_starts_the_same_whether_or_not_answers_in_8_bits_are_kept(teacher, corpus, tmp_path):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", "--teacher_dtype", "int8"]
    run += ["--student_intermediate_size", "24", "--save_initial_student"]
    for name in ("asked", "kept"):
        complete("distill", *run, "--output_dir", str(tmp_path / name))
    assert_same(weights(tmp_path / "asked" / "initial_student"), weights(tmp_path / "kept" / "initial_student"))


def test_a_dry_run_leaves_the_teacher_out_of_a_step(teacher, corpus, tmp_path, capsys):
    told = {}
    for k in ("0", "8"):
        run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", k, "--dry_run"]
        complete("distill", *run, "--output_dir", str(tmp_path / "out"))
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("operations a step"))
        told[k] = float(line.split()[3])
    assert told["8"] < 0.75 * told["0"]


def test_a_dry_run_tells_what_asking_the_teacher_takes(teacher, corpus, tmp_path, capsys):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", "--dry_run", "--heldout", "0"]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("before the steps"))
    told = re.search(r"all (\S+) M tokens, .* about (\S+) TFLOP, .* (\S+) GB of the cache", line)
    assert told is not None
    tokens, flops, size = map(float, told.groups())
    ids = tiny.causal_tokenizer()(tiny.documents(40))["input_ids"]
    assert 1e6 * tokens == pytest.approx(sum(len(each) + 1 for each in ids), rel=0.02)
    assert 1e12 * flops == pytest.approx(2 * tiny.tiny_causal().num_parameters() * 1e6 * tokens, rel=0.02)
    assert 1e9 * size == pytest.approx((8 * 2 + 9 * 2) * 1e6 * tokens, rel=0.02)


def test_answers_are_counted_behind_the_first_token(monkeypatch):
    monkeypatch.setattr("tutorkd.teacher_likeliest._ROWS_PER_LOOK", 2)
    masks = [[1, 1, 0, 1], [0], [1], [0, 1, 1], [1, 0, 1, 1, 1]]
    rows = Dataset.from_dict({"input_ids": masks, "assistant_masks": masks})
    assert counts_of(rows).tolist() == [2, 0, 0, 2, 3]
    assert counts_of(rows.select([4, 1, 3])).tolist() == [3, 0, 2]


def test_what_is_kept_takes_as_many_bytes_as_it_is_said_to(tmp_path):
    _known(_rows(), 5, tmp_path / "kept")
    arrays = [np.load(file) for file in sorted((tmp_path / "kept").glob("*.npy"))]
    assert sum(array.nbytes for array in arrays) == likeliest_bytes(7 * 23 + 8, 5, 320)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--on_policy_share", "0.5"], "leave out --teacher_top_k or --on_policy_share"),
        (["--streaming"], "leave out --streaming"),
        (["--teacher_top_k", "320"], "--teacher_top_k must be from 0 to 319, not 320"),
        (["--teacher_top_k", "-1"], "--teacher_top_k must be from 0 to 319, not -1"),
    ],
)
def test_what_needs_the_teacher_at_each_step_is_refused(changes, said, teacher, corpus, tmp_path, capfd):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", *changes]
    assert said in fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))


def test_a_full_disk_is_told_before_the_teacher_is_asked(teacher, corpus, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(asked_before.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    said = fail(capfd, "distill", *run, "--cache_dir", str(tmp_path / "new"), "--output_dir", str(tmp_path / "out"))
    assert "choose a smaller --teacher_top_k" in said


def test_a_comparison_counts_what_asking_the_teacher_costs(teacher, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "run_processes", run_here([], lambda cell: cell.name))
    monkeypatch.setattr("tutorkd.comparison.plots.draw", lambda *arguments: [])
    recipe = tmp_path / "matrix.yaml"
    recipe.write_text(
        f"common: {{teacher: {teacher}, corpus: {corpus}, max_steps: 2, max_length: 24, bf16: false, use_cpu: true,\n"
        "  per_device_train_batch_size: 4, torch_compile: false, eval_strategy: 'no'}\n"
        "variants:\n- {name: asked, method: kd}\n- {name: known, method: kd, teacher_top_k: 8}\n"
        "- {name: text, method: clm}\n"
        f"evaluate: {{text: {corpus}, prompts: 2, new_tokens: 2, prompt_length: 4, max_length: 24}}\n"
    )
    complete("compare", str(recipe), "--output_dir", str(tmp_path / "out"))
    cells = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    flops = {cell["variant"]: cell["figures"]["training_flops"] for cell in cells if cell["kind"] == "distilled"}
    teachers = 2 * tiny.tiny_causal().num_parameters() * 2 * 4 * 24
    assert flops["known"] == pytest.approx(flops["text"] + teachers, rel=1e-6)
    assert flops["known"] == pytest.approx(flops["asked"], rel=0.1)
    assert all("error" not in cell for cell in cells)


def test_rows_that_do_not_know_the_teacher_s_tokens_are_refused(tmp_path):
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    settings = CausalKDSettings(teacher_top_k=3)
    with pytest.raises(UserError, match="each row needs the teacher's likeliest tokens, columns likeliest_ids"):
        DistillationTrainer(
            "half", tiny.tiny_causal(), args, _rows(), tiny.causal_tokenizer(), method="kd", settings=settings
        )


def test_rows_that_know_another_number_of_tokens_are_refused(tmp_path):
    known = _known(_rows(), 5, tmp_path / "kept")
    collate = SpacedCollator(tiny.causal_tokenizer(), 0.0, 0, 0, 320, likeliest=4)
    with pytest.raises(UserError, match=r"not \(23, 4\) and \(23, 5\): they must be made of these rows"):
        collate([{**known[0], "draw": 0}])


def test_python_s_rows_are_those_of_a_corpus(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.documents(20)))
    packed = prepare_corpus(tmp_path / "text.txt", tiny.causal_tokenizer(), max_length=24, framed=False, heldout=0)
    known = _known(packed.train, 4, tmp_path / "kept")
    assert known[3]["input_ids"] == packed.train[3]["input_ids"]
    assert known[3][IDS].shape == (23, 4)
