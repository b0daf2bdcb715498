"""The rivals' formulas against plain loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutorkd.capture import AttentionInputs
from tutorkd.methods.distilbert import cosine_loss, masked_lm_loss
from tutorkd.methods.relations import fitting_relation_heads, regroup, relation_loss, self_relation_loss
from tutorkd.methods.soft_targets import soft_cross_entropy


def _random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _mask() -> Tensor:
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[0, 3:], mask[2, 1:] = 0, 0
    return mask


def _softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def _dot(left: Tensor, right: Tensor) -> float:
    return sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))


def _relation_loss_by_loop(student, teacher, mask, reach: int = 99) -> float:
    """Mean over heads and real queries of KL(teacher || student) within reach, one probability at a time."""
    rows, heads, length, _ = student[0].shape
    total, count = 0.0, 0
    for row in range(rows):
        real = [i for i in range(length) if mask[row, i]]
        for head in range(heads):
            for query in real:
                near = [key for key in real if abs(query - key) <= reach]
                p, q = (
                    _softmax([_dot(a[row, head, query], b[row, head, key]) / a.shape[-1] ** 0.5 for key in near])
                    for a, b in (teacher, student)
                )
                total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        count += len(real)
    return total / heads / count


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_cross_entropy_is_t_squared_times_the_mean_cross_entropy(temperature):
    student, teacher = _random(4, 7, scale=3), _random(4, 7, seed=1, scale=3)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = _softmax([z / temperature for z in t])
        q = _softmax([z / temperature for z in s])
        total -= sum(x * math.log(y) for x, y in zip(p, q, strict=True))
    expected = temperature**2 * total / 4
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_soft_cross_entropy_of_the_teacher_itself_is_its_entropy_and_not_zero():
    logits = torch.tensor([[1.0, 1.0, 2.0]]).log() * 2  # at temperature 2: 1/4, 1/4, 1/2
    entropy = 1.5 * math.log(2)
    assert soft_cross_entropy(logits, logits, 2.0).item() == pytest.approx(4 * entropy, abs=1e-5)


def test_soft_cross_entropy_has_the_gradient_of_the_divergence_times_t_squared():
    student = _random(4, 6).float().requires_grad_()
    teacher = _random(4, 6, seed=1).float().requires_grad_()
    soft_cross_entropy(student, teacher, 3.0).backward()
    # T^2 * (1/T) (softmax(s/T) - softmax(t/T)) / k
    expected = 3 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1)).detach() / 4
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def _soft_cross_entropies_by_loop(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(k,), one probability at a time."""
    losses = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = (_softmax([z / temperature for z in logits]) for logits in (t, s))
        losses.append(-sum(x * math.log(y) for x, y in zip(p, q, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_soft_cross_entropy_of_many_weighted_positions_and_its_gradient(dtype, compiled):
    """More than are computed at once; the gradient by central differences in float64."""
    student, teacher = (_random(600, 4, seed=seed, scale=3).to(dtype) for seed in (0, 1))
    weight = torch.arange(600.0) % 3
    weights = weight.double() * 4 / 500
    expected = (_soft_cross_entropies_by_loop(student, teacher, 2.0) * weights).sum()
    gradient = torch.empty(600, 4, dtype=torch.float64)
    for word in range(4):
        step = 1e-5 * torch.eye(4, dtype=torch.float64)[word]
        up, down = (_soft_cross_entropies_by_loop(student + sign * step, teacher, 2.0) for sign in (1, -1))
        gradient[:, word] = (up - down) / 2e-5 * weights

    function = (
        torch.compile(soft_cross_entropy, fullgraph=True, backend="aot_eager") if compiled else soft_cross_entropy
    )
    student.requires_grad_()
    loss = function(student, teacher, 2.0, torch.tensor(500.0), weight)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        student.grad, (3 * gradient).to(dtype), rtol=1e-4 if dtype == torch.float32 else 2**-7, atol=1e-7
    )


def test_soft_cross_entropy_keeps_one_tensor_of_the_vocabulary_s_size_for_its_gradient():
    student, teacher = _random(600, 50).bfloat16().requires_grad_(), _random(600, 50, seed=1).bfloat16()
    kept = {}
    note = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t)
    with note:
        soft_cross_entropy(student, teacher, 2.0)
    assert sum(tensor.nbytes for tensor in kept.values() if tensor.numel() >= 600 * 50) == 4 * 600 * 50


def test_temperature_leaves_the_size_of_the_gradient_about_as_it_is():
    norms = []
    for temperature in (20.0, 40.0):
        student = _random(8, 10).float().requires_grad_()
        soft_cross_entropy(student, _random(8, 10, seed=1), temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_masked_lm_loss_is_the_mean_negative_log_probability_of_the_text():
    logits = torch.tensor([[1.0, 1.0, 2.0], [1.0, 6.0, 1.0]]).log()
    expected = -(math.log(0.5) + math.log(0.125)) / 2
    assert masked_lm_loss(logits, torch.tensor([2, 0])).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_loss_is_a_mean_over_real_positions():
    student, teacher, mask = _random(3, 5, 4), _random(3, 5, 4, seed=1), _mask()
    angles = [
        _dot(student[b, i], teacher[b, i]) / (student[b, i].norm() * teacher[b, i].norm()).item()
        for b in range(3)
        for i in range(5)
        if mask[b, i]
    ]
    expected = sum(1 - angle for angle in angles) / len(angles)
    assert cosine_loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5)


def test_cosine_loss_sees_directions_alone():
    hidden = _random(3, 5, 4)
    assert cosine_loss(7 * hidden, hidden, _mask()).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(-hidden, hidden, _mask()).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(4, 4), (3, 8)])
