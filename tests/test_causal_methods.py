"""Methods for causal models, against plain loops and what must not matter."""

import copy
import weakref

import pytest
import tiny
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from tutorkd import functional
from tutorkd.errors import UserError
from tutorkd.methods import CAUSAL_METHODS, next_token
from tutorkd.methods.causal_kd import CausalKD, CausalKDSettings, own_text
from tutorkd.methods.causal_lm import CausalLM
from tutorkd.methods.causal_tutor_kd import CausalTutorKD, CausalTutorKDSettings
from tutorkd.objective import CAUSAL, MASKED, objective_of
from tutorkd.spacing import SpacedCollator
from tutorkd.students import build_student, initialise_from_teacher, kept_layers
from tutorkd.teacher import Teacher
from tutorkd.trainer import build_module

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "mistral"]
EVERYTHING = {
    **{"modified_logit_weight": 2.0, "hidden_state_weight": 0.5, "attention_score_weight": 0.5},
    **{"relation_weight": 3.0, "relation_heads": 4},
}


def _pair(family: str = "llama", seed: int = 0):
    teacher = Teacher(tiny.tiny_causal(family))
    torch.manual_seed(seed)
    student = build_student("half", teacher.config, head=CAUSAL)
    initialise_from_teacher(student, teacher)
    return student, teacher


def _module(method: str, family: str = "llama", **settings):
    student, teacher = _pair(family)
    chosen = CAUSAL_METHODS[method].settings(**settings)
    return build_module(CAUSAL_METHODS[method], student, teacher, chosen, tiny.causal_tokenizer()), teacher


def _batch(rows: int = 3, length: int = 24, padded: bool = False, share: float = 0.1, window: int = 4):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, tiny.CAUSAL_VOCABULARY, (rows, length), generator=generator).tolist()
    if padded:
        ids[0] = ids[0][: length - 7]
    collator = SpacedCollator(tiny.causal_tokenizer(), share, window, 0, tiny.CAUSAL_VOCABULARY)
    return collator([{"input_ids": row, "draw": draw} for draw, row in enumerate(ids)])


def _logits(model, batch) -> Tensor:
    """Plain transformers, (B, L, V) float64."""
    return model(input_ids=batch.input_ids, attention_mask=batch.mask).logits.double()


def _predicted(batch):
    """Row and place of every token that has one before it in its row."""
    lengths = batch.mask.sum(-1).tolist()
    return [(row, place) for row, length in enumerate(lengths) for place in range(1, length)]


def test_a_model_s_class_tells_its_objective():
    assert all(objective_of(tiny.tiny_causal(family)) is CAUSAL for family in FAMILIES)
    assert objective_of(tiny.masked_lm()) is MASKED
    assert objective_of(tiny.masked_lm().base_model) is MASKED


def test_a_causal_student_starts_from_layers_in_even_distances_with_both_ends():
    assert kept_layers(3, 7, CAUSAL) == [1, 4, 7]
    assert kept_layers(15, 30, CAUSAL) == [1, 3, 5, 7, 9, 11, 13, 15, 18, 20, 22, 24, 26, 28, 30]
    assert kept_layers(4, 4, CAUSAL) == [1, 2, 3, 4]
    student, teacher = _pair()
    for own, of_teacher in ((0, 0), (1, 3)):
        taken = teacher.body.layers[of_teacher].state_dict()
        assert all(torch.equal(v, taken[k]) for k, v in student.model.layers[own].state_dict().items())


def test_a_student_that_ties_its_head_keeps_the_teacher_s_embeddings_though_the_teacher_s_head_is_another_matrix(
    tmp_path,
):
    teacher = Teacher(tiny.tiny_causal("llama"))
    tiny.causal_config("llama", num_hidden_layers=4, tie_word_embeddings=True).save_pretrained(tmp_path)
    student = build_student(str(tmp_path), teacher.config, head=CAUSAL)
    made = initialise_from_teacher(student, teacher)
    assert made.tensors == made.total
    ids = torch.tensor([[5, 9, 7, 40]])
    with torch.no_grad():
        torch.testing.assert_close(student.model(ids).last_hidden_state, teacher(ids).last)


