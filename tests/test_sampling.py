import pytest
import torch

from tutorkd.sampling import sample_replacements

NONE = torch.tensor([], dtype=torch.long)


def test_multinomial_draws_each_token_as_often_as_the_policy_says():
    probability = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    draws = sample_replacements(
        probability.log().expand(40_000, 5).clamp(min=-1e9), "multinomial", 0, NONE, torch.Generator().manual_seed(0)
    )
    shares = torch.bincount(draws, minlength=5) / 40_000
    # three standard errors of a share of one half are 0.0075
    torch.testing.assert_close(shares, probability, atol=0.008, rtol=0)
    assert shares[4] == 0


@pytest.mark.parametrize("sampling", ["multinomial", "greedy", "top-k"])
def test_special_tokens_are_never_drawn(sampling):
    logits = torch.zeros(2000, 6)
    logits[:, [0, 3]] = 20
    draws = sample_replacements(logits, sampling, 3, torch.tensor([0, 3]))
    assert not torch.isin(draws, torch.tensor([0, 3])).any()


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample_replacements(logits, "greedy", 0, NONE).tolist() == [1, 0]


def test_top_k_draws_among_the_k_likeliest_in_proportion():
    probability = torch.tensor([0.1, 0.4, 0.3, 0.2]).expand(40_000, 4)
    draws = sample_replacements(probability.log(), "top-k", 2, NONE, torch.Generator().manual_seed(0))
    shares = torch.bincount(draws, minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.tensor([0, 4 / 7, 3 / 7, 0]), atol=0.008, rtol=0)


def test_the_same_generator_state_draws_the_same():
    logits = torch.randn(50, 30)
    first, second = (
        sample_replacements(logits, "multinomial", 0, NONE, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert first.tolist() == second.tolist()


def test_nothing_masked_draws_nothing():
    assert sample_replacements(torch.zeros(0, 9), "multinomial", 0, NONE).shape == (0,)


def test_a_sharp_policy_in_bfloat16_draws_its_one_token():
    logits = torch.full((500, 30_000), -10.0, dtype=torch.bfloat16)
    logits[:, 29_999] = 30
    assert (sample_replacements(logits, "multinomial", 0, NONE) == 29_999).all()
