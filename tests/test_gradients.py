"""From the gradient to the optimizer's step: parts clipped apart, float16's overflows, what is logged of both."""

import math

import pytest
import tiny
import torch
from accelerate import Accelerator, PartialState
from commands import spoil
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from tutorkd import TutorKDConfig, TutorKDTrainer
from tutorkd.config import DistillationConfig, PretrainingConfig
from tutorkd.errors import UserError
from tutorkd.methods import METHODS
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.settings import resolved
from tutorkd.trainer import DistillationTrainer, MaskedLMTrainer

COMMON = {"per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
SETTINGS = {"minilm-v2": {"relation_heads": 4}}


def _rows() -> Dataset:
    """Nineteen rows, the last of them shorter: a batch of each pass is padded."""
    return Dataset.from_list([*tiny.rows(18, 12), *tiny.rows(1, 7, seed=1)])


def _trainer(tmp_path, method: str = "tutor-kd", settings=None, **args) -> DistillationTrainer:
    settings = METHODS[method].settings(**SETTINGS.get(method, {}), **(settings or {}))
    config = DistillationConfig(str(tmp_path), use_cpu=True, **COMMON | args)
    return DistillationTrainer(
        "half", tiny.masked_lm(), config, _rows(), tiny.tokenizer(), method=method, settings=settings
    )


def _norm(parameters) -> float:
    """The Euclidean norm of all gradients, entry by entry in float64."""
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))


def _gradients(monkeypatch, trainer: PackedRowsTrainer) -> tuple[dict[str, float], dict[str, float]]:
    """Norms of the parts of the first step's gradient, before and after clipping."""
    before, after = {}, {}
    clip = type(trainer)._get_grad_norm

    def noting(self, model, grad_norm=None):
        module = self.accelerator.unwrap_model(model)
        tutor = set(getattr(module, "tutor", None).parameters()) if getattr(module, "tutor", None) else set()
        parts = {"student": [p for p in module.parameters() if p not in tutor], "tutor": list(tutor)}
        before.update({name: _norm(part) for name, part in parts.items()})
        norm = clip(self, model, grad_norm)
        after.update({name: _norm(part) for name, part in parts.items()})
        return norm

    monkeypatch.setattr(type(trainer), "_get_grad_norm", noting)
    trainer.train()
    return before, after


@pytest.mark.parametrize(("student_limit", "tutor_limit"), [(0.5, 0.01), (0, 0.01), (0.5, 0), (0, 0), (1e6, 1e6)])
def test_student_and_tutor_are_clipped_each_to_its_own_norm(tmp_path, monkeypatch, student_limit, tutor_limit):
    trainer = _trainer(
        tmp_path,
        settings={"tutor_max_grad_norm": tutor_limit},
        max_grad_norm=student_limit,
        max_steps=1,
        logging_steps=1,
    )
    before, after = _gradients(monkeypatch, trainer)
    assert before["student"] > 1
    assert before["tutor"] > 0.01
    for name, limit in (("student", student_limit), ("tutor", tutor_limit)):
        expected = min(before[name], limit) if limit else before[name]
        assert after[name] == pytest.approx(expected, rel=1e-4)
    logged = trainer.state.log_history[0]
    assert logged["grad_norm_student"] == pytest.approx(before["student"], rel=1e-5)
    assert logged["grad_norm_tutor"] == pytest.approx(before["tutor"], rel=1e-5)
    assert logged["grad_norm"] == pytest.approx(math.hypot(before["student"], before["tutor"]), rel=1e-5)


def test_a_spike_of_the_student_leaves_the_tutor_s_step_as_it_is(tmp_path):
    tutors = []
    for weight in (25.0, 25e4):
        trainer = _trainer(tmp_path, settings={"modified_logit_weight": weight}, max_steps=1)
        trainer.train()
        tutors.append(trainer.model.tutor.state_dict())
    assert all(torch.equal(value, tutors[1][name]) for name, value in tutors[0].items())


