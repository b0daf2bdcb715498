"""The policy: what is drawn, what its logarithm and entropy are, and what is trained of it."""

import math

import pytest
import torch

from tutorkd import functional
from tutorkd.sampling import cut_to_top_k, sample_replacements, without

FORBIDDEN = torch.tensor([0, 3, 6])
# What can be drawn of 7 tokens, in two rows of logits.
LOGITS = torch.tensor(
    [[9.0, 1.0, 2.0, 9.0, 0.5, -1.0, 9.0], [-2.0, 0.3, -0.7, 0.1, 1.9, 1.0, 0.0]], dtype=torch.float64
)
ORDINARY = [1, 2, 4, 5]


def _policy(logits: torch.Tensor, kind: str) -> torch.Tensor:
    logits = without(logits, FORBIDDEN)
    return cut_to_top_k(logits, 2) if kind == "top-k" else logits


def _support(row: list[float], kind: str) -> list[int]:
    return sorted(ORDINARY, key=lambda token: -row[token])[:2] if kind == "top-k" else ORDINARY


def _probabilities(row: list[float], support: list[int]) -> dict[int, float]:
    """Softmax over some tokens alone, by a loop."""
    total = sum(math.exp(row[token]) for token in support)
    return {token: math.exp(row[token]) / total for token in support}


every_kind = pytest.mark.parametrize("kind", ["multinomial", "top-k"])


def test_each_token_is_drawn_as_often_as_the_policy_says():
    probability = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    draws = sample_replacements(
        probability.log().expand(40_000, 5).clamp(min=-1e9), generator=torch.Generator().manual_seed(0)
    )
    shares = torch.bincount(draws, minlength=5) / 40_000
    # three standard errors of a share of one half are 0.0075
    torch.testing.assert_close(shares, probability, atol=0.008, rtol=0)
    assert shares[4] == 0


@pytest.mark.parametrize("vocabulary", [7, 128, 300, 512, 1000])
def test_a_number_is_turned_into_the_token_that_the_whole_cumulative_distribution_says(vocabulary):
    logits = torch.randn(2000, vocabulary, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, ::5] = -3e38
    draws = sample_replacements(logits, generator=torch.Generator().manual_seed(1))
    number = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1)).double()
    cumulative = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True).squeeze(-1)
    assert (draws == expected).float().mean() > 0.999  # a number at the border of two tokens may fall to either
    assert (draws % 5 != 0).all()


@pytest.mark.parametrize("vocabulary", [7, 300])
def test_where_a_policy_isn_t_finite_some_token_is_drawn_and_the_other_rows_are_as_they_were(vocabulary):
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0))
    whole = sample_replacements(logits, generator=torch.Generator().manual_seed(1))
    logits[1], logits[3, 2] = math.nan, math.inf
    draws = sample_replacements(logits, generator=torch.Generator().manual_seed(1))
    assert draws[[0, 2]].tolist() == whole[[0, 2]].tolist()
    assert (draws < vocabulary).all()
    assert functional.policy_loss(logits, draws, torch.ones(4)).isnan()


