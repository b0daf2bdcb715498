"""Every formula against numbers worked out by hand, in float64 or by finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutorkd import functional

LOGITS = [torch.float32, torch.bfloat16]


def _random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _padded(rows: int = 3, length: int = 5) -> Tensor:
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, 3:], mask[2, 1:] = 0, 0
    return mask


def test_modified_logit_target_is_the_clipped_ratio_of_probabilities():
    # softmax of log 1, log 2, log 5 is 1/8, 2/8, 5/8
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 4).log()
    original, replaced = torch.tensor([1, 1, 2, 0]), torch.tensor([0, 2, 1, 0])
    target = functional.modified_logit_target(logits, original, replaced)
    torch.testing.assert_close(target, torch.tensor([0.5, 1.0, 0.4, 1.0]))


@pytest.mark.parametrize("dtype", LOGITS)
def test_modified_logit_target_is_exactly_one_where_nothing_was_replaced(dtype):
    logits = _random(50, 40, scale=30).to(dtype)
    ids = torch.arange(50) % 40
    assert (functional.modified_logit_target(logits, ids, ids) == 1).all()


def test_teacher_reward_is_the_difference_of_probabilities():
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 3).log()
    reward = functional.teacher_reward(logits, torch.tensor([2, 0, 1]), torch.tensor([0, 2, 1]))
    torch.testing.assert_close(reward, torch.tensor([0.5, -0.5, 0.0]))


def test_student_reward_is_its_error_and_carries_no_gradient():
    logits = torch.tensor([0.0, math.log(3.0), -math.log(3.0)], requires_grad=True)
    reward = functional.student_reward(torch.tensor([1.0, 0.25, 0.25]), logits)
    torch.testing.assert_close(reward, torch.tensor([0.5, 0.5, 0.0]))
    assert not reward.requires_grad


def test_mlm_student_reward_is_half_the_absolute_difference_of_the_distributions():
    # 1/8, 2/8, 5/8 against 1/2, 1/4, 1/4: (3/8 + 0 + 3/8) / 2
    teacher, student = torch.tensor([[1.0, 2.0, 5.0]]).log(), torch.tensor([[2.0, 1.0, 1.0]]).log().requires_grad_()
    reward = functional.mlm_student_reward(teacher, student)
    torch.testing.assert_close(reward, torch.tensor([0.375]))
    assert not reward.requires_grad
    assert functional.mlm_student_reward(teacher, teacher).item() == 0
    apart = functional.mlm_student_reward(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    assert apart.item() == 1


def test_advantage_is_the_reward_less_the_mean_of_the_others():
    reward = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    torch.testing.assert_close(functional.advantage(reward), torch.tensor([1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]))
    assert not functional.advantage(reward).requires_grad
    assert functional.advantage(torch.tensor([0.7])).tolist() == pytest.approx([0.7])
    assert functional.advantage(torch.empty(0)).shape == (0,)


def test_advantage_leaves_the_expected_policy_gradient_as_it_is():
    """Two independent positions of two actions each: the gradient's mean over all four outcomes, in closed form."""
    logits = torch.tensor([[0.3, -0.4], [-1.0, 0.5]], dtype=torch.float64)
    rewards = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)  # of a position's action alone
    probability = logits.softmax(-1)
    means = {}
    for shaped in (lambda reward: reward, functional.advantage):
        gradient = torch.zeros(2, 2, dtype=torch.float64)
        for outcome in ((0, 0), (0, 1), (1, 0), (1, 1)):
            actions, leaf = torch.tensor(outcome), logits.clone().requires_grad_()
            functional.policy_loss(leaf, actions, shaped(rewards.gather(-1, actions[:, None])[:, 0])).backward()
            gradient += probability[0, outcome[0]] * probability[1, outcome[1]] * leaf.grad
        means[shaped] = gradient
    plain, centred = means.values()
    torch.testing.assert_close(plain, centred, atol=1e-6, rtol=1e-5)
    assert plain.abs().min() > 0.01


