"""Compiled passes compute what plain ones do, for every method, and go on where a run was stopped."""

import pytest
import tiny
import torch
from commands import assert_same, by_tutor_kd, complete, fail, save, save_corpus, weights
from datasets import Dataset
from torch._dynamo import register_backend
from torch._dynamo.testing import CompileCounterWithBackend

from tutorkd.batch import Batch
from tutorkd.compilation import LEAST_STEPS, compiles
from tutorkd.config import DistillationConfig
from tutorkd.masking import MaskingCollator
from tutorkd.methods import METHODS
from tutorkd.packed_rows import PackedRowsTrainer
from tutorkd.students import build_student
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer, build_module

SETTINGS = {"tutor-kd": {"sampling": "greedy"}, "minilm-v2": {"relation_heads": 4}}
COMMON = {"save_strategy": "no", "disable_tqdm": True, "report_to": "none", "use_cpu": True, "logging_steps": 1}
# Of the five batches of four rows in an epoch one or two have a padded row.
ROWS = [*tiny.rows(17, 16), *tiny.rows(1, 9, seed=1)]


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _collator(full: int | None = None) -> MaskingCollator:
    collator = MaskingCollator(tiny.tokenizer(), 0.15, 0, tiny.VOCABULARY)
    collator.full = full
    return collator


def _batch(full: int | None, rows: list | None = None) -> Batch:
    return _collator(full)([{**row, "draw": draw} for draw, row in enumerate(rows or tiny.rows(4, 16))])


def _module(method: str, family: str = "bert", layers: int = 4, **settings):
    teacher = Teacher(tiny.masked_lm(family, num_hidden_layers=layers))
    chosen = METHODS[method].settings(**SETTINGS.get(method, {}) | settings)
    student = build_student("half", teacher.config, head=chosen.student_head)
    torch.manual_seed(0)
    return build_module(METHODS[method], student, teacher, chosen, tiny.tokenizer()), teacher


# Batches of one shape


def test_full_batches_have_one_number_of_positions_and_their_fillers_no_weight():
    batches = [_batch(4, tiny.rows(4, 16, seed=seed)) for seed in range(20)]
    assert {batch.shape for batch in batches} == {(4, 16, 24)}  # 64 tokens, 9.6 and four times 2.86, in eights
    for batch in batches:
        masked = int(batch.position_weights.sum())
        assert batch.position_weights.tolist() == [1] * masked + [0] * (24 - masked)
        assert masked == batch.counts.masked < 24
        changed = (batch.input_ids != batch.corrupted_ids).flatten()
        assert not changed[batch.masked_positions[masked:]].any()


def test_the_masked_positions_of_a_full_batch_are_those_of_any_other():
    filled, exact = _batch(4), _batch(None)
    k = len(exact.masked_positions)
    assert torch.equal(filled.masked_positions[:k], exact.masked_positions)
    assert torch.equal(filled.corrupted_ids, exact.corrupted_ids)
    assert torch.equal(filled.num_items, exact.num_items)


@pytest.mark.parametrize("rows", [tiny.rows(3, 16), [*tiny.rows(3, 16), *tiny.rows(1, 9)]], ids=["fewer", "padded"])
def test_other_batches_are_not_filled_up(rows):
    batch = _batch(4, rows)
    assert batch.position_weights.tolist() == [1] * len(batch.masked_positions)
    assert not _collator(4).is_full(batch)


def test_a_batch_with_more_masked_positions_than_full_ones_keeps_them_all(monkeypatch):
    monkeypatch.setattr(MaskingCollator, "_most_positions", lambda *sizes: 4)
    batch = _batch(4)
    assert torch.equal(batch.masked_positions, _batch(None).masked_positions)
    assert len(batch.position_weights) > 4
    assert not _collator(4).is_full(batch)


ABLATIONS = {
    "tutor-kd": {},
    "tutor-kd, mlm-logits": {"target": "mlm-logits"},
    "tutor-kd, baseline": {"reward_baseline": "mean"},
    "tutor-kd, masked row": {"tutor": "none"},
    **{method: {} for method in METHODS if method != "tutor-kd"},
}


@pytest.mark.parametrize("case", ABLATIONS)
def test_fillers_change_neither_losses_nor_figures_nor_gradients(case):
    module, teacher = _module(case.partition(",")[0], **ABLATIONS[case])
    outputs, gradients = [], []
    for full in (None, 4):
        module.zero_grad()
        outputs.append(module(_batch(full), teacher))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
    torch.testing.assert_close(outputs[1].metrics, outputs[0].metrics)
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


# One graph


CASES = [*((method, "bert") for method in METHODS), *(("tutor-kd", f) for f in ("roberta", "electra", "distilbert"))]


@pytest.mark.parametrize(("method", "family"), [*CASES, ("tutor-kd", "modernbert"), ("minilm", "modernbert")])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_step_is_one_graph_that_computes_the_same(method, family, checkpointing):
    # Tracing takes as long as there are layers; the methods are traced with several, what varies in a layer with few.
    module, teacher = _module(method, family, layers=4 if family == "bert" and not checkpointing else 2)
    module.train()
    if checkpointing:
        if (method, family) not in CASES[:7]:
            pytest.skip("the layers of one family stand for all")
        getattr(module, "student", getattr(module, "model", None)).gradient_checkpointing_enable()
    batch, counter = _batch(4), CompileCounterWithBackend("aot_eager" if checkpointing else "eager")
    gradients, losses = [], []
    for step in (module, torch.compile(module, fullgraph=True, dynamic=False, backend=counter)):
        torch.manual_seed(1)
        module.zero_grad()
        with torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=checkpointing):
            loss = step(batch, teacher).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert counter.frame_count == 1
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