def test_relation_loss_is_the_mean_divergence_from_the_teacher(a, b):
    student = _random(3, 2, 5, a), _random(3, 2, 5, a, seed=1)
    teacher = _random(3, 2, 5, b, seed=2), _random(3, 2, 5, b, seed=3)
    expected = _relation_loss_by_loop(student, teacher, _mask())
    assert relation_loss(student, teacher, _mask()).item() == pytest.approx(expected, rel=1e-5)


def test_relations_within_a_window_are_distributions_over_it():
    student, teacher = ((_random(3, 2, 5, 4, seed=s), _random(3, 2, 5, 4, seed=s + 1)) for s in (0, 2))
    positions = torch.arange(5)
    window = ((positions[:, None] - positions).abs() <= 1)[None, None]
    loss = relation_loss(student, teacher, _mask(), window=window)
    assert loss.item() == pytest.approx(_relation_loss_by_loop(student, teacher, _mask(), reach=1), rel=1e-5)


def test_relation_loss_takes_the_teacher_as_the_reference():
    student, teacher = (_random(3, 2, 5, 4, seed=seed, scale=2) for seed in (0, 1))
    there = relation_loss((student, student), (teacher, teacher), _mask()).item()
    back = relation_loss((teacher, teacher), (student, student), _mask()).item()
    assert there == pytest.approx(_relation_loss_by_loop((student, student), (teacher, teacher), _mask()), rel=1e-5)
    assert there != pytest.approx(back, rel=0.05)


def test_relation_loss_of_the_teacher_itself_is_exactly_zero():
    query, key = _random(3, 2, 5, 4).float(), _random(3, 2, 5, 4, seed=1).float()
    assert relation_loss((query, key), (query, key), _mask()).item() == 0


def test_relations_of_different_head_counts_are_refused():
    one, two = _random(1, 1, 5, 4), _random(1, 2, 5, 4)
    with pytest.raises(ValueError, match="relations of 1 and 2 heads"):
        relation_loss((one, one), (two, two), torch.ones(1, 5))


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        ((12, 64), (12, 64), 48),  # 768: a base-size teacher, as in the paper
        ((16, 64), (16, 64), 64),  # 1,024: a large one, as in the paper
        ((6, 32), (12, 32), 48),  # 192 and 384
        ((4, 66), (12, 64), 24),  # 264 and 768, whose greatest common divisor this is
        ((6, 64), (16, 64), 32),  # 384 and 1,024: the most that leaves 8 of 384 dimensions is 48
        ((8, 64), (8, 64), 64),  # 512
        ((4, 8), (4, 8), 4),  # 32
        ((1, 31), (1, 17), 1),
    ],
)
def test_relation_heads_that_nobody_asked_for_divide_both_sizes(student, teacher, heads):
    def inputs(number, size):
        return AttentionInputs(*[torch.zeros(1, number, 2, size)] * 3, None)

    assert fitting_relation_heads(inputs(*student), inputs(*teacher)) == heads


