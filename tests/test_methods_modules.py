"""The rivals' training steps: what they read, log, train, refuse and keep."""

import copy
import dataclasses
import weakref

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from tutorkd import capture
from tutorkd.batch import Batch
from tutorkd.errors import UserError
from tutorkd.methods import METHODS as ALL_METHODS
from tutorkd.methods import distilbert, kd, minilm, minilm_v2, tinybert
from tutorkd.teacher import Teacher

METHODS = {
    "kd": (kd.KD, kd.KDSettings()),
    "distilbert": (distilbert.DistilBERT, distilbert.DistilBERTSettings()),
    "tinybert": (tinybert.TinyBERT, tinybert.TinyBERTSettings()),
    "minilm": (minilm.MiniLM, minilm.MiniLMSettings()),
    "minilm-v2": (minilm_v2.MiniLMv2, minilm_v2.MiniLMv2Settings(relation_heads=8)),
}
WITH_HEAD = {"kd", "distilbert"}
WEIGHTS = {
    "kd": {"loss_soft_cross_entropy": 1},
    "distilbert": {"loss_soft_cross_entropy": 5, "loss_mlm": 2, "loss_cosine": 1},
    "tinybert": {"loss_hidden_state": 1, "loss_attention_score": 1},
    "minilm": {"loss_attention_distribution": 1, "loss_value_relation": 1},
    "minilm-v2": {"loss_query_relation": 1, "loss_key_relation": 1, "loss_value_relation": 1},
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
every_method = pytest.mark.parametrize("method", METHODS)
every_family = pytest.mark.parametrize("family", ["bert", "electra", "roberta"])


def _student(method: str, family: str = "bert", seed: int = 1, **sizes) -> PreTrainedModel:
    """Half as deep as the teacher and, where the method allows, half as wide."""
    sizes = {"num_hidden_layers": 2} | sizes if method == "distilbert" else SIZES | sizes
    model = tiny.masked_lm(family, seed=seed, **sizes)
    return model if method in WITH_HEAD else model.base_model


def _module(method: str, student: PreTrainedModel, teacher: Teacher, **settings) -> nn.Module:
    kind, defaults = METHODS[method]
    return kind(student, teacher, dataclasses.replace(defaults, **settings)).train()


def _pair(method: str, family: str = "bert", **settings) -> tuple[nn.Module, Teacher]:
    teacher = Teacher(tiny.masked_lm(family))
    return _module(method, _student(method, family), teacher, **settings), teacher


def _batch() -> Batch:
    """Rows of 10, 6 and 3 tokens, five of them masked."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, tiny.VOCABULARY, (3, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:], mask[2, 3:] = 0, 0
    ids = ids.masked_fill(mask == 0, 0)
    positions = torch.tensor([1, 4, 8, 12, 21])
    corrupted = ids.flatten().index_fill(0, positions, 4).view_as(ids)
    return Batch.counted(ids, corrupted, positions, mask)


def _rows(batch: Batch, first: int, last: int) -> Batch:
    """Some rows of a batch as a batch of their own."""
    length, positions = batch.input_ids.shape[1], batch.masked_positions
    inside = (positions >= first * length) & (positions < last * length)
    ids, corrupted, mask = (rows[first:last] for rows in (batch.input_ids, batch.corrupted_ids, batch.mask))
    return Batch.counted(ids, corrupted, positions[inside] - first * length, mask)


def _wider(batch: Batch, by: int) -> Batch:
    """The batch with padding appended to every row."""
    length, positions = batch.input_ids.shape[1], batch.masked_positions
    ids, corrupted, mask = (F.pad(rows, (0, by)) for rows in (batch.input_ids, batch.corrupted_ids, batch.mask))
    return Batch.counted(ids, corrupted, positions + by * (positions // length), mask)


class _Whole:
    """What a model of transformers says of itself: logits, hidden states, attention, projections' outputs."""

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor):
        model = copy.deepcopy(model).double().eval()
        model.set_attn_implementation("eager")
        outputs: dict[str, list[Tensor]] = {"query": [], "key": [], "value": []}
        for name, part in model.named_modules():
            if (last := name.rpartition(".")[2]) in outputs:
                part.register_forward_hook(lambda _m, _i, output, into=outputs[last]: into.append(output))
        with torch.no_grad():
            result = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
        self.logits, self.hidden, self.attention = (
            result.get("logits"),
            result.hidden_states,
            result.attentions,
        )
        self.query, self.key, self.value = outputs.values()