@every_kind
def test_draws_have_the_shares_of_the_softmax_over_what_can_be_drawn(kind):
    row = LOGITS[0]
    draws = sample_replacements(_policy(row.expand(40_000, 7), kind), generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(7)
    for token, probability in _probabilities(row.tolist(), _support(row.tolist(), kind)).items():
        expected[token] = probability
    shares = torch.bincount(draws, minlength=7) / 40_000
    torch.testing.assert_close(shares, expected, atol=0.008, rtol=0)
    assert (shares[expected == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("greedy", [False, True])
def test_forbidden_tokens_are_never_drawn_however_likely(greedy, dtype):
    logits = torch.full((2000, 6), -3e38, dtype=dtype)
    logits[:, [0, 3]] = 3e38
    assert not torch.isin(sample_replacements(without(logits, torch.tensor([0, 3])), greedy), FORBIDDEN).any()


@every_kind
def test_log_policy_and_entropy_are_those_of_what_is_drawn_from(kind):
    policy, reward, actions = _policy(LOGITS, kind), [0.7, -1.3], [2, 4]
    loss, entropies = 0.0, []
    for row, action, earned in zip(LOGITS.tolist(), actions, reward, strict=True):
        probability = _probabilities(row, _support(row, kind))
        loss -= math.log(probability[action]) * earned / 2
        entropies.append(-sum(p * math.log(p) for p in probability.values()))
    assert functional.policy_loss(policy, torch.tensor(actions), torch.tensor(reward)).item() == pytest.approx(
        loss, rel=1e-5
    )
    assert functional.policy_entropy(policy).tolist() == pytest.approx(entropies, rel=1e-5)


def test_divergence_is_from_the_teacher_over_the_same_tokens():
    teacher = LOGITS.flip(-1) * 2
    expected = 0.0
    for row, prior in zip(LOGITS.tolist(), teacher.tolist(), strict=True):
        p, q = (_probabilities(logits, ORDINARY) for logits in (prior, row))
        expected += sum(p[token] * math.log(p[token] / q[token]) for token in ORDINARY) / 2
    loss = functional.plausibility_loss(without(LOGITS, FORBIDDEN), without(teacher, FORBIDDEN))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@every_kind
def test_gradients_agree_with_finite_differences_and_are_exactly_zero_at_what_can_t_be_drawn(kind):
    actions, reward = torch.tensor([2, 4]), torch.tensor([0.7, -1.3])

    def loss(logits):
        return functional.policy_loss(_policy(logits, kind), actions, reward)

    x = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    for row in range(2):
        support = _support(LOGITS[row].tolist(), kind)
        for token in range(7):
            step = torch.zeros_like(LOGITS)
            step[row, token] = 1e-2  # the formulas compute in float32
            slope = (loss(LOGITS + step) - loss(LOGITS - step)).item() / 2e-2
            assert gradient[row, token].item() == pytest.approx(slope, abs=1e-3)
            assert (gradient[row, token] == 0) == (token not in support)


def test_the_divergence_s_gradient_is_exactly_zero_at_forbidden_tokens():
    x = LOGITS.clone().requires_grad_()
    functional.plausibility_loss(without(x, FORBIDDEN), without(LOGITS.flip(-1), FORBIDDEN)).backward()
    assert (x.grad[:, FORBIDDEN] == 0).all()
    assert (x.grad[:, ORDINARY] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30, 3e38])
@every_kind
def test_losses_and_gradients_of_a_restricted_policy_are_finite(kind, size, dtype):
    signs = torch.sign(LOGITS - 0.4).to(dtype)
    for tutor in (signs * size, -signs * size, torch.full_like(signs, -size)):
        x = tutor.clone().requires_grad_()
        logits = without(x, FORBIDDEN)
        policy = cut_to_top_k(logits, 2) if kind == "top-k" else logits
        actions = sample_replacements(policy)
        loss = functional.policy_loss(policy, actions, torch.ones(2))
        loss = loss + functional.plausibility_loss(logits, without(signs * size, FORBIDDEN))
        loss.backward()
        for value in (loss, x.grad, functional.policy_entropy(policy)):
            assert value.isfinite().all()
        assert (x.grad[:, FORBIDDEN] == 0).all()
        assert not torch.isin(actions, FORBIDDEN).any()


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample_replacements(logits, greedy=True).tolist() == [1, 0]


def test_the_same_generator_state_draws_the_same():
    logits = torch.randn(50, 30)
    first, second = (sample_replacements(logits, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_nothing_masked_draws_nothing():
    assert sample_replacements(torch.zeros(0, 9)).shape == (0,)


def test_a_sharp_policy_in_bfloat16_draws_its_one_token():
    logits = torch.full((500, 30_000), -10.0, dtype=torch.bfloat16)
    logits[:, 29_999] = 30
    assert (sample_replacements(logits) == 29_999).all()