@pytest.mark.parametrize("padded", [False, True])
def test_causal_lm_is_the_mean_cross_entropy_of_the_next_tokens(padded, monkeypatch):
    monkeypatch.setattr(next_token, "AT_ONCE", 10)  # in several parts
    model, batch = tiny.tiny_causal(), _batch(padded=padded)
    log_q = _logits(model, batch).log_softmax(-1)
    losses = [-log_q[row, place - 1, batch.input_ids[row, place]] for row, place in _predicted(batch)]
    module = CausalLM(model)
    loss = module(batch).loss
    assert float(loss) == pytest.approx(float(sum(losses) / len(losses)), rel=1e-5)
    scores = module.score(batch)
    kept = scores[scores != -100]
    torch.testing.assert_close(kept, torch.stack(losses).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_kd_is_the_mean_divergence_over_the_next_tokens(padded):
    module, teacher = _module("kd", divergence="forward-kl")
    batch = _batch(padded=padded)
    p, log_q = _logits(teacher.model, batch).softmax(-1), _logits(module.student, batch).log_softmax(-1)
    terms = [(p[r, s - 1] * (p[r, s - 1].log() - log_q[r, s - 1])).sum() for r, s in _predicted(batch)]
    assert float(module(batch, teacher).loss) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-4)


def test_distilbert_s_recipe_adds_soft_targets_the_text_and_the_direction():
    module, teacher = _module("distilbert")
    batch = _batch(padded=True)
    z_t, z_s = _logits(teacher.model, batch), _logits(module.student, batch)
    soft = hard = 0.0
    for row, s in _predicted(batch):
        target = (z_t[row, s - 1] / 2).softmax(-1)
        soft -= 4 * float((target * (z_s[row, s - 1] / 2).log_softmax(-1)).sum())
        hard -= float(z_s[row, s - 1].log_softmax(-1)[batch.input_ids[row, s]])
    count = len(_predicted(batch))
    states = [
        model.model(input_ids=batch.input_ids, attention_mask=batch.mask).last_hidden_state.double()
        for model in (module.student, teacher.model)
    ]
    cosine = torch.nn.functional.cosine_similarity(*states, dim=-1)[batch.mask.bool()]
    output = module(batch, teacher)
    expected = 5 * soft / count + 2 * hard / count + float((1 - cosine).mean())
    assert float(output.loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_of_tutor_kd_is_what_the_formulas_say(padded):
    module, teacher = _module("tutor-kd", "llama", window=4, divergence="forward-kl", **EVERYTHING)
    with torch.no_grad():
        for parameter in module.tutor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # away from the teacher's head
    batch = _batch(padded=padded)
    torch.manual_seed(3)
    output = module(batch, teacher)
    torch.manual_seed(3)
    lesson = module.teach(batch, teacher)
    length = batch.input_ids.shape[1]
    tutored = batch._replace(input_ids=batch.with_tokens(lesson.action.replaced_ids))

    log_p_x = _logits(teacher.model, batch).log_softmax(-1)
    log_p, log_q = _logits(teacher.model, tutored).log_softmax(-1), _logits(module.student, tutored).log_softmax(-1)
    state = module.student.model(input_ids=tutored.input_ids, attention_mask=batch.mask).last_hidden_state
    features = teacher.body(input_ids=batch.input_ids, attention_mask=batch.mask).last_hidden_state
    lengths = batch.mask.sum(-1).tolist()
    kl = [(log_p[r, s - 1].exp() * (log_p[r, s - 1] - log_q[r, s - 1])).sum() for r, s in _predicted(batch)]
    rewards, modified, policy, plausibility = [], [], [], []
    for place, action in zip(batch.masked_positions.tolist(), lesson.action.replaced_ids.tolist(), strict=True):
        row, t = divmod(place, length)
        ahead = range(t + 1, min(t + 5, lengths[row]))
        tokens = {s: tutored.input_ids[row, s] for s in ahead}
        gains = [float(log_p[row, s - 1, x] - log_p_x[row, s - 1, x]) for s, x in tokens.items()]
        easy = sum(min(max(gain, -1.0), 1.0) for gain in gains) / len(gains)
        apart = sum(float((log_p[row, s - 1].exp() - log_q[row, s - 1].exp()).abs().sum()) / 2 for s in ahead)
        rewards.append((easy, apart / len(gains)))
        prior = log_p_x[row, t - 1]
        ratio = min(1.0, float((prior[action] - prior[batch.input_ids[row, t]]).exp()))
        answer = module.modified_logit_head(state[row, t]).double().sigmoid()
        modified.append(-ratio * answer.log() - (1 - ratio) * (1 - answer).log())
        drawable = torch.ones(tiny.CAUSAL_VOCABULARY, dtype=torch.bool)
        drawable[0] = False
        log_pi = module.tutor(features[row, t - 1][None]).double()[0].masked_fill(~drawable, -torch.inf).log_softmax(-1)
        log_prior = prior.masked_fill(~drawable, -torch.inf).log_softmax(-1)
        policy.append(log_pi[action])
        plausibility.append((log_prior.exp() * (log_prior - log_pi))[drawable].sum())
    k = len(rewards)
    for given, column in ((lesson.reward_teacher, 0), (lesson.reward_student, 1)):
        torch.testing.assert_close(given, torch.tensor([each[column] for each in rewards]), rtol=1e-3, atol=1e-5)
    total = [sum(each) for each in rewards]
    advantages = [each - (sum(total) - each) / (k - 1) for each in total]
    named = {
        "loss_divergence": sum(kl) / len(kl),
        "loss_modified_logit": sum(modified) / k,
        "loss_policy": -sum(a * b for a, b in zip(advantages, policy, strict=True)) / k,
        "loss_plausibility": sum(plausibility) / k,
    }
    for name, value in named.items():
        assert float(output.metrics[name]) == pytest.approx(float(value), rel=2e-3, abs=1e-5), name
    weights = {"loss_modified_logit": 2.0, "loss_hidden_state": 0.5, "loss_attention_score": 0.5, "loss_relation": 3.0}
    losses = {name: value for name, value in output.metrics.items() if name.startswith("loss_")}
    assert float(output.loss) == pytest.approx(sum(weights.get(n, 1.0) * float(v) for n, v in losses.items()), rel=1e-5)


def test_attention_scores_are_compared_where_a_causal_layer_attends_alone():
    module, teacher = _module("tutor-kd", window=4, tutor="none", **EVERYTHING)
    batch = _batch()
    lesson = module.teach(batch, teacher)
    total = 0.0
    for student, taught in zip(lesson.learned.attention, lesson.taught.attention, strict=True):
        a, b = (each.query.double() @ each.key.double().mT / each.query.shape[-1] ** 0.5 for each in (student, taught))
        for s in range(24):
            total += float((a - b)[:, :, s, : s + 1].square().mean(-1).sum()) / (3 * 24 * 4)
    value = float(module(batch, teacher).metrics["loss_attention_score"].detach())
    assert value == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replacement_moves_nothing_before_it(family):
    module, teacher = _module("tutor-kd", family, window=4, tutor="uniform")
    batch = _batch(rows=2)
    torch.manual_seed(0)
    lesson = module.eval().teach(batch, teacher)
    still = module.teach(batch._replace(position_weights=torch.zeros_like(batch.position_weights)), teacher)
    changed = (lesson.divergences - still.divergences).abs().view(2, 23) > 1e-6  # of the tokens 1 ... 23
    for row in range(2):
        places = batch.masked_positions[batch.masked_positions // 24 == row] % 24
        assert not changed[row, : places.min()].any()  # up to the replaced token, which is predicted from before it
        assert changed[row, places.min() :].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_every_family_is_trained_by_every_method(family, method):
    settings = {"window": 4, **EVERYTHING} if method == "tutor-kd" else {}
    if family == "gemma2" and settings:  # its attention can't be read
        settings |= {"attention_score_weight": 0.0, "relation_weight": 0.0}
    module, teacher = _module(method, family, **settings)
    before = copy.deepcopy(teacher.model.state_dict())
    output = module(_batch(padded=True), teacher)
    output.loss.backward()
    assert output.loss.isfinite()
    lacking = {"loss_attention_score", "loss_relation"} if family == "gemma2" else set()
    assert {figure.name for figure in CAUSAL_METHODS[method].figures} - lacking == output.metrics.keys()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())


@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_micro_batches_sum_to_the_undivided_batch(method):
    settings = {"window": 4, "tutor": "teacher", "sampling": "greedy", **EVERYTHING} if method == "tutor-kd" else {}
    module, teacher = _module(method, **settings)
    whole = _batch(rows=4, padded=True)
    module.eval()
    output = module(whole, teacher)
    output.loss.backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    for first, last in ((0, 1), (1, 4)):
        inside = (whole.masked_positions >= first * 24) & (whole.masked_positions < last * 24)
        part = whole._replace(
            input_ids=whole.input_ids[first:last],
            corrupted_ids=whole.input_ids[first:last],
            masked_positions=whole.masked_positions[inside] - first * 24,
            position_weights=whole.position_weights[inside],
            attention_mask=whole.attention_mask[first:last],
        )
        module(part, teacher).loss.backward()
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tutor", ["learned", "teacher", "uniform", "none"])
def test_a_batch_without_positions_for_the_tutor_is_learned_from_all_the_same(tutor):
    module, teacher = _module("tutor-kd", window=4, tutor=tutor, **EVERYTHING)
    output = module(_batch(share=0.0), teacher)
    output.loss.backward()
    assert output.loss.isfinite()
    assert float(output.metrics["loss_divergence"]) > 0
    assert float(output.metrics["reward_teacher"]) == 0


def test_without_a_tutor_the_student_reads_the_text_and_the_teacher_reads_once(monkeypatch):
    module, teacher = _module("tutor-kd", window=4, tutor="none")
    batch, calls = _batch(), []
    plain = teacher.body.forward
    monkeypatch.setattr(teacher.body, "forward", lambda *a, **k: calls.append(1) or plain(*a, **k))
    alone, _ = _module("kd", divergence="skew-kl")
    expected = alone.eval()(batch, teacher).loss
    calls.clear()
    output = module.eval()(batch, teacher)
    assert len(calls) == 1
    torch.testing.assert_close(output.loss, expected)
    assert float(output.metrics["reward_teacher"]) == 0


def test_special_tokens_are_never_drawn():
    module, teacher = _module("tutor-kd", window=4, tutor="uniform")
    drawn = torch.cat([module.teach(_batch(rows=8), teacher).action.replaced_ids for _ in range(60)])
    assert 0 not in drawn
    assert len(drawn.unique()) > 250


def test_attention_that_can_t_be_read_is_refused_where_it_is_asked_for(monkeypatch):
    def refuse(model):  # as transformers does for Gemma 2, from some version on
        raise ValueError("no attention implementation")

    monkeypatch.setattr("tutorkd.capture.take_attention", refuse)
    _module("tutor-kd", "llama")
    with pytest.raises(UserError, match="LlamaModel, whose attention doesn't go through"):
        _module("tutor-kd", "llama", attention_score_weight=0.5)


@pytest.mark.parametrize("method", ["tutor-kd", "kd", "clm"])
def test_no_more_than_two_tensors_over_positions_and_vocabulary_are_there(method, monkeypatch):
    monkeypatch.setattr(next_token, "AT_ONCE", 16)
    monkeypatch.setattr(functional, "_AT_ONCE", 8)
    module, teacher = _module(method, **({"window": 4} if method == "tutor-kd" else {}))
    batch = _batch(rows=48)
    large = 48 * 23 * tiny.CAUSAL_VOCABULARY

    class Watch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.living: dict[int, int] = {}
            self.most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for each in result if isinstance(result, tuple | list) else [result]:
                if isinstance(each, Tensor) and each.ndim > 1 and each.shape[-1] == tiny.CAUSAL_VOCABULARY:
                    storage = each.untyped_storage()  # of a whole or of a part, which add up
                    if storage._cdata not in self.living:
                        self.living[storage._cdata] = storage.nbytes()
                        weakref.finalize(storage, self.living.pop, storage._cdata, None)
            self.most = max(self.most, sum(self.living.values()))
            return result

    with Watch() as watch:
        module(batch, teacher).loss.backward()
    parts = 15 * 16 * tiny.CAUSAL_VOCABULARY * 4  # what is at work on one part
    of_the_tutor = 10 * len(batch.masked_positions) * tiny.CAUSAL_VOCABULARY * 4
    assert large * 4 < watch.most <= 2 * large * 4 + parts + (of_the_tutor if method == "tutor-kd" else 0)


def test_own_text_keeps_the_first_half_of_a_row_and_no_padded_row_is_touched():
    module, _ = _module("kd", on_policy_share=1.0)
    batch = _batch(padded=True)
    torch.manual_seed(0)
    written = own_text(module.train(), batch)
    assert torch.equal(written.input_ids[0], batch.input_ids[0])
    assert torch.equal(written.input_ids[1:, :12], batch.input_ids[1:, :12])
    assert (written.input_ids[1:, 12:] != batch.input_ids[1:, 12:]).float().mean() > 0.9
    assert module.student.training
    torch.manual_seed(0)
    assert torch.equal(own_text(module, batch).input_ids, written.input_ids)
    assert written.num_items is batch.num_items


def test_own_text_is_drawn_from_the_student_s_distribution():
    student = tiny.tiny_causal()
    module = CausalKD(student, Teacher(tiny.tiny_causal(seed=1)), CausalKDSettings(on_policy_share=1.0))
    row = _batch(rows=1, length=4).input_ids
    batch = _batch(rows=1, length=4)._replace(input_ids=row.repeat(4000, 1), attention_mask=None)
    torch.manual_seed(0)
    third = own_text(module, batch).input_ids[:, 2]
    probability = student(row[:, :2]).logits[0, -1].softmax(-1)
    share = torch.bincount(third, minlength=tiny.CAUSAL_VOCABULARY) / 4000
    assert (share - probability).abs().max() < 5 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize(
    "told",
    [{"max_new_tokens": 3}, {"min_p": 0.5}, {"num_beams": 2}, {"suppress_tokens": [*range(1, 300)]}],
    ids=lambda told: next(iter(told)),
)
def test_what_a_checkpoint_says_of_generation_changes_nothing_of_a_student_s_own_text(told):
    module, _ = _module("kd", on_policy_share=1.0)
    torch.manual_seed(0)
    plain = own_text(module, _batch()).input_ids
    settings = module.student.generation_config
    settings.update(**told)
    torch.manual_seed(0)
    assert torch.equal(own_text(module, _batch()).input_ids, plain)
    assert module.student.generation_config is settings


def test_a_share_of_the_rows_is_the_student_s_own():
    module, _ = _module("kd", on_policy_share=0.3)
    batch = _batch(rows=64, length=8, share=0.0)
    torch.manual_seed(0)
    share = (own_text(module, batch).input_ids != batch.input_ids).any(-1).float().mean()
    assert 0.1 < share < 0.5
    module, _ = _module("kd")
    assert own_text(module, batch) is batch


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("kd", {"skew": 1.0}, "--skew must be from 0 to below 1"),
        ("kd", {"on_policy_share": 1.5}, "--on_policy_share must be from 0 to 1"),
        ("tutor-kd", {"window": 0}, "--window must be 1 or more"),
        ("tutor-kd", {"replaced_share": 0.2}, "at most 1 / .window . 1. = 0.111"),
        ("tutor-kd", {"replaced_share": 0.0}, "--replaced_share must be above 0"),
        ("tutor-kd", {"top_k": 1000}, "top_k can't be 1000"),
        ("distilbert", {"temperature": 0.0}, "--temperature must be above 0"),
    ],
)
def test_constants_out_of_range_are_refused(method, settings, message):
    with pytest.raises(UserError, match=message):
        _module(method, **settings)