def test_masked_language_modelling_clips_the_whole_gradient(tmp_path, monkeypatch):
    config = PretrainingConfig(str(tmp_path), use_cpu=True, max_steps=1, max_grad_norm=0.1, logging_steps=1, **COMMON)
    trainer = MaskedLMTrainer(
        tiny.masked_lm(), config, train_dataset=_rows(), eval_dataset=None, processing_class=tiny.tokenizer()
    )
    before, after = _gradients(monkeypatch, trainer)
    assert before["student"] > 0.1
    assert after["student"] == pytest.approx(0.1, rel=1e-4)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(before["student"], rel=1e-5)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd"])
def test_a_step_that_isn_t_finite_changes_neither_weights_nor_moments(tmp_path, monkeypatch, optim):
    spoil(monkeypatch, {3})
    trainer = _trainer(tmp_path, optim=optim, max_steps=4, logging_steps=1)
    states = []

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            optimizer = trainer.optimizer.state_dict()["state"]
            values = [p.detach().clone() for p in trainer.model.parameters()]
            moments = [
                each[name].clone() for each in optimizer.values() for name in sorted(each) if each[name] is not None
            ]
            states.append(values + moments)

    trainer.add_callback(Note())
    trainer.train()
    assert all(torch.equal(before, after) for before, after in zip(states[1], states[2], strict=True))
    assert not all(torch.equal(before, after) for before, after in zip(states[2], states[3], strict=True))
    assert all(value.isfinite().all() for value in states[3])
    assert [entry.get("skipped_steps", 0) for entry in trainer.state.log_history if "loss" in entry] == [0, 0, 1, 1]


def test_steps_in_a_row_that_aren_t_finite_end_the_run_though_others_come_after_them(tmp_path, monkeypatch):
    spoil(monkeypatch, {3, 4, 5, 9})
    with pytest.raises(UserError, match="wasn't finite in 3 steps in a row, up to step 10"):
        _trainer(tmp_path, max_steps=20, logging_steps=10, max_nonfinite_steps=3).train()
    spoil(monkeypatch, {3, 4, 9, 10, 11})  # three in a row, parted by a line of the log
    with pytest.raises(UserError, match="wasn't finite in 3 steps in a row, up to step 20"):
        _trainer(tmp_path, max_steps=20, logging_steps=10, max_nonfinite_steps=3).train()


@pytest.mark.parametrize("tutor", ["learned", "teacher"])
def test_a_tutor_or_teacher_whose_answers_overflow_ends_the_run_in_one_line(tmp_path, tutor):
    trainer = _trainer(tmp_path, settings={"tutor": tutor}, max_steps=4, logging_steps=2, max_nonfinite_steps=2)
    head = trainer.model.tutor if tutor == "learned" else trainer.teacher.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(math.inf)
    with pytest.raises(UserError, match="wasn't finite in 2 steps in a row, up to step 2"):
        trainer.train()


# float16


def _in_float16(trainer: PackedRowsTrainer, scale: float = 2.0**16) -> None:
    """Autocast to float16 and a gradient scaler, as accelerate sets them up for --fp16 on a GPU alone."""
    accelerator = trainer.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"