def test_policy_loss_is_reinforce():
    logits = torch.tensor([[1.0, 1.0, 2.0], [2.0, 1.0, 1.0]]).log()
    loss = functional.policy_loss(logits, torch.tensor([2, 1]), torch.tensor([2.0, -1.0]))
    assert loss.item() == pytest.approx(-(2 * math.log(0.5) - math.log(0.25)) / 2, abs=1e-6)


def test_policy_gradient_is_reward_times_policy_minus_action():
    logits = _random(4, 6).float().requires_grad_()
    actions, reward = torch.tensor([0, 5, 2, 2]), torch.tensor([1.0, -2.0, 0.5, 0.0])
    functional.policy_loss(logits, actions, reward).backward()
    expected = reward[:, None] * (logits.detach().softmax(-1) - F.one_hot(actions, 6)) / 4
    torch.testing.assert_close(logits.grad, expected)


def test_no_gradient_flows_through_the_reward():
    reward = torch.ones(2, requires_grad=True)
    logits = torch.zeros(2, 3, requires_grad=True)
    functional.policy_loss(logits, torch.tensor([0, 1]), reward).backward()
    assert reward.grad is None


def test_plausibility_loss_is_the_kl_divergence_from_the_teacher():
    teacher = torch.tensor([[1.0, 3.0]]).log()
    policy = torch.tensor([[1.0, 1.0]]).log().requires_grad_()
    loss = functional.plausibility_loss(policy, teacher)
    assert loss.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)
    loss.backward()  # gradient of a KL divergence in the second argument's logits: pi - P_T
    torch.testing.assert_close(policy.grad, torch.tensor([[0.25, -0.25]]))


