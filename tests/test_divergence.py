"""Divergences of distributions over the vocabulary, against plain float64."""

import pytest
import torch
from torch import Tensor

from tutorkd.divergence import divergence, top_and_rest

KINDS = ["forward-kl", "reverse-kl", "js", "skew-kl"]


def _logits(rows: int = 150, vocabulary: int = 11, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(spread * torch.randn(rows, vocabulary, generator=generator) for _ in range(2))


def _plain(student: Tensor, teacher: Tensor, kind: str, skew: float) -> Tensor:
    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1)

    q, p = student.double().softmax(-1), teacher.double().softmax(-1)
    mixture = (p + q) / 2
    return {
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "js": lambda: (kl(p, mixture) + kl(q, mixture)) / 2,
        "skew-kl": lambda: kl(p, skew * p + (1 - skew) * q),
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skew", [0.1, 0.7])
def test_value_and_gradient_are_those_of_the_formula_in_float64(kind, skew):
    student, teacher = _logits()
    weights = torch.linspace(-1, 2, len(student))
    student.requires_grad_()
    values, _ = divergence(student, teacher, kind, skew)
    (values * weights).sum().backward()

    plain = student.detach().double().requires_grad_()
    expected = _plain(plain, teacher, kind, skew)
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(values, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, plain.grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(kind):
    student, teacher = _logits(rows=3, vocabulary=5)
    student.requires_grad_()
    divergence(student, teacher, kind)[0].sum().backward()
    for place in range(5):
        up, down = student.detach().double().clone(), student.detach().double().clone()
        up[1, place] += 1e-5
        down[1, place] -= 1e-5
        slope = (_plain(up, teacher, kind, 0.1) - _plain(down, teacher, kind, 0.1))[1] / 2e-5
        assert float(student.grad[1, place]) == pytest.approx(float(slope), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_distributions_are_at_0_with_no_gradient(kind):
    student, _ = _logits()
    student.requires_grad_()
    values, distances = divergence(student, student.detach() + 3, kind)
    values.sum().backward()
    assert values.abs().max() < 1e-5
    assert distances.abs().max() < 1e-6
    assert student.grad.abs().max() < 1e-6


def test_the_distance_is_half_the_sum_of_differences():
    student, teacher = _logits()
    _, distances = divergence(student, teacher)
    expected = (student.double().softmax(-1) - teacher.double().softmax(-1)).abs().sum(-1) / 2
    torch.testing.assert_close(distances, expected.float())


def test_a_skew_of_0_is_the_forward_kl():
    student, teacher = _logits()
    torch.testing.assert_close(
        divergence(student, teacher, "skew-kl", 0.0)[0], divergence(student, teacher, "forward-kl")[0]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_that_underflow_give_finite_values_and_gradients(kind, dtype):
    student = torch.tensor([[0.0, 400.0, -400.0], [200.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[400.0, 0.0, 0.0], [0.0, -300.0, 300.0]], dtype=dtype)
    values, _ = divergence(student, teacher, kind)
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()
    assert student.grad.dtype == dtype


def test_no_positions_give_no_values():
    student, teacher = (each[:0] for each in _logits())
    values, distances = divergence(student.requires_grad_(), teacher)
    assert values.shape == distances.shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_nothing(kind):
    student, teacher = _logits()
    plain, _ = divergence(student, teacher, kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divergence(student, teacher, kind)[0], plain)


def _outcomes(logits: Tensor, ids: Tensor) -> Tensor:
    """Probabilities of the tokens, and 1 minus their sum, in float64."""
    chosen = logits.double().softmax(-1).gather(-1, ids)
    return torch.cat([chosen, 1 - chosen.sum(-1, keepdim=True)], -1)


def test_likely_tokens_and_the_rest_are_outcomes_of_their_probabilities():
    student, teacher = _logits()
    ids = teacher.topk(4).indices
    torch.testing.assert_close(top_and_rest(student, ids).exp(), _outcomes(student, ids).float())


@pytest.mark.parametrize("kind", KINDS)
def test_a_divergence_of_likely_tokens_and_the_rest_is_that_of_these_outcomes_in_float64(kind):
    student, teacher = _logits()
    ids, weights = teacher.topk(4).indices, torch.linspace(-1, 2, len(student))
    student.requires_grad_()
    values, _ = divergence(top_and_rest(student, ids), top_and_rest(teacher, ids), kind)
    (values * weights).sum().backward()

    plain = student.detach().double().requires_grad_()
    expected = _plain(_outcomes(plain, ids).log(), _outcomes(teacher, ids).log(), kind, 0.1)
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(values, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, plain.grad.float(), rtol=1e-4, atol=1e-6)
    assert (values <= divergence(student, teacher, kind)[0] + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_but_one_as_outcomes_give_the_divergence_over_the_vocabulary(kind):
    student, teacher = _logits(vocabulary=7)
    copies = [student.clone().requires_grad_() for _ in range(2)]
    ids = teacher.topk(6).indices
    few, _ = divergence(top_and_rest(copies[0], ids), top_and_rest(teacher, ids), kind)
    whole, _ = divergence(copies[1], teacher, kind)
    for each in (few, whole):
        each.sum().backward()
    torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(copies[0].grad, copies[1].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rest_that_underflows_is_finite_and_has_finite_gradients(dtype):
    student = torch.tensor([[300.0, 299.0, -300.0, 0.0]], dtype=dtype, requires_grad=True)
    found = top_and_rest(student, torch.tensor([[0, 1]]))
    assert float(found[0, 2]) == pytest.approx(-87.3, abs=0.1)
    divergence(found, torch.tensor([[0.5, 0.25, 0.25]]).log(), "forward-kl")[0].sum().backward()
    assert student.grad.isfinite().all()