@pytest.mark.parametrize("method", METHODS)
def test_200_steps_in_float16_have_finite_figures(tmp_path, method):
    trainer = _trainer(tmp_path, method, max_steps=200, logging_steps=20, learning_rate=1e-3)
    _in_float16(trainer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm_student" in entry]
    assert len(logged) == 10
    assert all(math.isfinite(value) for entry in logged for value in entry.values())
    assert all(entry["grad_norm_student"] > 0 for entry in logged)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_a_step_that_overflows_in_float16_is_counted_and_spoils_no_figure(tmp_path):
    trainer = _trainer(tmp_path, max_steps=4, logging_steps=4, settings={"sampling": "greedy"})
    _in_float16(trainer, scale=2.0**60)  # halved after each step that overflows: the first ones do
    start = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[0]["skipped_steps"] == 4
    assert all(torch.equal(p, start[name]) for name, p in trainer.model.named_parameters())
    assert not any(name.startswith(("grad_norm_", "reward_", "loss_")) for name in trainer.state.log_history[0])


def test_figures_beside_overflowing_steps_are_means_over_the_others(tmp_path):
    logged = []
    for scale in (2.0**10, 2.0**24):
        trainer = _trainer(tmp_path, max_steps=20, logging_steps=20, learning_rate=0, settings={"sampling": "greedy"})
        _in_float16(trainer, scale)
        trainer.train()
        logged.append(trainer.state.log_history[0])
    skipped = logged[1]["skipped_steps"]
    assert "skipped_steps" not in logged[0]
    assert 0 < skipped < 20
    # The weights don't move and the rows are the same, so a mean over some of the steps is near that over all.
    assert logged[1]["grad_norm_student"] == pytest.approx(logged[0]["grad_norm_student"], rel=0.3)


def test_float16_that_overflows_whatever_the_scale_ends_the_run(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path, max_steps=100, logging_steps=1)
    _in_float16(trainer)
    backward = trainer.accelerator.backward
    monkeypatch.setattr(trainer.accelerator, "backward", lambda loss, **kwargs: backward(loss * math.nan, **kwargs))
    with pytest.raises(UserError, match="wasn't finite in 25 steps in a row, up to step 25; no checkpoint"):
        trainer.train()


def test_float16_is_refused_where_it_would_be_float32(tmp_path):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        _trainer(tmp_path, fp16=True)


# What the arguments or an accelerate configuration may ask for


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"])
def test_a_model_spread_by_an_accelerate_configuration_is_refused(tmp_path, monkeypatch, name):
    config = TutorKDConfig(str(tmp_path), use_cpu=True, **COMMON)
    monkeypatch.setenv(name, "true")
    with pytest.raises(UserError, match=f"{name} can't be used: each device holds a whole copy.*with torchrun"):
        TutorKDTrainer("half", tiny.masked_lm(), config, _rows(), tiny.tokenizer())


def test_fully_sharded_arguments_are_refused_in_python_too(tmp_path):
    config = TutorKDConfig(str(tmp_path), use_cpu=True, **COMMON)
    config.fsdp = "full_shard"
    with pytest.raises(UserError, match="fsdp can't be used"):
        TutorKDTrainer("half", tiny.masked_lm(), config, _rows(), tiny.tokenizer())


def test_the_time_left_of_a_resumed_run_is_that_of_the_steps_it_makes(tmp_path, monkeypatch):
    _trainer(tmp_path, max_steps=6, save_strategy="steps", save_steps=6).train()
    trainer = _trainer(tmp_path, max_steps=12, logging_steps=4)
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr("tutorkd.callbacks.time.perf_counter", lambda: float(next(ticks)))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    logged = [entry for entry in trainer.state.log_history if "seconds_left" in entry]
    # Ten seconds between two looks at the clock, the first when training begins; two steps to the first line.
    assert [(entry["step"], entry["seconds_left"]) for entry in logged] == [(8, 10 / 2 * 4), (12, 0)]


def test_every_parameter_is_in_one_part_of_the_gradient(tmp_path):
    trainer = _trainer(tmp_path)
    found = [id(p) for part in trainer._gradient_parts() for p in part.parameters]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in trainer.model.parameters()}


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match="3 processes for 2 GPUs: each needs one of its own; start 2, or set use_cpu"):
        PretrainingConfig(str(tmp_path))


def test_a_processor_that_accelerate_numbers_is_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cpu:0"))
    assert PretrainingConfig(str(tmp_path), use_cpu=True).device == torch.device("cpu")


def test_telling_the_settings_of_a_run_on_the_processor_doesn_t_have_it_train_on_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(PartialState, "default_device", torch.device("meta"))  # in the place of a GPU
    config = DistillationConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert resolved([config])["use_cpu"] is True
    assert Accelerator().device == torch.device("cpu")