# A run


def _trainer(folder, compiled: bool, backend: str = "aot_eager", **args) -> PackedRowsTrainer:
    given = {"per_device_train_batch_size": 4, "num_train_epochs": 2} | args
    config = DistillationConfig(
        str(folder), torch_compile=compiled, torch_compile_backend=backend if compiled else None, **COMMON | given
    )
    rows, teacher = Dataset.from_list(ROWS), tiny.masked_lm(num_hidden_layers=2)
    settings = METHODS["tutor-kd"].settings(sampling="greedy")
    return DistillationTrainer("half", teacher, config, rows, tiny.tokenizer(), rows, "tutor-kd", settings)


def _logged(trainer: PackedRowsTrainer) -> list[dict[str, float]]:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _assert_near(compiled: list, plain: list, tolerance: float) -> None:
    assert len(compiled) == len(plain)
    for one, other in zip(compiled, plain, strict=True):
        for name in other.keys() - {"tokens_per_second", "seconds_left", "grad_norm"}:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize(
    "args",
    [{}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}, {"per_device_train_batch_size": 2}],
    ids=["plain", "accumulated", "checkpointed", "batches of two"],
)
def test_a_compiled_run_logs_what_a_plain_one_does(tmp_path, args):
    compiled = _trainer(tmp_path, True, **args)
    logged = _logged(compiled)
    assert compiled._compilation.shape is not None  # batches went through it
    _assert_near(logged, _logged(_trainer(tmp_path, False, **args)), 1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_kernels_of_inductor_compute_nearly_the_same(tmp_path, bf16):
    compiled = _logged(_trainer(tmp_path, True, backend="inductor", bf16=bf16))
    _assert_near(compiled, _logged(_trainer(tmp_path, False, bf16=bf16)), 0.05 if bf16 else 1e-3)


def test_looks_at_held_out_rows_are_those_of_a_plain_run(tmp_path):
    looks = []
    for compiled in (True, False):
        trainer = _trainer(tmp_path, compiled, per_device_eval_batch_size=4, eval_strategy="epoch")
        trainer.train()
        looks.append([e for e in trainer.state.log_history if "eval_loss" in e or "eval_probe_auc" in e])
    for one, other in zip(*looks, strict=True):
        for name in (name for name in other if name.startswith("eval_probe")):
            assert one[name] == pytest.approx(other[name], abs=1e-4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher with dropout, and a text."""
    root = tmp_path_factory.mktemp("compilation")
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    save(tiny.masked_lm(num_hidden_layers=2, **dropout), root / "teacher")
    save_corpus(root / "corpus.txt")
    return root


def _distill(place, out, *more: str) -> list[str]:
    flags = ["--max_length", "16", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--bf16", "false"]
    flags += ["--cache_dir", str(place / "cache")]
    return by_tutor_kd(place / "teacher", place / "corpus.txt", out, *flags, *more)


def test_a_stopped_compiled_run_goes_on_to_the_same_weights_bit_for_bit(place, tmp_path, monkeypatch):
    flags = ["--torch_compile", "true", "--max_steps", "6", "--save_steps", "2", "--eval_strategy", "no"]
    complete(*_distill(place, tmp_path / "whole", *flags))
    step = PackedRowsTrainer.training_step

    def killed(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    from tutorkd.cli.main import main

    with monkeypatch.context() as patch:
        patch.setattr(PackedRowsTrainer, "training_step", killed)
        assert main(_distill(place, tmp_path / "parts", *flags)) == 130
    complete(*_distill(place, tmp_path / "parts", *flags))
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


# When


@pytest.mark.parametrize(
    ("asked", "device", "steps", "compiled"),
    [
        (None, "cuda", LEAST_STEPS, True),
        (None, "cuda", LEAST_STEPS - 1, False),
        (None, "cpu", 10**6, False),
        (True, "cpu", 1, True),
        (False, "cuda", 10**6, False),
    ],
)
def test_long_runs_on_a_gpu_are_compiled_and_others_where_it_is_asked_for(asked, device, steps, compiled):
    class Arguments:
        torch_compile = asked

    Arguments.device = torch.device(device)
    assert compiles(Arguments, steps) is compiled


def _broken(graph, inputs):
    raise RuntimeError("no compiler was found")


register_backend(name="broken", compiler_fn=_broken)


def test_a_run_that_isn_t_asked_to_compile_goes_on_where_that_fails(tmp_path, monkeypatch):
    plain = _logged(_trainer(tmp_path, False))
    trainer = _trainer(tmp_path, True, backend="broken")
    trainer.args.torch_compile = None
    monkeypatch.setattr("tutorkd.compilation.compiles", lambda args, steps: True)
    with pytest.warns(UserWarning, match=r"couldn't be compiled: .*no compiler was found.*--torch_compile false"):
        _assert_near(_logged(trainer), plain, 1e-4)


@pytest.mark.parametrize(
    ("backend", "message"),
    [("broken", "no compiler was found"), ("inducter", "torch_compile: ")],
)
def test_what_can_t_be_compiled_is_told_in_one_line_where_it_was_asked_for(place, tmp_path, capfd, backend, message):
    flags = ["--torch_compile", "true", "--torch_compile_backend", backend, "--max_steps", "2"]
    assert message in fail(capfd, *_distill(place, tmp_path / "out", *flags))


def test_the_bar_says_that_the_step_is_being_compiled(tmp_path):
    notes = []
    trainer = _trainer(tmp_path, True, max_steps=2)
    trainer._compilation.note = notes.append
    trainer.train()
    assert notes == ["compiling the step, which takes a minute or two", ""]