def test_a_student_of_another_vocabulary_is_refused():
    teacher = Teacher(tiny.tiny_causal())
    for size, message in ((40, "tokens and the student 40"), (2000, "must share a vocabulary")):
        other = build_student("half", teacher.config, {"vocab_size": size}, head=CAUSAL)
        for method in ("kd", "tutor-kd", "distilbert"):
            with pytest.raises(UserError, match=message):
                build_module(
                    CAUSAL_METHODS[method], other, teacher, CAUSAL_METHODS[method].settings(), tiny.causal_tokenizer()
                )


def test_heads_that_differ_are_refused_where_scores_are_compared():
    teacher = Teacher(tiny.tiny_causal())
    student = build_student("half", teacher.config, {"num_attention_heads": 2}, head=CAUSAL)
    CausalTutorKD(student, teacher, [0], CausalTutorKDSettings())
    with pytest.raises(UserError, match="attention scores of 2 student heads and 4 teacher heads"):
        CausalTutorKD(student, teacher, [0], CausalTutorKDSettings(attention_score_weight=0.5))


@pytest.mark.parametrize("weight", ["hidden_state_weight", "attention_score_weight", "relation_weight"])
def test_a_student_deeper_than_its_teacher_is_refused_where_layers_are_compared(weight):
    teacher, student = Teacher(tiny.tiny_causal()), tiny.tiny_causal(num_hidden_layers=6)
    CausalTutorKD(student, teacher, [0], CausalTutorKDSettings())
    with pytest.raises(UserError, match="a student of 6 can't be matched to the 4 of its teacher"):
        CausalTutorKD(student, teacher, [0], CausalTutorKDSettings(relation_heads=4, **{weight: 1.0}))


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (2, 2), (8, 2), (6, 2), (3, None), (1, 1)])
def test_a_student_of_other_heads_shares_keys_as_the_teacher_does(heads, groups):
    sizes = {"num_attention_heads": heads, "hidden_size": 24 * heads // 2 if heads > 1 else 12}
    config = tiny.causal_config("llama")
    if groups is None:
        with pytest.raises(UserError, match="can't share the keys of 2"):
            build_student("half", config, sizes, head=CAUSAL)
        return
    student = build_student("half", config, sizes, head=CAUSAL)
    assert student.config.num_key_value_heads == groups
    assert student.config.head_dim == 12
    assert student(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, tiny.CAUSAL_VOCABULARY)


def test_a_hidden_size_needs_to_be_a_multiple_of_the_heads_only_where_it_gives_their_size(tmp_path):
    apart = tiny.causal_config("qwen3", hidden_size=36, num_attention_heads=8)  # heads of 8 dimensions
    student = build_student("half", apart, head=CAUSAL)
    assert student(torch.tensor([[5, 6]])).logits.shape == (1, 2, tiny.CAUSAL_VOCABULARY)
    with pytest.raises(UserError, match="the student's hidden size 36 isn't a multiple of its 8 heads"):
        build_student("half", tiny.causal_config("qwen3"), {"hidden_size": 36, "num_attention_heads": 8}, head=CAUSAL)


def test_a_configuration_of_one_s_own_keeps_the_size_of_its_heads_whatever_the_teacher_s(tmp_path):
    tiny.causal_config("qwen3", head_dim=16).save_pretrained(tmp_path)  # four heads of 16 on a hidden size of 32
    teacher = tiny.causal_config("llama")
    assert build_student(str(tmp_path), teacher, head=CAUSAL).config.head_dim == 16
    changed = build_student(str(tmp_path), teacher, {"num_attention_heads": 6, "hidden_size": 36}, head=CAUSAL).config
    assert (changed.head_dim, changed.num_key_value_heads) == (16, 2)


@pytest.fixture
def _nothing_compiled_yet():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_nothing_compiled_yet")
@pytest.mark.parametrize(
    ("method", "family"), [*((method, "llama") for method in CAUSAL_METHODS), ("tutor-kd", "gpt2"), ("kd", "mistral")]
)
def test_a_step_is_one_graph_that_computes_the_same(method, family):
    module, teacher = _module(method, family, **({"window": 4, **EVERYTHING} if method == "tutor-kd" else {}))
    module.train()
    batch, counter = _batch(), CompileCounterWithBackend("eager")
    gradients, losses = [], []
    for step in (module, torch.compile(module, fullgraph=True, dynamic=False, backend=counter)):
        torch.manual_seed(1)
        module.zero_grad()
        loss = step(batch, teacher).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in module.named_parameters()})
    assert counter.frame_count == 1
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_nothing_compiled_yet")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attention_of_rows_without_padding_is_told_to_be_causal_where_it_is_compiled(family):
    module, teacher = _module("kd", family)
    told = []

    def backend(graph, _):
        calls = [node for node in graph.graph.nodes if "scaled_dot_product_attention" in str(node.target)]
        told.extend((node.kwargs["attn_mask"], node.kwargs["is_causal"]) for node in calls)
        return graph

    torch.compile(module, dynamic=False, backend=backend)(_batch(), teacher)
    # With a mask in its place, which says the same, a GPU couldn't run its fastest kernel.
    assert told == [(None, True)] * 6