def test_plausibility_loss_agrees_with_float64_and_sends_nothing_to_the_teacher():
    policy, teacher = _random(7, 50, scale=4), _random(7, 50, seed=1, scale=4).requires_grad_()
    expected = F.kl_div(policy.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    loss = functional.plausibility_loss(policy.float().requires_grad_(), teacher)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert teacher.grad is None


def test_plausibility_loss_of_the_teacher_itself_is_zero():
    logits = _random(5, 30, scale=10).float()
    assert functional.plausibility_loss(logits, logits).item() == pytest.approx(0, abs=1e-5)


def test_divergence_and_entropy_keep_float32_under_autocast():
    teacher = _random(5, 200, scale=3)
    policy = teacher + 1e-2 * _random(5, 200, seed=1)
    expected = F.kl_div(policy.log_softmax(-1), teacher.softmax(-1), reduction="batchmean").item()
    entropy = torch.distributions.Categorical(logits=policy).entropy()
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.plausibility_loss(policy, teacher).item() == pytest.approx(expected, rel=0.05)
        torch.testing.assert_close(functional.policy_entropy(policy).double(), entropy, rtol=1e-5, atol=0)


def test_policy_entropy_of_a_uniform_distribution_is_the_log_of_its_size():
    torch.testing.assert_close(functional.policy_entropy(torch.zeros(2, 8)), torch.full((2,), math.log(8)))


def test_modified_logit_loss_is_the_mean_cross_entropy_over_real_positions():
    logits = torch.tensor([[0.0, math.log(3.0), 50.0]])
    target = torch.tensor([[1.0, 0.25, 0.0]])
    loss = functional.modified_logit_loss(logits, target, torch.tensor([[1, 1, 0]]))
    expected = (math.log(2) - (0.25 * math.log(0.75) + 0.75 * math.log(0.25))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_hidden_state_loss_is_a_mean_over_real_positions_and_dimensions():
    student, teacher, mask = _random(3, 5, 4), _random(3, 5, 4, seed=1), _padded()
    squares = [
        (student[b, i, d] - teacher[b, i, d]) ** 2 for b in range(3) for i in range(5) for d in range(4) if mask[b, i]
    ]
    assert functional.hidden_state_loss(student, teacher, mask).item() == pytest.approx(
        (sum(squares) / len(squares)).item()
    )


# The last but one has rows as long as they are for the product of the scores' size, the last is longer.
@pytest.mark.parametrize(("a", "b", "length"), [(4, 4, 5), (3, 8, 5), (1, 2, 6), (1, 2, 7)])
def test_attention_score_loss_equals_the_plain_score_matrices(a, b, length):
    sq, sk = _random(3, 2, length, a), _random(3, 2, length, a, seed=1)
    tq, tk = _random(3, 2, length, b, seed=2), _random(3, 2, length, b, seed=3)
    mask = _padded(3, length)
    difference = sq @ sk.mT / math.sqrt(a) - tq @ tk.mT / math.sqrt(b)
    real = (mask[:, :, None] * mask[:, None, :])[:, None].bool().expand_as(difference)
    expected = difference[real].square().mean()
    assert functional.attention_score_loss(sq, sk, tq, tk, mask).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("length", [16, 65])
def test_attention_score_loss_of_bfloat16_is_that_of_the_numbers_that_it_holds(length):
    """Student and teacher near one another: their scores are some hundred times the difference of these."""
    tq, tk = _random(3, 4, length, 16), _random(3, 4, length, 16, seed=1)
    near = [x + 0.01 * _random(*x.shape, seed=seed) for x, seed in ((tq, 2), (tk, 3))]
    low = [x.bfloat16() for x in (*near, tq, tk)]
    mask = _padded(3, length)
    losses, gradients = [], []
    for sq, sk, *teacher in (low, [x.double() for x in low]):
        sq, sk = sq.requires_grad_(), sk.requires_grad_()
        losses.append(functional.attention_score_loss(sq, sk, *teacher, mask))
        gradients.append(torch.autograd.grad(losses[-1], (sq, sk)))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.01)
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() < 0.01 * other.norm()


def test_the_teacher_receives_no_gradient_from_the_attention_scores():
    vectors = [_random(3, 2, 5, 4, seed=seed).requires_grad_() for seed in range(4)]
    functional.attention_score_loss(*vectors, _padded()).backward()
    assert [x.grad is None for x in vectors] == [False, False, True, True]


def _window(length: int, reach: int) -> Tensor:
    positions = torch.arange(length)
    return ((positions[:, None] - positions).abs() <= reach)[None, None]


@pytest.mark.parametrize(("a", "b"), [(4, 4), (3, 8)])
def test_local_attention_loss_is_each_position_s_mean_over_its_window(a, b):
    sq, sk = _random(3, 2, 5, a), _random(3, 2, 5, a, seed=1)
    tq, tk = _random(3, 2, 5, b, seed=2), _random(3, 2, 5, b, seed=3)
    mask, means = _padded(), []
    for row in range(3):
        for head in range(2):
            for i in (i for i in range(5) if mask[row, i]):
                squares = [
                    (
                        (sq[row, head, i] * sk[row, head, j]).sum().item() / math.sqrt(a)
                        - (tq[row, head, i] * tk[row, head, j]).sum().item() / math.sqrt(b)
                    )
                    ** 2
                    for j in range(5)
                    if mask[row, j] and abs(i - j) <= 1
                ]
                means.append(sum(squares) / len(squares))
    loss = functional.local_attention_score_loss(sq, sk, tq, tk, _window(5, 1), mask)
    assert loss.item() == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_local_attention_loss_without_a_limit_is_that_of_all_pairs_where_rows_are_of_one_length():
    sq, sk, tq, tk = (_random(3, 2, 6, 4, seed=seed) for seed in range(4))
    mask = torch.ones(3, 6)
    mask[:, 4:] = 0
    expected = functional.attention_score_loss(sq, sk, tq, tk, mask).item()
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    for window in (everything, _window(6, 9)):
        assert functional.local_attention_score_loss(sq, sk, tq, tk, window, mask).item() == pytest.approx(
            expected, rel=1e-5
        )


def test_a_key_outside_every_window_neither_counts_nor_has_a_gradient():
    sq, sk, tq, tk = (_random(1, 2, 6, 4, seed=seed) for seed in range(4))
    window, mask = _window(6, 2), torch.ones(1, 6)
    window[..., 5] = False
    expected = functional.local_attention_score_loss(sq, sk, tq, tk, window, mask).item()
    far = sk.clone()
    far[:, :, 5] = 1e30  # whose square isn't finite
    far.requires_grad_()
    loss = functional.local_attention_score_loss(sq, far, tq, tk, window, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert (far.grad[:, :, 5] == 0).all()
    assert (far.grad[:, :, :5].abs().sum(-1) > 0).all()


def test_attention_score_loss_of_the_teacher_itself_is_zero():
    q, k = _random(2, 4, 16, 8).float(), _random(2, 4, 16, 8, seed=1).float()
    assert functional.attention_score_loss(q, k, q, k, torch.ones(2, 16)).item() == pytest.approx(0, abs=1e-5)


def test_attention_score_loss_computes_in_float32_under_autocast():
    q, k = _random(2, 4, 16, 8), _random(2, 4, 16, 8, seed=1)
    near = q + 1e-3 * _random(2, 4, 16, 8, seed=2)
    difference = (near @ k.mT - q @ k.mT) / math.sqrt(8)
    with torch.autocast("cpu", torch.bfloat16):
        given = near.float(), k.float(), q.float(), k.float()
        loss = functional.attention_score_loss(*given, torch.ones(2, 16))
        local = functional.local_attention_score_loss(*given, _window(16, 16), torch.ones(2, 16))
    assert loss.item() == pytest.approx(difference.square().mean().item(), rel=0.05)
    assert local.item() == pytest.approx(difference.square().mean().item(), rel=0.05)


def test_attention_scores_of_different_head_counts_are_refused():
    with pytest.raises(ValueError, match="2 and 4 heads"):
        functional.attention_score_loss(
            *[torch.zeros(1, 2, 3, 4)] * 2, *[torch.zeros(1, 4, 3, 4)] * 2, torch.ones(1, 3)
        )
    with pytest.raises(ValueError, match="2 and 4 heads"):
        functional.local_attention_score_loss(
            *[torch.zeros(1, 2, 3, 4)] * 2, *[torch.zeros(1, 4, 3, 4)] * 2, _window(3, 1), torch.ones(1, 3)
        )


def _losses(mask: Tensor, seed: int = 0):
    """Each loss as a function of the one tensor that is trained, in float64 at the outside."""
    rows, length = mask.shape
    ids, other = torch.tensor([0, 3, 5]), torch.tensor([1, 3, 2])
    teacher = _random(3, 6, seed=seed + 9, scale=2)
    hidden, query, key = (
        _random(rows, length, 4, seed=5),
        _random(rows, 2, length, 3, seed=6),
        _random(rows, 2, length, 3),
    )
    target = functional.modified_logit_target(teacher, ids, other).double()
    near = _window(length, 1)
    return {
        "policy": (_random(3, 6), lambda x: functional.policy_loss(x, other, target)),
        "plausibility": (_random(3, 6), lambda x: functional.plausibility_loss(x, teacher)),
        "modified logit": (
            _random(rows, length),
            lambda x: functional.modified_logit_loss(x, hidden[..., 0].sigmoid(), mask),
        ),
        "hidden state": (_random(rows, length, 4), lambda x: functional.hidden_state_loss(x, hidden, mask)),
        "attention query": (query, lambda x: functional.attention_score_loss(x, key, key, query, mask)),
        "attention key": (key, lambda x: functional.attention_score_loss(query, x, key, query, mask)),
        "attention query, local": (
            query,
            lambda x: functional.local_attention_score_loss(x, key, key, query, near, mask),
        ),
        "attention key, local": (
            key,
            lambda x: functional.local_attention_score_loss(query, x, key, query, near, mask),
        ),
    }


@pytest.mark.parametrize("name", list(_losses(_padded())))
def test_gradients_agree_with_finite_differences(name):
    start, loss = _losses(_padded())[name]
    x = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = _random(*start.shape, seed=42)
    step = 1e-2  # the functions compute in float32: a central difference of this step has an error near 1e-4
    with torch.no_grad():
        slope = (loss(start + step * direction) - loss(start - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("name", [name for name in _losses(_padded()) if name not in ("policy", "plausibility")])
def test_padding_receives_no_gradient(name):
    mask = _padded()
    start, loss = _losses(mask)[name]
    x = start.clone().requires_grad_()
    loss(x).backward()
    per_position = x.grad.abs()
    if name.startswith("attention"):
        per_position = per_position.sum((1, 3))
    elif per_position.ndim == 3:
        per_position = per_position.sum(-1)
    assert (per_position[mask == 0] == 0).all()
    assert (per_position[mask == 1] > 0).all()


def test_appended_padding_changes_no_loss():
    mask, longer = torch.ones(2, 4), F.pad(torch.ones(2, 4), (0, 3))
    logits, target, hidden, states = (_random(2, 7, seed=1), _random(2, 7).sigmoid(), *_random(2, 2, 7, 4))
    q, k = _random(2, 3, 7, 5), _random(2, 3, 7, 5, seed=1)
    pairs = [
        (functional.modified_logit_loss, (logits, target), 1),
        (functional.hidden_state_loss, (hidden, states), 1),
        (functional.attention_score_loss, (q, k, k, q), 2),
    ]
    for loss, tensors, axis in pairs:
        short = [t.narrow(axis, 0, 4) for t in tensors]
        assert loss(*short, mask).item() == pytest.approx(loss(*tensors, longer).item(), rel=1e-6)


def test_micro_batches_over_the_whole_batch_s_counts_sum_to_the_undivided_loss():
    mask = _padded(4, 6)
    real, pairs = mask.sum(), mask.sum(-1).double().square().sum()
    logits, target = _random(4, 6), _random(4, 6, seed=1).sigmoid()
    q, k = _random(4, 2, 6, 3), _random(4, 2, 6, 3, seed=1)
    halves = [slice(0, 1), slice(1, 4)]
    whole = functional.modified_logit_loss(logits, target, mask)
    parts = sum(functional.modified_logit_loss(logits[h], target[h], mask[h], real) for h in halves)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    whole = functional.attention_score_loss(q, k, k, q, mask)
    parts = sum(functional.attention_score_loss(q[h], k[h], k[h], q[h], mask[h], pairs) for h in halves)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    near = _window(6, 1)
    whole = functional.local_attention_score_loss(q, k, k, q, near, mask)
    parts = sum(functional.local_attention_score_loss(q[h], k[h], k[h], q[h], near, mask[h], real) for h in halves)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    policy, ids = _random(5, 8), torch.arange(5)
    whole = functional.policy_loss(policy, ids, torch.ones(5))
    parts = functional.policy_loss(policy[:2], ids[:2], torch.ones(2), 5) + functional.policy_loss(
        policy[2:], ids[2:], torch.ones(3), 5
    )
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", LOGITS)
@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_everything_is_finite_for_extreme_logits(dtype, size):
    signs = torch.sign(_random(6, 9)).to(dtype)
    logits, other = signs * size, -signs * size
    ids, replaced = torch.arange(6), torch.arange(6) + 3
    trained = logits.clone().requires_grad_()
    target = functional.modified_logit_target(logits, ids, replaced)
    reward = functional.teacher_reward(other, ids, replaced) + functional.student_reward(target, logits[:, 0])
    loss = functional.policy_loss(trained, replaced, reward) + functional.plausibility_loss(trained, other)
    rows = trained[:, 0].view(2, 3)
    loss = loss + functional.modified_logit_loss(rows, target.view(2, 3), torch.ones(2, 3)) * 1e-30
    loss.backward()
    for value in (target, reward, loss, trained.grad, functional.policy_entropy(logits)):
        assert value.isfinite().all()


@pytest.mark.parametrize("dtype", LOGITS)
def test_nothing_masked_and_nothing_real_give_zero(dtype):
    logits, ids = torch.zeros(0, 7, dtype=dtype, requires_grad=True), torch.zeros(0, dtype=torch.long)
    target = functional.modified_logit_target(logits, ids, ids)
    reward = functional.teacher_reward(logits, ids, ids) + functional.student_reward(
        target, torch.zeros(0, dtype=dtype)
    )
    loss = functional.policy_loss(logits, ids, reward) + functional.plausibility_loss(logits, logits)
    loss.backward()
    assert loss.item() == 0
    assert target.shape == reward.shape == (0,)
    mask, rows = torch.zeros(2, 3), torch.ones(2, 3, 4, dtype=dtype)
    heads = torch.ones(2, 2, 3, 4, dtype=dtype)
    assert functional.modified_logit_loss(rows[..., 0], rows[..., 0], mask).item() == 0
    assert functional.hidden_state_loss(rows, 2 * rows, mask).item() == 0
    assert functional.attention_score_loss(heads, heads, 2 * heads, heads, mask).item() == 0
    assert functional.local_attention_score_loss(heads, heads, 2 * heads, heads, _window(3, 1), mask).item() == 0


def _loop_ahead(values, weight, positions, window):
    """The mean over each position's window, one by one."""
    length, means = values.shape[1], []
    for place in positions.tolist():
        row, first = divmod(place, length)
        counted = [
            float(values[row, s].detach()) for s in range(first + 1, min(first + 1 + window, length)) if weight[row, s]
        ]
        means.append(sum(counted) / len(counted) if counted else 0.0)
    return torch.tensor(means)


@pytest.mark.parametrize("window", [1, 3, 20])
def test_rewards_look_ahead_as_far_as_the_window_and_the_row_reach(window):
    generator = torch.Generator().manual_seed(0)
    before, after = (3 * torch.randn(3, 9, generator=generator) for _ in range(2))
    weight = torch.tensor([[1.0] * 9, [1.0] * 9, [1.0] * 5 + [0.0] * 4])
    positions = torch.tensor([1, 7, 8, 9, 14, 19, 22])  # the last of a row and of its real tokens among them
    clipped = (after - before).clamp(-1, 1)
    torch.testing.assert_close(
        functional.lookahead_teacher_reward(after, before, weight, positions, window),
        _loop_ahead(clipped, weight, positions, window),
    )
    distance = after.abs().requires_grad_()
    student = functional.lookahead_student_reward(distance, weight, positions, window)
    torch.testing.assert_close(student, _loop_ahead(distance, weight, positions, window))
    assert not student.requires_grad


def test_rewards_of_no_positions_are_none():
    nothing = torch.empty(0, dtype=torch.long)
    assert functional.lookahead_mean(torch.ones(2, 3), torch.ones(2, 3), nothing, 4).shape == (0,)


def test_log_probabilities_of_tokens_don_t_depend_on_how_many_are_taken_at_once(monkeypatch):
    logits, ids = torch.randn(70, 7, requires_grad=True), torch.arange(70) % 7
    expected = logits.double().log_softmax(-1)[torch.arange(70), ids].float()
    for at_once in (1, 16, 256):
        monkeypatch.setattr(functional, "_AT_ONCE", at_once)
        given = functional.token_log_probability(logits, ids)
        torch.testing.assert_close(given, expected)
        assert not given.requires_grad
