"""The formulas of Tutor-KD, as pure functions on tensors.

Source: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with
Tutor Network", EMNLP 2022, section 3 (doi 10.18653/v1/2022.emnlp-main.498).

Shapes: k masked positions, V vocabulary, B rows, L tokens a row, H attention heads, a and b head dimensions of
student and teacher, d hidden size. ``attention_mask`` is 1 on real tokens and 0 on padding.

Every function computes in float32 whatever it is given (bfloat16 included, also under autocast) and is finite for
any finite logits. A mean over nothing (k = 0, no real token) is 0.

A loss is the mean over its own items: masked positions, real positions, or real (query, key) pairs. Where a batch
is split into micro-batches, pass ``num_items``, the count over the whole batch: the micro-batches' losses then sum
to the loss of the undivided batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Count = Tensor | float | None

# Bounds a term that leaves float32's range, so that sums stay finite; far beyond any logit that training meets.
_BOUND = 1e30
_AT_ONCE = 256  # positions whose distributions over the vocabulary are there at once, where none is kept


def mean_over(total: Tensor, items: Tensor | float, num_items: Count) -> Tensor:
    """``total`` over ``num_items`` (by default over the ``items`` at hand); 0 over 0 is 0.

    Example:
        >>> mean_over(torch.tensor(6.0), 3, None), mean_over(torch.tensor(6.0), 3, num_items=12)
        (tensor(2.), tensor(0.5000))
    """
    count = items if num_items is None else num_items
    # A number stays one: made into a tensor, it would be copied to the GPU, and waited for.
    return total / (count.to(total).clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """``values`` (k,) times the ``weight`` of each; 1 by default."""
    return values if weight is None else values * weight


def _without_autocast(tensor: Tensor) -> torch.autocast:
    """Products of float32 tensors stay in float32: autocast would round their factors to 16 bits."""
    return torch.autocast(tensor.device.type, enabled=False)


def _softmax_and_normaliser(logits: Tensor) -> tuple[Tensor, Tensor]:
    """softmax and log sum exp of each row, (k, V) float32 -> (k, V), (k,), in one pass over the vocabulary.

    ``torch.logsumexp`` stores logits minus maximum and their exponentials. The fused softmax gives the same: at the
    row's maximum, log sum exp = logit - log probability, and that probability is at least 1/V.
    """
    probability = logits.softmax(-1)
    return probability, logits.amax(-1) - probability.amax(-1).log()


class _LogNormaliser(torch.autograd.Function):
    """log sum exp of each row, (k, V) -> (k,), in one pass over the vocabulary each way."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:
        probability, normaliser = _softmax_and_normaliser(logits)
        ctx.save_for_backward(probability)
        return normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (probability,) = ctx.saved_tensors
        return probability * gradient.unsqueeze(-1)


def _log_normaliser(logits: Tensor) -> Tensor:
    return _LogNormaliser.apply(logits.float())


class _TokenLogProb(torch.autograd.Function):
    """log softmax of each row at one token, (k, V), (k,) -> (k,), with one (k, V) tensor each way."""

    @staticmethod
    def forward(ctx, logits: Tensor, token_ids: Tensor) -> Tensor:
        probability, normaliser = _softmax_and_normaliser(logits)
        chosen = token_ids.unsqueeze(-1)
        ctx.save_for_backward(probability, chosen)
        return logits.gather(-1, chosen).squeeze(-1) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        probability, chosen = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        of_all = probability * -gradient
        if torch.compiler.is_compiling():  # then the comparison is part of the pass that writes the gradient
            tokens = torch.arange(probability.shape[-1], device=probability.device)
            return torch.where(tokens == chosen, of_all + gradient, of_all), None
        return of_all.scatter_add_(-1, chosen, gradient), None


def _token_log_prob(logits: Tensor, token_ids: Tensor) -> Tensor:
    """log softmax(logits) at ``token_ids``, (k, V), (k,) -> (k,)."""
    return _TokenLogProb.apply(logits.float(), token_ids).clamp(min=-_BOUND)