def _divergence(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Mean over heads and real queries of the KL divergence of distributions (B, H, L, L)."""
    per_query = (torch.special.xlogy(teacher, teacher) - torch.special.xlogy(teacher, student)).sum(-1)
    return per_query.transpose(1, 2)[real].mean()


def _relations(vectors: Tensor, heads: int, mask: Tensor) -> Tensor:
    """softmax(A A^T / sqrt(d)) of vectors (B, L, d heads), padded keys left out: (B, heads, L, L)."""
    split = torch.stack(vectors.chunk(heads, dim=-1), dim=1)
    scores = split @ split.mT / split.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1)


def _expected(method: str, module: nn.Module, teacher: PreTrainedModel) -> dict[str, Tensor]:
    """The parts of a method's loss from whole models in float64 with eager attention."""
    batch = _batch()
    mask, positions = batch.attention_mask, batch.masked_positions
    real = mask.bool()
    ids = batch.corrupted_ids if method in WITH_HEAD else batch.input_ids
    s, t = _Whole(module.student, ids, mask), _Whole(teacher, ids, mask)
    if method in WITH_HEAD:
        student, target = (whole.logits.flatten(0, 1)[positions] for whole in (s, t))
        soft = -4 * ((target / 2).softmax(-1) * (student / 2).log_softmax(-1)).sum(-1).mean()
        if method == "kd":
            return {"loss_soft_cross_entropy": soft}
        labels = batch.input_ids.flatten()[positions]
        cosine = F.cosine_embedding_loss(s.hidden[-1][real], t.hidden[-1][real], torch.ones(int(real.sum())).double())
        return {
            "loss_soft_cross_entropy": soft,
            "loss_mlm": F.cross_entropy(student, labels),
            "loss_cosine": cosine,
        }
    if method == "tinybert":
        weight = module.projection.weight.detach().double()
        hidden = sum((s.hidden[layer] @ weight.T - t.hidden[2 * layer])[real].square().mean() for layer in range(3))
        scores = []
        for layer in (1, 2):
            q, k, tq, tk = (
                whole[index - 1].unflatten(-1, (4, -1)).transpose(1, 2)
                for whole, index in ((s.query, layer), (s.key, layer), (t.query, 2 * layer), (t.key, 2 * layer))
            )
            difference = q @ k.mT / q.shape[-1] ** 0.5 - tq @ tk.mT / tq.shape[-1] ** 0.5
            pairs = (real[:, :, None] & real[:, None])[:, None].expand_as(difference)
            scores.append(difference[pairs].square().mean())
        return {"loss_hidden_state": hidden, "loss_attention_score": sum(scores)}
    if method == "minilm":
        return {
            "loss_attention_distribution": _divergence(s.attention[-1], t.attention[-1], real),
            "loss_value_relation": _divergence(
                _relations(s.value[-1], 4, mask), _relations(t.value[-1], 4, mask), real
            ),
        }
    layer = module.teacher_layer - 1
    pairs = {
        "query": (s.query[-1], t.query[layer]),
        "key": (s.key[-1], t.key[layer]),
        "value": (s.value[-1], t.value[layer]),
    }
    return {
        f"loss_{name}_relation": _divergence(_relations(a, 8, mask), _relations(b, 8, mask), real)
        for name, (a, b) in pairs.items()
    }


@every_method
@every_family
def test_every_part_equals_what_whole_models_with_eager_attention_give(method, family):
    module, teacher = _pair(method, family)
    output = module(_batch(), teacher)
    expected = _expected(method, module, tiny.masked_lm(family))
    assert output.metrics.keys() == expected.keys() == WEIGHTS[method].keys()
    for name, value in expected.items():
        assert output.metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name
    total = sum(WEIGHTS[method][name] * value for name, value in output.metrics.items())
    torch.testing.assert_close(output.loss.detach(), total)


def test_minilm_s_attention_of_a_local_layer_is_a_distribution_over_its_window():
    """As the models themselves say, with eager attention: there the shares outside the window are 0."""
    batch, teacher = _batch(), Teacher(tiny.masked_lm("modernbert"))  # windows of 4 to each side in the last layer
    student = tiny.masked_lm("modernbert", seed=1, num_hidden_layers=2).base_model
    ids, mask = batch.input_ids, batch.attention_mask
    shares = []
    for model in (student, tiny.masked_lm("modernbert").base_model):
        eager = copy.deepcopy(model).eval()
        eager.set_attn_implementation("eager")
        with torch.no_grad():
            shares.append(eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions[-1].double())
    assert (shares[0][0, :, 0, 5:] == 0).all()
    expected = _divergence(*shares, mask.bool())
    metrics = _module("minilm", student, teacher).eval()(batch, teacher).metrics
    assert metrics["loss_attention_distribution"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_minilm_v2_matches_the_teacher_s_layer_that_it_is_given():
    module, teacher = _pair("minilm-v2", teacher_layer=3)
    metrics = module(_batch(), teacher).metrics
    for name, value in _expected("minilm-v2", module, tiny.masked_lm()).items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name
    last = _module("minilm-v2", module.student, teacher)(_batch(), teacher).metrics
    assert last["loss_key_relation"].item() != pytest.approx(metrics["loss_key_relation"].item(), rel=1e-3)


def test_minilm_v2_compares_models_of_different_head_counts():
    teacher = Teacher(tiny.masked_lm())
    student = _student("minilm-v2", num_attention_heads=2)
    module = _module("minilm-v2", student, teacher)
    metrics = module(_batch(), teacher).metrics
    for name, value in _expected("minilm-v2", module, tiny.masked_lm()).items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_weights_are_the_settings():
    module, teacher = _pair("distilbert", soft_cross_entropy_weight=0.5, mlm_weight=3.0, cosine_weight=0.0)
    output = module(_batch(), teacher)
    assert "loss_cosine" not in output.metrics
    expected = 0.5 * output.metrics["loss_soft_cross_entropy"] + 3 * output.metrics["loss_mlm"]
    torch.testing.assert_close(output.loss.detach(), expected)
    module, teacher = _pair("tinybert", hidden_state_weight=2.0, attention_score_weight=0.0)
    output = module(_batch(), teacher)
    assert output.metrics.keys() == {"loss_hidden_state"}
    torch.testing.assert_close(output.loss.detach(), 2 * output.metrics["loss_hidden_state"])
    module, teacher = _pair("minilm", attention_distribution_weight=2.0, value_relation_weight=0.5)
    output = module(_batch(), teacher)
    parts = output.metrics
    expected = 2 * parts["loss_attention_distribution"] + 0.5 * parts["loss_value_relation"]
    torch.testing.assert_close(output.loss.detach(), expected)
    weights = {"query": 3.0, "key": 0.5, "value": 2.0}
    module, teacher = _pair("minilm-v2", **{f"{part}_relation_weight": w for part, w in weights.items()})
    output = module(_batch(), teacher)
    expected = sum(w * output.metrics[f"loss_{part}_relation"] for part, w in weights.items())
    torch.testing.assert_close(output.loss.detach(), expected)


@pytest.mark.parametrize("method", sorted(WITH_HEAD))
def test_temperature_is_the_setting(method):
    module, teacher = _pair(method, temperature=1.0)
    ids, mask, positions = (getattr(_batch(), name) for name in ("corrupted_ids", "attention_mask", "masked_positions"))
    student, target = (
        _Whole(model, ids, mask).logits.flatten(0, 1)[positions] for model in (module.student, tiny.masked_lm())
    )
    expected = -(target.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    got = module(_batch(), teacher).metrics["loss_soft_cross_entropy"]
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


@every_method
@every_family
def test_of_the_teacher_itself_only_entropy_and_hard_targets_remain(method, family):
    teacher = Teacher(tiny.masked_lm(family))
    model = tiny.masked_lm(family)
    module = _module(method, model if method in WITH_HEAD else model.base_model, teacher)
    metrics = module(_batch(), teacher).metrics
    if method in WITH_HEAD:
        batch = _batch()
        logits = _Whole(model, batch.corrupted_ids, batch.attention_mask).logits
        logits = logits.flatten(0, 1)[batch.masked_positions] / 2
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean().item()
        assert metrics.pop("loss_soft_cross_entropy").item() == pytest.approx(4 * entropy, rel=1e-4)
        metrics.pop("loss_mlm", None)
    for name, value in metrics.items():
        assert value.item() == pytest.approx(0, abs=1e-6), name


@every_method
def test_micro_batches_sum_to_the_undivided_batch(method):
    module, teacher = _pair(method)
    batch = _batch()
    whole = module(batch, teacher)
    whole.loss.backward()
    gradient = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    rows = [_rows(batch, first, last)._replace(num_items=batch.num_items) for first, last in ((0, 2), (2, 3))]
    parts = [module(part, teacher) for part in rows]
    for part in parts:
        part.loss.backward()
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    for name, value in whole.metrics.items():
        torch.testing.assert_close(sum(part.metrics[name] for part in parts), value)
    for name, p in module.named_parameters():
        if name in gradient:
            torch.testing.assert_close(p.grad, gradient[name], rtol=1e-4, atol=1e-5)


@every_method
@every_family
def test_appended_padding_changes_nothing(method, family):
    module, teacher = _pair(method, family)
    expected = module(_batch(), teacher)
    padded = module(_wider(_batch(), 7), teacher)
    torch.testing.assert_close(padded.loss, expected.loss)
    for name, value in expected.metrics.items():
        torch.testing.assert_close(padded.metrics[name], value)


@every_method
def test_every_figure_that_a_module_gives_has_a_label(method):
    module, teacher = _pair(method, **({"relation_weight": 1.0, "relation_heads": 8} if method == "tinybert" else {}))
    assert {figure.name for figure in ALL_METHODS[method].figures} == module(_batch(), teacher).metrics.keys()


@every_method
def test_rows_without_padding_need_no_mask(method):
    module, teacher = _pair(method)
    batch = _rows(_batch(), 0, 1)
    with_mask = module(batch, teacher)
    torch.testing.assert_close(module(batch._replace(attention_mask=None), teacher).loss, with_mask.loss)


@every_method
@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_gives_nearly_the_same_finite_loss(method, teacher_dtype):
    module, teacher = _pair(method)
    exact = module(_batch(), teacher).loss.item()
    teacher.to(teacher_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(_batch(), teacher)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact, rel=0.1)
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@every_method
def test_a_batch_without_masked_positions_is_finite(method):
    module, teacher = _pair(method)
    full = _batch()
    nothing = torch.zeros(0, dtype=torch.long)
    batch = Batch.counted(full.input_ids, full.corrupted_ids, nothing, full.attention_mask)
    output = module(batch, teacher)
    output.loss.backward()
    assert output.loss.isfinite()
    if method == "kd":
        assert output.loss.item() == 0


@every_method
def test_gradients_reach_the_student_alone_and_all_of_it_that_matters(method):
    module, teacher = _pair(method)
    module(_batch(), teacher).loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    without = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    last_layer_s_rest = {
        f"student.encoder.layer.1.{part}.{kind}"
        for part in (
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
        for kind in ("weight", "bias")
    }
    assert without == (last_layer_s_rest if method.startswith("minilm") else set())


@every_method
@every_family
def test_training_brings_the_student_nearer_to_the_teacher(method, family):
    module, teacher = _pair(method, family)
    least = 0.0  # a cross-entropy can't fall below the teacher's entropy
    if method in WITH_HEAD:
        entropy = _module("kd", tiny.masked_lm(family), teacher)(_batch(), teacher).loss.item()
        least = WEIGHTS[method]["loss_soft_cross_entropy"] * entropy
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = module(_batch(), teacher).loss
        losses.append(loss.item() - least)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@every_method
def test_methods_read_the_text_they_should(method):
    module, teacher = _pair(method)
    read = []
    for body in (module.student.base_model, teacher.body):
        body.register_forward_pre_hook(lambda _m, _a, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True)
    batch = _batch()
    module(batch, teacher)
    expected = batch.corrupted_ids if method in WITH_HEAD else batch.input_ids
    assert len(read) == 2
    assert all(torch.equal(ids, expected) for ids in read)


@every_method
def test_attention_stays_fused_and_nothing_unused_is_kept(method, monkeypatch):
    module, teacher = _pair(method)
    fused, asked, queries = [], [], []
    kernel, forward = F.scaled_dot_product_attention, capture.sdpa_attention_forward

    def counted(*args, **kwargs):
        fused.append(1)
        return kernel(*args, **kwargs)

    def watched(module, query, *args, **kwargs):
        queries.append(weakref.ref(query))
        return forward(module, query, *args, **kwargs)

    def after_the_teacher(*_):
        asked.append(sum(query() is not None for query in queries))

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(capture, "sdpa_attention_forward", watched)
    for body in (module.student.base_model, teacher.body):
        body.register_forward_pre_hook(
            lambda _m, _a, kwargs: asked.append((kwargs.get("output_hidden_states"), kwargs.get("output_attentions"))),
            with_kwargs=True,
        )
    teacher.body.register_forward_hook(after_the_teacher)
    module(_batch(), teacher)
    hidden_states = True if method == "tinybert" else None
    kept = {"kd": 0, "distilbert": 0, "tinybert": 2}.get(method, 1)
    assert asked == [(hidden_states, None), kept, (hidden_states, None)]
    assert len(fused) == 4 + 2


@every_method
def test_only_projections_of_training_lie_beside_the_student(method):
    module, _ = _pair(method)
    saved = {id(p) for p in module.student.parameters()}
    beside = [name for name, p in module.named_parameters() if id(p) not in saved]
    assert beside == (["projection.weight"] if method == "tinybert" else [])


@every_method
@every_family
def test_the_saved_student_is_a_plain_encoder(method, family, tmp_path):
    module, _ = _pair(method, family)
    module.student.save_pretrained(tmp_path)
    batch = _batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        got = loaded(**inputs).last_hidden_state
        expected = module.eval().student.base_model(**inputs).last_hidden_state
    real = batch.attention_mask.bool()
    torch.testing.assert_close(got[real], expected[real])


def test_tinybert_starts_aligned_where_sizes_agree():
    teacher = Teacher(tiny.masked_lm())
    module = _module("tinybert", _student("tinybert", hidden_size=32), teacher)
    torch.testing.assert_close(module.projection.weight.detach(), torch.eye(32))


@pytest.mark.parametrize(
    ("method", "student", "settings", "message"),
    [
        ("kd", lambda: _student("minilm"), {}, "kd trains the student's MLM head.*BertModel has none.*MaskedLM"),
        ("distilbert", lambda: _student("minilm"), {}, r"distilbert trains.*AutoModelForMaskedLM"),
        ("kd", lambda: _student("kd"), {"temperature": 0.0}, r"--temperature must be above 0, not 0"),
        ("kd", lambda: _student("kd"), {"temperature": float("nan")}, r"--temperature must be above 0"),
        ("distilbert", lambda: _student("distilbert"), {"temperature": -1.0}, r"--temperature.*not -1"),
        ("distilbert", lambda: _student("kd"), {}, r"student's is 16.*teacher's 32.*--student_hidden_size 32"),
        (
            "tinybert",
            lambda: _student("tinybert", num_hidden_layers=5),
            {},
            r"student of 5 can't be matched to the 4 of its teacher.*give it as many or fewer",
        ),
        ("tinybert", lambda: _student("tinybert", num_attention_heads=2), {}, r"--attention_score_weight 0"),
        (
            "minilm",
            lambda: _student("minilm", num_attention_heads=2),
            {},
            r"student has 2 heads, the teacher 4.*--student_heads 4.*minilm-v2",
        ),
        (
            "minilm-v2",
            lambda: _student("minilm-v2", hidden_size=24),
            {"relation_heads": 16},
            r"16 relation heads.*size 24.*teacher's 32.*--relation_heads to one of 1, 2, 4, 8$",
        ),
        (
            "tinybert",
            lambda: _student("tinybert", hidden_size=24),
            {"relation_weight": 1.0, "relation_heads": 16},
            r"16 relation heads.*size 24.*teacher's 32.*--relation_heads to one of 1, 2, 4, 8$",
        ),
        ("minilm-v2", lambda: _student("minilm-v2"), {"relation_heads": 0}, r"one of 1, 2, 4, 8, 16$"),
        ("minilm-v2", lambda: _student("minilm-v2"), {"relation_heads": 48}, r"48 relation heads"),
        ("minilm-v2", lambda: _student("minilm-v2"), {"teacher_layer": 5}, r"no layer 5.*1 to 4"),
        ("minilm-v2", lambda: _student("minilm-v2"), {"teacher_layer": 0}, r"no layer 0.*1 to 4"),
    ],
)
def test_a_pair_that_cannot_be_trained_is_refused_with_what_would_work(method, student, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        _module(method, student(), Teacher(tiny.masked_lm()), **settings)
    assert "\n" not in str(caught.value)


@every_method
def test_vocabularies_that_differ_are_refused(method):
    student = _student(method)
    student.config.vocab_size = 2000
    with pytest.raises(UserError, match="2000 tokens against 100"):
        _module(method, student, Teacher(tiny.masked_lm()))


def test_what_needs_equal_sizes_can_be_left_out():
    teacher = Teacher(tiny.masked_lm())
    assert _module("distilbert", _student("kd"), teacher, cosine_weight=0.0)
    student = _student("tinybert", num_attention_heads=2)
    assert _module("tinybert", student, teacher, attention_score_weight=0.0)


@every_family
@pytest.mark.parametrize("attention_score_weight", [0.0, 1.0])
def test_relations_beside_other_losses_are_those_of_minilm_v2(family, attention_score_weight):
    student, teacher = _student("minilm-v2", family), Teacher(tiny.masked_lm(family))
    alone = _module("minilm-v2", student, teacher).eval()(_batch(), teacher).loss
    beside = {"attention_score_weight": attention_score_weight, "relation_weight": 2.5, "relation_heads": 8}
    output = _module("tinybert", student, teacher, **beside).eval()(_batch(), teacher)
    assert output.metrics["loss_relation"].item() == pytest.approx(alone.item(), rel=1e-6)
    others = output.metrics["loss_hidden_state"] + attention_score_weight * output.metrics.get(
        "loss_attention_score", 0
    )
    assert output.loss.item() == pytest.approx((others + 2.5 * alone).item(), rel=1e-6)


def test_a_method_of_which_no_loss_counts_is_refused():
    module, teacher = _pair("tinybert", hidden_state_weight=0.0, attention_score_weight=0.0)
    with pytest.raises(UserError, match="all losses have the weight 0"):
        module(_batch(), teacher)


def test_constants_are_the_papers_and_say_where_they_come_from():
    assert kd.KDSettings().temperature == 2
    assert dataclasses.astuple(distilbert.DistilBERTSettings()) == (5, 2, 1, 2)
    assert dataclasses.astuple(minilm_v2.MiniLMv2Settings()) == (None, None, 1, 1, 1)
    for _, settings in METHODS.values():
        for field in dataclasses.fields(settings):
            assert "et al." in field.metadata["help"] or "released code" in field.metadata["help"], field.name


@pytest.mark.parametrize("module", [kd, distilbert, tinybert, minilm, minilm_v2])
def test_citations_are_whole(module):
    citation = module.CITATION
    assert citation.startswith("@")
    assert citation.endswith("}")
    assert citation.count("{") == citation.count("}")
    fields = dict(line.strip().split(" = ", 1) for line in citation.splitlines() if " = " in line)
    assert {"title", "author", "year"} <= fields.keys()
    title = " ".join(citation[citation.index("title = ") : citation.index("author = ")].split())
    docstring = " ".join(module.__doc__.split())
    assert title.removeprefix("title = {").rstrip("},").replace("{", "").replace("}", "") in docstring
