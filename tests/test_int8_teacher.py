"""A teacher whose layers are in 8 bits: what is rounded and what isn't, and that everything trains with it."""

import copy
import subprocess
import sys

import psutil
import pytest
import tiny
import torch
from commands import assert_same, complete, environment, fail, history, save, save_corpus, weights
from datasets import Dataset
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AlbertConfig, AutoModelForMaskedLM

from tutorkd import quantization
from tutorkd.config import DistillationConfig, PretrainingConfig
from tutorkd.cost import StepCost, measure_step
from tutorkd.errors import UserError
from tutorkd.masking import MaskingCollator
from tutorkd.methods import METHODS
from tutorkd.pretraining.memory import Setting, device_bytes, in_parts, memory_facts, settings
from tutorkd.quantization import quantised_bytes, stored
from tutorkd.reader import Ask
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher, load_teacher
from tutorkd.trainer import DistillationTrainer, prepare_teacher

FAMILIES = ["bert", "roberta", "electra", "distilbert", "modernbert"]
SETTINGS = {"tutor-kd": {"sampling": "greedy"}, "minilm-v2": {"relation_heads": 8}}
IDS = torch.tensor([[2, *range(5, 30), 3]])
WORD = 5  # which half of the text is


def _with_numbers_times_scales(model: nn.Module, teacher: Teacher) -> nn.Module:
    """A model in whose matrices the rounded numbers of a teacher stand."""
    model = copy.deepcopy(model)
    for name, weight in teacher.model.named_parameters():
        if len(parts := stored(weight)) > 1:
            numbers, scales, zeros = parts
            assert not zeros.any()
            model.get_parameter(name).data = numbers.float() * scales
    return model


def _text(count: int = 40) -> Dataset:
    """Rows of which every other word is the same."""
    rows = tiny.rows(count, 16)
    for row in rows:
        row["input_ids"][1:-1:2] = [WORD] * 7
    return Dataset.from_list(rows)


def _teacher(family: str = "bert", **changes):
    """One that names half of the words of the text."""
    model = tiny.masked_lm(family, **changes)
    model.get_output_embeddings().bias.data[WORD] += 8
    return model


def _config(folder, **changes):
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True}
    settings |= {"report_to": "none", "use_cpu": True, "logging_steps": 1, "teacher_dtype": "int8"}
    return DistillationConfig(output_dir=str(folder), **settings | changes)


def _trainer(folder, model, method: str = "tutor-kd", **changes) -> DistillationTrainer:
    args = _config(folder, **changes)
    constants = METHODS[method].settings(**SETTINGS.get(method, {}))
    teacher = prepare_teacher(model, args)
    torch.manual_seed(0)
    student = build_student("half", teacher.config, head=constants.student_head)
    initialise_from_teacher(student, teacher)
    return DistillationTrainer(
        student, teacher, args, _text(), tiny.tokenizer(), eval_dataset=_text(), method=method, settings=constants
    )