def modified_logit_target(teacher_logits: Tensor, original_ids: Tensor, replaced_ids: Tensor) -> Tensor:
    """Teacher's modified logit a^T = min(1, P_T(x' | X^M) / P_T(x | X^M)) (logit modification).

    The ratio is taken in log space, where the softmax's normaliser cancels: it can't overflow and is exactly 1 where
    the replacement equals the original.

    Args:
        teacher_logits: (k, V), the teacher's MLM logits reading the masked row X^M, at the masked positions.
        original_ids: (k,), the tokens x of the text.
        replaced_ids: (k,), the tokens x' that the tutor put there.

    Returns:
        (k,) float32 in [0, 1].

    Example:
        >>> logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
        >>> modified_logit_target(logits, original_ids=torch.tensor([1]), replaced_ids=torch.tensor([2]))
        tensor([0.5000])
    """
    original = teacher_logits.gather(-1, original_ids.unsqueeze(-1)).squeeze(-1).float()
    replaced = teacher_logits.gather(-1, replaced_ids.unsqueeze(-1)).squeeze(-1).float()
    return (replaced - original).clamp(max=0).exp()


def teacher_reward(teacher_logits: Tensor, original_ids: Tensor, replaced_ids: Tensor) -> Tensor:
    """Reward from the teacher R_T = P_T(x | X') - P_T(x' | X').

    It is negative where the teacher, reading the tutor's row X', prefers the replacement: there its knowledge is wrong.

    Args:
        teacher_logits: (k, V), the teacher's MLM logits reading X', at the masked positions.
        original_ids: (k,), the tokens x of the text.
        replaced_ids: (k,), the tokens x' of the row that the teacher reads.

    Returns:
        (k,) float32 in [-1, 1].

    Example:
        >>> logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
        >>> teacher_reward(logits, original_ids=torch.tensor([1]), replaced_ids=torch.tensor([2]))
        tensor([0.3000])
    """
    normaliser = _log_normaliser(teacher_logits).unsqueeze(-1)
    pair = torch.stack([original_ids, replaced_ids], dim=-1)
    probability = (teacher_logits.gather(-1, pair).float() - normaliser).exp()
    return probability[:, 0] - probability[:, 1]


def student_reward(target: Tensor, student_logits: Tensor) -> Tensor:
    """Reward from the student R_S = ``|a^T - sigmoid(student_logits)|``, its distillation error; carries no gradient.

    Args:
        target: (k,), the teacher's modified logit a^T.
        student_logits: (k,), the student's modified logit before the sigmoid.

    Returns:
        (k,) float32 in [0, 1].

    Example:
        >>> student_reward(target=torch.tensor([1.0]), student_logits=torch.tensor([0.0]))
        tensor([0.5000])
    """
    return (target.float() - student_logits.detach().float().sigmoid()).abs()


