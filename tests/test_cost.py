import pytest
import tiny
import torch
from transformers import AutoModel

from tutorkd.config import DistillationConfig, PretrainingConfig, TutorKDConfig
from tutorkd.cost import StepCost, matmul_rate, measure_step, seconds_a_step, will_compile
from tutorkd.methods.causal_kd import CausalKDSettings
from tutorkd.trainer import DistillationTrainer, MaskedLMTrainer, TutorKDTrainer


class _Rows(list):
    def select(self, indices):
        return _Rows(self[i] for i in indices)


def test_operations_of_a_step_are_those_of_its_matrix_products(tmp_path):
    """4 N_t + 6 N_s a token for the weights outside the embeddings, and what heads and attention add."""
    rows, length, d, layers = 3, 24, 32, (4, 2)
    args = TutorKDConfig(output_dir=str(tmp_path), per_device_train_batch_size=rows, gradient_accumulation_steps=2)
    teacher, student = tiny.masked_lm(), AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
    data = _Rows(tiny.rows(4))
    trainer = TutorKDTrainer(student, teacher, args, data, tiny.tokenizer(), eval_dataset=data)
    cost = measure_step(trainer, length)
    n_t, n_s = (count * (4 * d * d + 2 * d * 128) for count in layers)
    masked = round(0.15 * length)
    head = 2 * masked * (d * d + d * tiny.VOCABULARY)
    expected = {
        "bodies": length * (4 * n_t + 6 * n_s),
        # each layer's scores and weighted sums: teacher twice, student forward and, since the fused kernel forms the
        # scores anew, two and a half times that backward
        "attention": 4 * length**2 * d * (2 * layers[0] + 3.5 * layers[1]),
        # the teacher's head twice, the tutor's forward and backward, whose input needs no gradient
        "vocabulary heads": 2 * head + 2 * head + 2 * masked * d * tiny.VOCABULARY,
        "modified logit": 6 * length * (d * d + d),
        # one projection for the embedding output and two layers
        "hidden states": 3 * 6 * length * d * d,
        # one product of both models' head sizes a layer and head, and two of the student's alone backward
        "attention scores": layers[1] * 4 * 2 * length**2 * (2 * 8 + 2 * 8),
    }
    assert cost.tokens == rows * length * 2
    assert cost.flops / (rows * 2) == pytest.approx(sum(expected.values()), rel=0.03)
    assert cost.activation_bytes > 0
    assert all(p.grad is None for p in trainer.model.parameters())


def test_what_the_student_writes_itself_counts_by_the_share_of_the_rows(tmp_path):
    """Of a row that it writes, all tokens but the last go through the body once, the second half through the head."""
    rows, length, kept, d, layers = 3, 24, 12, 32, 2
    flops = {}
    for share in (0.0, 0.25, 1.0):
        args = DistillationConfig(output_dir=str(tmp_path), per_device_train_batch_size=rows)
        student, data = tiny.tiny_causal(num_hidden_layers=layers), _Rows(tiny.rows(4))
        settings = CausalKDSettings(on_policy_share=share)
        tokenizer = tiny.causal_tokenizer()
        trainer = DistillationTrainer(student, tiny.tiny_causal(), args, data, tokenizer, data, "kd", settings)
        flops[share] = measure_step(trainer, length).flops
        assert seconds_a_step(trainer, length) > 0
    weights = 2 * d * d + 2 * d * 16 + 3 * d * 128  # queries and output, keys and values of two heads, feed-forward
    attention = 4 * d * (kept**2 + sum(range(kept + 1, length)))
    written = layers * (2 * weights * (length - 1) + attention) + 2 * d * tiny.CAUSAL_VOCABULARY * (length - kept)
    assert flops[1.0] - flops[0.0] == rows * written
    assert flops[0.25] - flops[0.0] == rows * written / 4


def test_operations_don_t_hang_on_the_masks_that_a_seed_draws(tmp_path):
    flops = set()
    for seed in (0, 1, 2):
        args = TutorKDConfig(output_dir=str(tmp_path), per_device_train_batch_size=1, data_seed=seed)
        data = _Rows(tiny.rows(4))
        student = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
        trainer = TutorKDTrainer(student, tiny.masked_lm(), args, data, tiny.tokenizer(), eval_dataset=data)
        flops.add(measure_step(trainer, 24).flops)
    assert len(flops) == 1