def test_regrouping_puts_heads_end_to_end_and_splits_them_anew():
    vectors = torch.arange(2 * 2 * 3 * 6).view(2, 2, 3, 6)  # two heads of six, three positions
    grouped = regroup(vectors, 3)
    assert grouped.shape == (2, 3, 3, 4)
    for row in range(2):
        for position in range(3):
            joined = vectors[row, 0, position].tolist() + vectors[row, 1, position].tolist()
            assert grouped[row, :, position].flatten().tolist() == joined
    assert torch.equal(regroup(vectors, 2), vectors)


def test_self_relation_loss_compares_any_head_counts():
    student, teacher = _random(3, 3, 5, 4), _random(3, 2, 5, 9, seed=1)  # 12 and 18, in six relation heads
    regrouped = []
    for vectors, heads, size in ((student, 3, 4), (teacher, 2, 9)):
        joined = torch.cat([vectors[:, head] for head in range(heads)], dim=-1)
        width = heads * size // 6
        regrouped.append(torch.stack([joined[..., r * width : (r + 1) * width] for r in range(6)], dim=1))
    s, t = regrouped
    expected = _relation_loss_by_loop((s, s), (t, t), _mask())
    assert self_relation_loss(student, teacher, 6, _mask()).item() == pytest.approx(expected, rel=1e-5)


def _of_masked_positions(loss):
    """A loss of (k, V) logits as one of (B, L, d) values and a mask."""

    def per_row(student: Tensor, teacher: Tensor, mask: Tensor, num_items=None) -> Tensor:
        return loss(student[mask.bool()], teacher[mask.bool()], num_items)

    return per_row


def _of_heads(loss):
    def per_row(student: Tensor, teacher: Tensor, mask: Tensor, num_items=None) -> Tensor:
        s, t = (values.unflatten(-1, (2, -1)).transpose(1, 2) for values in (student, teacher))
        return loss(s, t, mask, num_items)

    return per_row


LOSSES = {
    "soft cross-entropy": _of_masked_positions(lambda s, t, n: soft_cross_entropy(s, t, 2.0, n)),
    "masked LM": _of_masked_positions(lambda s, t, n: masked_lm_loss(s, t.argmax(-1), n)),
    "cosine": cosine_loss,
    "relation": _of_heads(lambda s, t, mask, n: relation_loss((s, 2 * s), (t, 3 * t), mask, n)),
    "self-relation": _of_heads(lambda s, t, mask, n: self_relation_loss(s, t, 4, mask, n)),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
def test_micro_batches_sum_to_the_undivided_batch(loss):
    student, teacher, mask = _random(3, 5, 8), _random(3, 5, 8, seed=1), _mask()
    whole = loss(student, teacher, mask)
    parts = [loss(student[rows], teacher[rows], mask[rows], mask.sum()) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(parts), whole)


@every_loss
def test_padding_neither_counts_nor_matters(loss):
    student, teacher, mask = _random(3, 5, 8), _random(3, 5, 8, seed=1), _mask()
    expected = loss(student, teacher, mask)
    real = mask[..., None] == 1
    student = torch.where(real, student, _random(3, 5, 8, seed=2, scale=1e3))
    teacher = torch.where(real, teacher, _random(3, 5, 8, seed=3, scale=1e3))
    torch.testing.assert_close(loss(student, teacher, mask), expected)
    wider = [torch.cat([values, _random(3, 4, 8, seed=4)], dim=1) for values in (student, teacher)]
    torch.testing.assert_close(loss(*wider, F.pad(mask, (0, 4))), expected)


@every_loss
def test_padding_receives_no_gradient(loss):
    student, mask = _random(3, 5, 8).float().requires_grad_(), _mask()
    loss(student, _random(3, 5, 8, seed=1).float(), mask).backward()
    size = student.grad.abs().sum(-1)
    assert (size[mask == 0] == 0).all()
    assert (size[0, :3] > 0).all()


@every_loss
def test_nothing_to_learn_from_is_zero(loss):
    value = loss(_random(3, 5, 8), _random(3, 5, 8, seed=1), torch.zeros(3, 5, dtype=torch.long))
    assert value.item() == 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_losses_and_gradients_are_finite_in_either_precision(loss, dtype, scale):
    student = _random(3, 5, 8, scale=scale).to(dtype).requires_grad_()
    value = loss(student, _random(3, 5, 8, seed=1, scale=scale).to(dtype), _mask())
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()


@every_loss
def test_autocast_does_not_lower_the_precision(loss):
    student, teacher = _random(3, 5, 8).float(), _random(3, 5, 8, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(student, teacher, _mask())
    assert under.item() == loss(student, teacher, _mask()).item()