def shared_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the token ids that both models have, so that distributions over them can be compared.

    Models of one tokenizer may have different numbers of spare ids behind its tokens, which no text holds.

    Args:
        student_logits, teacher_logits: (k, V) and (k, V').

    Returns:
        Views of both, (k, min(V, V')).
    """
    size = min(student_logits.shape[-1], teacher_logits.shape[-1])
    return student_logits[..., :size], teacher_logits[..., :size]


def mlm_student_reward(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """R_S if the student learns the teacher's MLM distribution instead of the modified logit (the paper's ablation).

    The paper doesn't define it for that target. Here it is the total variation distance between the two distributions,
    ``1/2 sum |P_T(. | X') - P_S(. | X')|``: a distillation error from 0 to 1, as ``|a^T - a^S|`` is. It carries no
    gradient.

    Args:
        teacher_logits, student_logits: (k, V), MLM logits reading X', at the masked positions; one may have spare ids
            more, which don't count.

    Returns:
        (k,) float32 in [0, 1].

    Example:
        >>> mlm_student_reward(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log())
        tensor([0.3000])
    """
    student, teacher = shared_vocabulary(student_logits.detach(), teacher_logits.detach())
    difference = teacher.float().softmax(-1) - student.float().softmax(-1)
    return difference.abs().sum(-1) / 2


def advantage(reward: Tensor, weight: Tensor | None = None) -> Tensor:
    """Each reward minus the mean of all others: REINFORCE with a leave-one-out baseline; carries no gradient.

    A baseline that doesn't depend on an action leaves the policy gradient's mean as it is and cuts its variance
    (Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", ICLR 2019 workshop). Here the other positions'
    rewards do depend on it a little, where they share a row. The paper has no baseline.

    Args:
        reward: (k,).
        weight: (k,), 1, or 0 for a position that doesn't count among the others; 1 by default.

    Returns:
        (k,) float32; as given where k is 1.

    Example:
        >>> advantage(torch.tensor([1.0, 2.0, 3.0]))
        tensor([-1.5000,  0.0000,  1.5000])
    """
    reward = reward.detach().float()
    weight = torch.ones_like(reward) if weight is None else weight
    others = (weight.sum() - 1).clamp(min=1)
    return reward - ((reward * weight).sum() - reward) / others


def policy_loss(policy_logits: Tensor, replaced_ids: Tensor, reward: Tensor, num_items: Count = None) -> Tensor:
    """REINFORCE loss of the tutor L_pol = -(1/k) sum log pi(x' | X^M) (R_T + R_S).

    Args:
        policy_logits: (k, V), the tutor's logits.
        replaced_ids: (k,), the sampled actions x'.
        reward: (k,), what each action earned; no gradient flows through it.
        num_items: masked positions in the whole batch; k by default.

    Returns:
        () float32.

    Example:
        >>> policy_loss(torch.zeros(1, 2), replaced_ids=torch.tensor([0]), reward=torch.tensor([1.0]))  # log 2
        tensor(0.6931)
    """
    log_policy = _token_log_prob(policy_logits, replaced_ids)
    return mean_over(-(log_policy * reward.detach().float()).sum(), len(replaced_ids), num_items)


def plausibility_loss(
    policy_logits: Tensor, teacher_logits: Tensor, num_items: Count = None, weight: Tensor | None = None
) -> Tensor:
    """KL divergence of the tutor from the teacher L_kl = (1/k) sum KL(P_T(. | X^M) || pi(. | X^M)).

    Keeps the tutor's tokens plausible. No gradient flows to the teacher.

    Args:
        policy_logits: (k, V), the tutor's logits.
        teacher_logits: (k, V), the teacher's MLM logits reading X^M.
        num_items: masked positions in the whole batch; k by default.
        weight: (k,), of each position in the sum; 1 by default.

    Returns:
        () float32.

    Example:
        >>> plausibility_loss(torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]).log())  # 0.8 log 1.6 + 0.2 log 0.4
        tensor(0.1927)
    """
    # KL = sum P (log P - log pi) with log P = t - lse(t), log pi = p - lse(p) and sum P = 1: two dot products, so that
    # neither (k, V) logarithm is stored.
    policy, teacher = policy_logits.float(), teacher_logits.detach().float()
    probability, normaliser = _softmax_and_normaliser(teacher)
    with _without_autocast(policy):
        negative_entropy = torch.linalg.vecdot(probability, teacher) - normaliser
        cross_entropy = _log_normaliser(policy) - torch.linalg.vecdot(probability, policy)
    divergence = (negative_entropy + cross_entropy).clamp(max=_BOUND)
    return mean_over(weighted(divergence, weight).sum(), len(policy_logits), num_items)


def policy_entropy(policy_logits: Tensor) -> Tensor:
    """Entropy of the tutor's distribution in nats, (k, V) -> (k,) float32; carries no gradient.

    Example:
        >>> policy_entropy(torch.zeros(1, 4))  # log 4
        tensor([1.3863])
    """
    logits = policy_logits.detach().float()
    probability, normaliser = _softmax_and_normaliser(logits)
    with _without_autocast(logits):
        return normaliser - torch.linalg.vecdot(probability, logits)


def modified_logit_loss(
    student_logits: Tensor, target: Tensor, attention_mask: Tensor, num_items: Count = None
) -> Tensor:
    """L_mod, the mean over real positions of BCE(sigmoid(student_logits), a^T).

    Args:
        student_logits: (B, L), the student's modified logit before the sigmoid.
        target: (B, L), a^T: 1 where the token is the original.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.

    Returns:
        () float32.

    Example:
        >>> modified_logit_loss(torch.zeros(1, 2), target=torch.ones(1, 2), attention_mask=torch.ones(1, 2))  # log 2
        tensor(0.6931)
    """
    mask = attention_mask.float()
    loss = F.binary_cross_entropy_with_logits(student_logits.float(), target.float(), reduction="none")
    return mean_over(loss * mask, mask.sum(), num_items).sum()


def lookahead_mean(values: Tensor, weight: Tensor, positions: Tensor, window: int) -> Tensor:
    """The mean of the values of the tokens after each position, up to the end of a window or of the row.

    Args:
        values: (B, L), about each token.
        weight: (B, L), 1 where a value counts, else 0.
        positions: (k,), flat indices into (B * L), of t.
        window: w; the mean is over t + 1 to t + w.

    Returns:
        (k,) float32; 0 where nothing counts.

    Example:
        >>> lookahead_mean(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 4), torch.tensor([0]), window=2)
        tensor([2.5000])
    """
    length = values.shape[1]
    first = positions // length * (length + window) + positions % length + 1
    behind = first.unsqueeze(-1) + torch.arange(window, device=positions.device)
    both = torch.stack([values.float() * weight, weight.float()])
    total, items = F.pad(both, (0, window)).flatten(1)[:, behind].sum(-1)
    return total / items.clamp(min=1)


def lookahead_teacher_reward(
    log_probability: Tensor, original_log_probability: Tensor, weight: Tensor, positions: Tensor, window: int
) -> Tensor:
    """Reward from a causal teacher: how much easier the text after t becomes for it with the tutor's token.

    R_T,t = mean over s = t+1 ... t+w of clip(log p_T(x_s | x'_<s) - log p_T(x_s | x_<s), -1, 1). A causal model's
    distribution at t doesn't depend on the token there, so the effect of a replacement only shows after it.

    Args:
        log_probability: (B, L), log p_T of each token of the text where the teacher reads the tutor's row X'.
        original_log_probability: (B, L), where it reads the text X.
        weight, positions, window: as for ``lookahead_mean``.

    Returns:
        (k,) float32 in [-1, 1].

    Example:
        >>> on_lesson, on_text = torch.tensor([[0.0, -1.0, -3.0]]), torch.tensor([[0.0, -2.0, -2.5]])
        >>> lookahead_teacher_reward(on_lesson, on_text, torch.ones(1, 3), torch.tensor([0]), window=2)
        tensor([0.2500])
    """
    difference = (log_probability.float() - original_log_probability.float()).clamp(-1, 1)
    return lookahead_mean(difference, weight, positions, window)


def lookahead_student_reward(distance: Tensor, weight: Tensor, positions: Tensor, window: int) -> Tensor:
    """Reward from a causal student: how far it is from the teacher after t when both read the tutor's row.

    R_S,t = mean over s = t+1 ... t+w of TV(p, q)_s, the total variation distance ``sum |p - q| / 2``.

    Args:
        distance: (B, L), TV of the distributions of each token (``tutorkd.divergence``).
        weight, positions, window: as for ``lookahead_mean``.

    Returns:
        (k,) float32 in [0, 1].

    Example:
        >>> lookahead_student_reward(torch.tensor([[0.2, 0.4, 0.6]]), torch.ones(1, 3), torch.tensor([0]), window=2)
        tensor([0.5000])
    """
    return lookahead_mean(distance.detach(), weight, positions, window)


def token_log_probability(logits: Tensor, token_ids: Tensor) -> Tensor:
    """log softmax(logits) at ``token_ids``, (n, V), (n,) -> (n,) float32; carries no gradient.

    Computed for some positions at a time, so that no second (n, V) tensor is needed.

    Example:
        >>> token_log_probability(torch.zeros(1, 4), torch.tensor([2]))  # -log 4
        tensor([-1.3863])
    """
    parts = zip(logits.detach().split(_AT_ONCE), token_ids.split(_AT_ONCE), strict=True)
    return torch.cat([_token_log_prob(part, ids) for part, ids in parts])


def hidden_state_loss(student: Tensor, teacher: Tensor, attention_mask: Tensor, num_items: Count = None) -> Tensor:
    """One layer of L_hid: mean squared difference of hidden states, over real positions and dimensions.

    Args:
        student: (B, L, d), the student's hidden states, projected to the teacher's size.
        teacher: (B, L, d), the hidden states of the teacher's matching layer.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.

    Returns:
        () float32.

    Example:
        >>> hidden_state_loss(torch.zeros(1, 2, 8), torch.ones(1, 2, 8), attention_mask=torch.ones(1, 2))
        tensor(1.)
    """
    mask = attention_mask.float()
    difference = (student.float() - teacher.float()) * mask.unsqueeze(-1)
    return mean_over(difference.square().sum() / student.shape[-1], mask.sum(), num_items)


def attention_score_loss(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    attention_mask: Tensor,
    num_items: Count = None,
) -> Tensor:
    """One layer of L_att where all positions attend each other: mean squared difference of attention scores.

    A score is Q K^T / sqrt(head dimension).

    Scores are those before masking and softmax; the mean is over heads and real (query, key) pairs. Stacking along the
    head dimension Q = [Q_s/sqrt(a), Q_t/sqrt(b)] and K = [K_s, -K_t] gives Q K^T = A_s - A_t in one product, which
    bfloat16 may round: it sums in float32, and what it rounds is the difference, not its two terms. Rows longer than
    2(a+b) take fewer operations in another order: the sum of squares is sum((Q^T Q) * (K^T K)), products of size
    (a+b)^2 in place of L^2. These need float32, since their sum is a small difference of large terms.

    Args:
        student_query, student_key: (B, H, L, a).
        teacher_query, teacher_key: (B, H, L, b); no gradient flows to them.
        attention_mask: (B, L).
        num_items: real (query, key) pairs in the whole batch; the sum of squared row lengths by default.

    Returns:
        () float32.

    Raises:
        ValueError: if student and teacher have different numbers of heads.

    Example:
        >>> query, key, one = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1)
        >>> attention_score_loss(query, key, one, one, attention_mask=torch.ones(1, 1))  # (2 x 3 - 1 x 1)^2
        tensor(25.)
    """
    vectors = student_query, student_key, teacher_query.detach(), teacher_key.detach()
    length, head_dimensions = student_query.shape[2], student_query.shape[3] + teacher_query.shape[3]
    direct = length <= 2 * head_dimensions
    low = direct and all(each.dtype == torch.bfloat16 for each in vectors)
    with _without_autocast(student_query):
        real = attention_mask[:, None, :, None].to(torch.bfloat16 if low else torch.float32)
        if direct:
            total = _SquaredDifference.apply(*vectors, real)
        else:
            query, key = (each * real for each in _difference(*vectors, torch.float32))
            total = ((query.mT @ query) * (key.mT @ key)).sum()
        pairs = attention_mask.float().sum(-1).square().sum()
        return mean_over(total / student_query.shape[1], pairs, num_items)


def local_attention_score_loss(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    window: Tensor,
    attention_mask: Tensor,
    num_items: Count = None,
) -> Tensor:
    """One layer of L_att with a sliding window: only pairs that are attended count.

    It takes the mean over the keys in the window of each position, and then the mean over heads and real positions. So
    its items are positions, whose number doesn't depend on the window. Without a window, and for rows of one length, it
    equals ``attention_score_loss``. The score matrices are formed.

    Args:
        student_query, student_key: (B, H, L, a).
        teacher_query, teacher_key: (B, H, L, b).
        window: broadcasts to (B, 1, L, L), bool, True where the query attends the key in both models.
        attention_mask: (B, L).
        num_items: real positions in the whole batch; those of ``attention_mask`` by default.

    Returns:
        () float32.

    Raises:
        ValueError: if student and teacher have different numbers of heads.

    Example:
        >>> query, key, one = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1)
        >>> local_attention_score_loss(query, key, one, one, one.bool(), attention_mask=torch.ones(1, 1))
        tensor(25.)
    """
    real = attention_mask.bool()
    pairs = window & real[:, None, :, None] & real[:, None, None, :]
    weight = pairs / pairs.sum(-1, keepdim=True).clamp(min=1)
    with _without_autocast(student_query):
        query, key = _difference(student_query, student_key, teacher_query, teacher_key, torch.float32)
        difference = (query @ key.mT).masked_fill(~pairs, 0)
        total = (difference.square() * weight).sum()
    return mean_over(total / query.shape[1], real.sum(), num_items)


class _SquaredDifference(torch.autograd.Function):
    """sum (A_s - A_t)^2 over real pairs; the gradient is computed for the student's half of Q and K alone.

    ``real`` is (B, 1, L, 1), 1 on real tokens, in the number format of the products.
    """

    @staticmethod
    def forward(
        ctx, student_query: Tensor, student_key: Tensor, teacher_query: Tensor, teacher_key: Tensor, real: Tensor
    ) -> Tensor:
        vectors = student_query, student_key, teacher_query, teacher_key
        query, key = (each * real for each in _difference(*vectors, real.dtype))
        difference = query @ key.mT
        ctx.save_for_backward(query, key, difference)
        ctx.size, ctx.dtypes = student_query.shape[-1], (student_query.dtype, student_key.dtype)
        return difference.float().square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, difference = ctx.saved_tensors
        of_scores = (difference.float() * (2 * gradient)).to(difference.dtype)
        of_query = (of_scores @ key[..., : ctx.size]) * ctx.size**-0.5
        of_key = of_scores.mT @ query[..., : ctx.size]  # which is scaled already
        return of_query.to(ctx.dtypes[0]), of_key.to(ctx.dtypes[1]), None, None, None


def _difference(
    student_query: Tensor, student_key: Tensor, teacher_query: Tensor, teacher_key: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Q and K, (B, H, L, a + b) of a number format, of which Q K^T = A_s - A_t."""
    heads = student_query.shape[1]
    if heads != teacher_query.shape[1]:
        raise ValueError(f"attention scores of {heads} and {teacher_query.shape[1]} heads can't be compared")
    query = [(each.float() * each.shape[-1] ** -0.5).to(dtype) for each in (student_query, teacher_query)]
    return torch.cat(query, dim=-1), torch.cat([student_key.to(dtype), -teacher_key.to(dtype)], dim=-1)