def test_weights_gradients_and_moments_are_counted_once(tmp_path):
    args = TutorKDConfig(output_dir=str(tmp_path), per_device_train_batch_size=1)
    teacher, student = tiny.masked_lm(), AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
    data = _Rows(tiny.rows(4))
    trainer = TutorKDTrainer(student, teacher, args, data, tiny.tokenizer(), eval_dataset=data)
    trained = sum(p.numel() for p in trainer.model.parameters())
    frozen = sum(p.numel() for p in trainer.teacher.parameters())
    assert measure_step(trainer, 16).static_bytes == 16 * trained + 4 * frozen


def test_the_matrix_product_rate_is_a_rate():
    rate = matmul_rate(torch.float32, torch.device("cpu"))
    assert 1e6 < rate.first_quartile <= rate.median <= rate.third_quartile


def test_what_is_kept_for_the_backward_pass_grows_with_the_rows_and_copies_of_weights_don_t(tmp_path):
    kept = {}
    for rows in (2, 4, 8):
        args = TutorKDConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=rows, bf16=True, teacher_dtype="float32"
        )
        student = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
        data = _Rows(tiny.rows(4))
        trainer = TutorKDTrainer(student, tiny.masked_lm(), args, data, tiny.tokenizer(), eval_dataset=data)
        kept[rows] = measure_step(trainer, 16).activation_bytes
    assert kept[8] - kept[4] == 2 * (kept[4] - kept[2])  # linear in the rows
    assert 0 < kept[8] < 4 * kept[2]  # with a part that is there once


def _cost_of_masked_lm(folder, layers: int, checkpointing: bool) -> StepCost:
    args = PretrainingConfig(
        output_dir=str(folder), per_device_train_batch_size=4, gradient_checkpointing=checkpointing, bf16=False
    )
    model, data = tiny.masked_lm("bert", num_hidden_layers=layers), _Rows(tiny.rows(4))
    trainer = MaskedLMTrainer(model, args, train_dataset=data, eval_dataset=data, processing_class=tiny.tokenizer())
    return measure_step(trainer, 24)


def test_layers_that_are_run_again_keep_their_input_and_cost_a_forward_pass_more(tmp_path):
    rows, length, d = 4, 24, 32
    plain, again = ({n: _cost_of_masked_lm(tmp_path, n, switch) for n in (2, 4)} for switch in (False, True))
    forward = rows * (2 * length * (4 * d * d + 2 * d * 128) + 4 * length**2 * d)  # of one layer
    for layers in (2, 4):
        assert again[layers].flops - plain[layers].flops == layers * forward
        assert again[layers].activation_bytes < plain[layers].activation_bytes
    assert again[4].activation_bytes - again[2].activation_bytes == 2 * rows * length * d * 4
    layer = (plain[4].activation_bytes - plain[2].activation_bytes) / 2  # one of them is there at a time
    assert plain[2].activation_bytes - again[2].activation_bytes == layer - rows * length * d * 4


def test_what_is_measured_is_never_compiled(tmp_path):
    args = TutorKDConfig(output_dir=str(tmp_path), per_device_train_batch_size=2)
    student, data = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2)), _Rows(tiny.rows(4))
    trainer = TutorKDTrainer(student, tiny.masked_lm(), args, data, tiny.tokenizer(), eval_dataset=data)

    def refuse(*args):
        raise AssertionError("it was compiled")

    trainer.model.compile(backend=refuse)
    assert measure_step(trainer, 24).flops > 0
    assert seconds_a_step(trainer, 24) > 0


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        ("cuda", {"max_steps": 999}, False),
        ("cuda", {"max_steps": 1000}, True),
        ("cuda", {"num_train_epochs": 1}, True),  # taken for a long run
        ("cuda", {"num_train_epochs": 1, "torch_compile": False}, False),
        ("cpu", {"num_train_epochs": 1}, False),
        ("cpu", {"max_steps": 5, "torch_compile": True}, True),
    ],
)
def test_a_run_by_epochs_is_compiled_as_a_long_one(tmp_path, monkeypatch, device, settings, expected):
    monkeypatch.setattr(PretrainingConfig, "device", torch.device(device))
    assert will_compile(PretrainingConfig(output_dir=str(tmp_path), **settings)) is expected