# What is rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_rounded_to_255_steps_a_row_and_nothing_else_is(family):
    model = tiny.masked_lm(family)
    teacher = Teacher(model)
    teacher.quantise()
    hand = Teacher(_with_numbers_times_scales(model, teacher))
    rounded = {name for name, weight in teacher.model.named_parameters() if len(stored(weight)) > 1}
    matrices = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert rounded == {name for name in matrices if "layer" in name} != set()
    for name, weight in model.named_parameters():
        if name in rounded:
            step = weight.abs().amax(1, keepdim=True) / 127.5
            assert ((hand.model.get_parameter(name) - weight).abs() <= 0.501 * step).all()
        else:
            assert torch.equal(weight, teacher.model.get_parameter(name))
    ask, positions = Ask(hidden=[0, 2, 4], attention=[1, 4], values=True), torch.tensor([3, 7])
    one, two = teacher(IDS, ask=ask, positions=positions), hand(IDS, ask=ask, positions=positions)
    for a, b in zip(
        (*one.hidden, *one.attention[1][:3], one.logits), (*two.hidden, *two.attention[1][:3], two.logits), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_layers_that_share_their_weights_are_rounded_once():
    model = AutoModelForMaskedLM.from_config(
        AlbertConfig(vocab_size=tiny.VOCABULARY, embedding_size=16, pad_token_id=0, **tiny.SIZES)
    )
    teacher = Teacher(model)
    before = teacher(IDS, ask=Ask(hidden=[4])).hidden[0]
    teacher.quantise()
    assert len([weight for weight in teacher.model.parameters() if len(stored(weight)) > 1]) == 6
    torch.testing.assert_close(teacher(IDS, ask=Ask(hidden=[4])).hidden[0], before, atol=0.1, rtol=0)


def test_embeddings_and_head_stay_tied_and_the_model_that_was_given_as_it_is():
    model = tiny.masked_lm()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teacher = Teacher(model)
    teacher.quantise()
    assert teacher.model.get_output_embeddings().weight is teacher.model.get_input_embeddings().weight
    assert {type(weight) for weight in model.parameters()} == {nn.Parameter}
    assert_same(before, model.state_dict())


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_size_that_is_foretold_is_that_of_the_tensors(family):
    teacher = Teacher(tiny.masked_lm(family), torch.bfloat16)
    foretold, whole = quantised_bytes(teacher.model), sum(weight.nbytes for weight in teacher.model.parameters())
    teacher.quantise()
    assert foretold == sum(part.nbytes for weight in teacher.model.parameters() for part in stored(weight)) < whole


@pytest.mark.parametrize("family", FAMILIES)
def test_a_visiting_teacher_reads_the_same_and_holds_no_weight_on_the_device(family):
    teacher = Teacher(tiny.masked_lm(family))
    visitor = teacher.visiting(torch.device("cpu"))
    ask, positions = Ask(hidden=[0, 2, 4], attention=[1, 4]), torch.tensor([3, 7])
    here, there = (each(IDS, ask=ask, positions=positions) for each in (teacher, visitor))
    assert torch.equal(here.logits, there.logits)
    assert all(torch.equal(a, b) for a, b in zip(here.hidden, there.hidden, strict=True))
    assert {weight.device.type for weight in visitor.parameters()} == {"meta"}
    assert {weight.device.type for weight in teacher.parameters()} == {"cpu"}


# Training


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_nearly_as_with_the_teacher_unrounded(tmp_path, method, bf16):
    losses = {}
    for dtype in ("auto", "int8"):
        trainer = _trainer(tmp_path / dtype, _teacher(), method, teacher_dtype=dtype, bf16=bf16)
        trainer.train()
        losses[dtype] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert trainer.teacher.quantised
    assert trainer.teacher.model.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert len(losses["int8"]) == 2
    assert losses["int8"] == pytest.approx(losses["auto"], rel=0.1)
    if method != "mlm":
        assert losses["int8"] != losses["auto"]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_step_with_it_is_one_graph(tmp_path, family):
    torch._dynamo.reset()
    trainer = _trainer(tmp_path, tiny.masked_lm(family, num_hidden_layers=2))
    batch = trainer.masking([{**row, "draw": draw} for draw, row in enumerate(tiny.rows(4, 16))])
    counter, losses = CompileCounterWithBackend("eager"), []
    for step in (trainer.model, torch.compile(trainer.model, fullgraph=True, dynamic=False, backend=counter)):
        torch.manual_seed(1)
        losses.append(step(batch, teacher=trainer.teacher).loss.detach())
    torch._dynamo.reset()
    assert counter.frame_count == 1
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("method", ["tutor-kd", "kd"])
def test_student_and_heads_start_at_weights_that_weren_t_rounded(tmp_path, method):
    plain, rounded = (
        _trainer(tmp_path / dtype, _teacher(), method, teacher_dtype=dtype) for dtype in ("float32", "int8")
    )
    assert_same(plain.model.state_dict(), rounded.model.state_dict())


def test_the_log_begins_with_what_rounding_cost_and_the_card_tells_it(tmp_path):
    model = _teacher()
    trainer = _trainer(tmp_path, model, eval_rows=24, per_device_eval_batch_size=7)
    trainer.train()
    trainer.save_model()
    text = _text()  # of whose rows a look takes 24 that are evenly spread
    batch = MaskingCollator(tiny.tokenizer(), 0.15, 42, tiny.VOCABULARY)(
        [{**text[draw * len(text) // 24], "draw": draw} for draw in range(24)]
    )
    named = {}
    rounded = _with_numbers_times_scales(model, trainer.teacher)
    for name, each in {"int8": rounded, "float32": model}.items():
        answers = each(input_ids=batch.corrupted_ids).logits.argmax(-1).flatten()[batch.masked_positions]
        named[name] = (answers == batch.original_ids).double().mean().item()
    first, *rest = trainer.state.log_history
    assert first["teacher_accuracy_int8"] == pytest.approx(named["int8"])
    assert first["teacher_accuracy_float32"] == pytest.approx(named["float32"])
    assert 0.3 < named["float32"] < 0.8
    assert not any("teacher_accuracy_int8" in line for line in rest)
    card = (tmp_path / "README.md").read_text()
    assert "4 layers in int8" in card
    told = f"int8 teacher {named['int8']:.3f}, in float32 {named['float32']:.3f}"
    assert f"held-out tokens right: {told}" in card


def test_without_held_out_rows_nothing_is_told(tmp_path):
    args = _config(tmp_path)
    trainer = DistillationTrainer(
        build_student("half", tiny.config("bert")),
        tiny.masked_lm(),
        args,
        tiny.rows(8),
        tiny.tokenizer(),
        method="minilm",
        settings=METHODS["minilm"].settings(),
    )
    trainer.train()
    assert trainer.teacher.quantised
    assert not any("teacher_accuracy_int8" in line for line in trainer.state.log_history)


def test_a_look_at_the_teacher_s_accuracy_draws_nothing(tmp_path):
    drawn = []
    for rows in (None, _text()):
        torch.manual_seed(1)
        args = _config(tmp_path)
        student = build_student("half", tiny.config("bert"))
        DistillationTrainer(student, tiny.masked_lm(), args, _text(), tiny.tokenizer(), eval_dataset=rows)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


# The command


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    save(_teacher(), root / "teacher")
    save_corpus(root / "corpus.txt")
    return root


def _command(root, out, *more: str) -> list[str]:
    flags = ["--max_length", "32", "--max_steps", "4", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
    flags += ["--save_steps", "2", "--eval_steps", "2", "--heldout", "0.2", "--cache_dir", str(root / "cache")]
    given = ["--teacher", str(root / "teacher"), "--corpus", str(root / "corpus.txt"), "--teacher_dtype", "int8"]
    return ["distill", "--method", "tutor-kd", *given, "--output_dir", str(out), *flags, *more]


def test_a_run_says_what_rounding_cost_once_and_goes_on_as_if_it_hadn_t_stopped(root, tmp_path, capfd):
    complete(*_command(root, tmp_path / "whole"))
    assert capfd.readouterr().out.count("held-out tokens right: int8 teacher") == 1
    assert "teacher_accuracy_int8" in history(tmp_path / "whole")[0]
    complete(*_command(root, tmp_path / "stopped", "--max_steps", "4"))
    for name in ("model.safetensors", "trainer_state.json"):
        (tmp_path / "stopped" / name).unlink()
    for file in (tmp_path / "stopped").glob("checkpoint-4/*"):
        file.unlink()
    capfd.readouterr()
    complete(*_command(root, tmp_path / "stopped"))
    shown = capfd.readouterr().out
    assert "going on from" in shown
    assert "int8 teacher" not in shown
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    told = [line for line in history(tmp_path / "stopped") if "teacher_accuracy_int8" in line]
    assert told == history(tmp_path / "whole")[:1]


def test_the_saved_initial_student_has_the_teacher_s_own_weights(root, tmp_path):
    complete(*_command(root, tmp_path / "run", "--save_initial_student", "true", "--max_steps", "1", "--bf16", "false"))
    start = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "initial_student").base_model.state_dict()
    teacher = AutoModelForMaskedLM.from_pretrained(root / "teacher").base_model.state_dict()
    name = "encoder.layer.1.attention.output.dense.weight"
    assert torch.equal(start[name], teacher[name])


# What it takes


def test_the_memory_that_is_foretold_is_what_the_run_would_take(tmp_path):
    trainers = {dtype: _trainer(tmp_path, _teacher(), teacher_dtype=dtype) for dtype in ("float32", "bfloat16", "int8")}
    costs = {dtype: measure_step(trainer, 16) for dtype, trainer in trainers.items()}
    ways = {way.flags: way.peak_bytes for way in settings(trainers["float32"], costs["float32"])}
    assert ways.pop("as it is") == costs["float32"].peak_bytes
    assert ways.pop("--teacher_dtype int8") == costs["int8"].peak_bytes
    # What is kept of a teacher in bfloat16 for the backward pass isn't the same.
    kept = costs["float32"].activation_bytes
    assert ways.pop("--teacher_dtype bfloat16") - kept == costs["bfloat16"].static_bytes
    assert not ways
    assert [way.name for way in settings(trainers["int8"], costs["int8"])] == ["as it is"]


@pytest.mark.parametrize(
    ("gibibytes", "told"),
    [
        (9, "as it is, into 9.0 GiB"),
        (7, "--teacher_dtype bfloat16, into 7.0 GiB"),
        (3, "none of these, into 3.0 GiB; shorter rows (--max_length) or --gradient_checkpointing need less"),
    ],
)
def test_the_first_setting_that_fits_is_named(gibibytes, told):
    sizes = [8, 6, 5.5, 4]
    flags = ["as it is", "--teacher_dtype bfloat16", "--shard_teacher true", "--teacher_dtype int8"]
    ways = [
        Setting(f"way {n}", flag, int(size * 2**30)) for n, (flag, size) in enumerate(zip(flags, sizes, strict=True))
    ]
    facts = memory_facts(ways, gibibytes * 2**30)
    assert facts.pop("fits") == told
    assert list(facts.values()) == ["about 8.0 GiB a device", "about 6.0 GiB", "about 5.5 GiB", "about 4.0 GiB"]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (11, ("6 rows at once", "--per_device_train_batch_size 6 --gradient_accumulation_steps 4", 10)),  # 4 + 12 / 2
        (9, ("4 rows at once", "--per_device_train_batch_size 4 --gradient_accumulation_steps 6", 8)),  # 4 + 12 / 3
        (5, ("1 rows at once", "--per_device_train_batch_size 1 --gradient_accumulation_steps 24", 5)),  # 4 + 12 / 12
        (4, None),
    ],
)
def test_a_batch_that_doesn_t_fit_is_taken_in_the_fewest_equal_parts(tmp_path, there, told):
    args = PretrainingConfig(str(tmp_path), per_device_train_batch_size=12, gradient_accumulation_steps=2)
    assert in_parts(args, StepCost(0, 0.0, static_bytes=4, activation_bytes=12), there) == told


def test_a_machine_s_memory_is_shared_by_its_processes(monkeypatch):
    all_of_it = psutil.virtual_memory().total
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert device_bytes(torch.device("cpu")) == all_of_it // 4


def test_a_file_that_a_teacher_was_mapped_from_isn_t_kept_in_memory(root):
    teacher = load_teacher(str(root / "teacher"))
    before = {weight.untyped_storage().data_ptr() for weight in teacher.parameters()}
    teacher.quantise()
    assert not before & {
        part.untyped_storage().data_ptr() for weight in teacher.parameters() for part in stored(weight)
    }
    assert teacher.model.get_output_embeddings().weight is teacher.model.get_input_embeddings().weight


# What it can't be


def test_without_torchao_it_is_refused_in_a_line(root, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(quantization, "is_torchao_available", lambda: False)
    message = fail(capfd, *_command(root, tmp_path / "run"))
    assert message == "teacher_dtype int8 needs torchao: pip install 'tutorkd[int8]'"
    with pytest.raises(UserError, match="needs torchao"):
        prepare_teacher(tiny.masked_lm(), _config(tmp_path))


def test_it_isn_t_sharded(tmp_path):
    with pytest.raises(ValueError, match="teacher_dtype can't be int8 with shard_teacher"):
        _config(tmp_path, shard_teacher=True)


def test_what_rounds_says_nothing_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "tutorkd.cli.main", "env"], env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
