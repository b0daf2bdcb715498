import re

import pytest
import tiny
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    BloomConfig,
    DistilBertConfig,
    FalconConfig,
    Gemma3nTextConfig,
    GPT2Config,
    ModernBertConfig,
    RobertaConfig,
)

from tutorkd.errors import UserError
from tutorkd.masking import MaskingCollator
from tutorkd.methods import METHODS
from tutorkd.objective import CAUSAL, MASKED
from tutorkd.sharding import layer_stack
from tutorkd.students import (
    EXTREME_LAYERS,
    build_student,
    has_weights,
    initialise_from_teacher,
    kept_layers,
    neurons_of,
    started_student,
    student_config,
)
from tutorkd.teacher import Teacher

FAMILIES = ["bert", "roberta", "electra", "distilbert", "modernbert"]


@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [("half", 6, 66), ("extreme-12", 12, 14), ("extreme-6", 6, 9), ("extreme-2", 2, 5.7)],
)
def test_presets_have_the_layers_and_parameters_of_the_paper_s_table(name, layers, millions):
    assert student_config(name, BertConfig()).num_hidden_layers == layers
    with torch.device("meta"):
        student = build_student(name, BertConfig())
    # The paper counts layers and word embeddings: 5.7 M leaves no room for positions and the projection.
    counted = [student.embeddings.word_embeddings, student.encoder]
    parameters = sum(p.numel() for module in counted for p in module.parameters())
    assert round(parameters / 1e6, 1 if millions < 6 else None) == millions


@pytest.mark.parametrize("name", list(EXTREME_LAYERS))
def test_an_extreme_student_is_an_electra_with_the_paper_s_sizes_and_the_teacher_s_vocabulary(name):
    config = student_config(name, RobertaConfig(vocab_size=123, max_position_embeddings=70, pad_token_id=1))
    assert config.model_type == "electra"
    sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size, config.embedding_size)
    assert sizes == (264, 12, 1056, 132)
    assert (config.vocab_size, config.max_position_embeddings, config.pad_token_id) == (123, 70, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_differs_from_the_teacher_in_depth_alone(family):
    teacher = tiny.config(family)
    teacher_values, student_values = (config.to_dict() for config in (teacher, student_config("half", teacher)))
    assert student_config("half", teacher).num_hidden_layers == 2
    assert teacher.num_hidden_layers == 4
    different = {key for key, value in teacher_values.items() if student_values[key] != value}
    assert different <= {"num_hidden_layers", "n_layers", "layer_types"}


def test_half_of_modernbert_keeps_the_kinds_of_the_layers_that_it_takes_over(tmp_path):
    teacher = tiny.config("modernbert", num_hidden_layers=6, global_attn_every_n_layers=3)
    assert teacher.layer_types == ["full_attention", "sliding_attention", "sliding_attention"] * 2
    student = build_student("half", teacher)
    kept = ["full_attention", "full_attention", "sliding_attention"]  # of layers 1, 4 and 6
    assert student.config.layer_types == kept
    student.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == kept
    ids = torch.tensor([[2, *range(5, 40), 3]])
    assert student(input_ids=ids).last_hidden_state.isfinite().all()


def test_a_student_deeper_than_its_configuration_repeats_the_kinds_of_layers(tmp_path):
    tiny.config("modernbert", num_hidden_layers=2).save_pretrained(tmp_path)
    config = student_config(str(tmp_path), tiny.config("modernbert"), {"num_hidden_layers": 4})
    assert config.layer_types == ["full_attention", "sliding_attention"] * 2
    assert len(AutoModel.from_config(config).layers) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_l_takes_over_the_teacher_s_layer_g_of_l(family):
    teacher = Teacher(tiny.masked_lm(family))
    student = build_student("half", teacher.config)
    initialisation = initialise_from_teacher(student, teacher)
    # ModernBERT's first layer alone has no norm before its attention: it takes over another first layer.
    taken = [1, 4] if family == "modernbert" else [2, 4]
    assert initialisation.layers == taken
    source = teacher.body.state_dict()
    compared, missed = 0, set()
    for name, value in student.state_dict().items():
        # Layers are the only numbers in the names of these families' weights, counted from 0.
        origin = re.sub(r"\.(\d+)\.", lambda m: f".{taken[int(m[1])] - 1}.", name)
        if origin in source:
            assert torch.equal(value, source[origin]), name
            compared += 1
        else:
            missed.add(name.split(".")[0])
    assert compared == initialisation.tensors
    assert compared + len(missed) <= initialisation.total
    assert missed <= {"pooler"}


def _calls_of_layers(model, ids, mask):
    """What each layer of a model is given and gives."""
    (stack,) = (
        part
        for part in model.modules()
        if isinstance(part, nn.ModuleList) and len(part) == model.config.num_hidden_layers
    )
    calls = []
    hooks = [
        layer.register_forward_hook(lambda _, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True)
        for layer in stack
    ]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    for hook in hooks:
        hook.remove()
    return list(stack), calls


@pytest.mark.parametrize(
    "config",
    [
        *(tiny.config(family, initializer_range=0.2) for family in FAMILIES),
        tiny.config("modernbert", initializer_range=0.2, num_hidden_layers=6, global_attn_every_n_layers=3),
    ],
    ids=[*FAMILIES, "modernbert-6"],
)
def test_each_layer_of_a_new_student_computes_what_the_layer_that_it_took_over_computes(config):
    torch.manual_seed(0)
    teacher = Teacher(AutoModelForMaskedLM.from_config(config))
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if "norm" in name.lower() and "weight" in name:
                weight.uniform_(0.3, 3.0)  # norms that matter
    student = build_student("half", teacher.config).eval()
    taken = initialise_from_teacher(student, teacher).layers
    ids = torch.randint(5, tiny.VOCABULARY, (2, 40))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    _, expected = _calls_of_layers(teacher.body, ids, mask)
    layers, calls = _calls_of_layers(student, ids, mask)
    for layer, (_, own, _), number in zip(layers, calls, taken, strict=True):
        (hidden, *others), given, output = expected[number - 1]
        with torch.no_grad():
            # With its own mask and rotary positions, which depend on the layer's kind.
            torch.testing.assert_close(layer(hidden, *others, **(given | own)), output)


def test_a_wider_layer_stays_at_random_and_what_fits_is_copied():
    teacher = Teacher(tiny.masked_lm("bert"))
    wide = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2, intermediate_size=160))
    before = wide.encoder.layer[0].intermediate.dense.weight.clone()
    initialisation = initialise_from_teacher(wide, teacher)
    assert torch.equal(wide.encoder.layer[0].intermediate.dense.weight, before)
    assert torch.equal(
        wide.encoder.layer[0].attention.self.query.weight, teacher.body.encoder.layer[1].attention.self.query.weight
    )
    assert initialisation.sliced == 0
    wider = AutoModel.from_config(tiny.config("bert", hidden_size=64, intermediate_size=256))
    nothing = initialise_from_teacher(wider, teacher)
    assert nothing.tensors == 0
    assert "starts at random" in str(nothing)


def test_a_student_with_an_mlm_head_takes_that_over_too():
    teacher = Teacher(tiny.masked_lm("bert"))
    student = build_student("half", teacher.config, head=MASKED)
    initialise_from_teacher(student, teacher)
    hidden = torch.randn(1, 5, 32)
    assert torch.equal(student.cls(hidden), teacher.head(hidden[0])[None])


def test_albert_s_layers_share_weights_and_fit_whatever_the_depth():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 4}
    teacher = Teacher(AlbertForMaskedLM(AlbertConfig(vocab_size=100, embedding_size=16, **sizes)))
    student = build_student("half", teacher.config)
    assert student.config.num_hidden_layers == 2
    initialisation = initialise_from_teacher(student, teacher)
    assert initialisation.layers == []
    source = teacher.body.state_dict()
    assert {
        name for name, value in student.state_dict().items() if name in source and torch.equal(value, source[name])
    } == {name for name in student.state_dict() if not name.startswith("pooler")}
    assert initialisation.tensors == initialisation.total - 2


def test_a_random_student_depends_on_the_seed_and_not_on_the_teacher():
    teacher = tiny.masked_lm("bert")

    def weight(seed):
        torch.manual_seed(seed)
        return build_student("half", teacher.config).encoder.layer[0].attention.self.query.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    assert not any(torch.equal(weight(1), layer.attention.self.query.weight) for layer in teacher.bert.encoder.layer)


def test_sizes_override_presets_and_configurations(tmp_path):
    sizes = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
    tiny.config("electra").save_pretrained(tmp_path)
    for name in ("half", "extreme-6", str(tmp_path)):
        more = {} if name == "half" else {"embedding_size": 12}
        student = build_student(name, tiny.config("bert"), {**sizes, **more})
        assert {key: getattr(student.config, key) for key in sizes} == sizes
        hidden = student(input_ids=torch.tensor([[2, 7, 3]]), output_hidden_states=True).hidden_states
        assert [h.shape for h in hidden] == [(1, 3, 24)] * 2
    assert student.embeddings.word_embeddings.weight.shape == (100, 12)


def test_a_checkpoint_keeps_its_own_weights(tmp_path):
    expected = tiny.masked_lm("electra", num_hidden_layers=2)
    expected.save_pretrained(tmp_path)
    student = build_student(str(tmp_path), tiny.config("bert"), pretrained=True)
    own = expected.base_model.state_dict()
    assert student.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("head", [None, MASKED])
def test_a_student_bears_the_name_of_a_checkpoint_whose_weights_it_has_and_of_no_other(tmp_path, head):
    tiny.masked_lm().save_pretrained(tmp_path)
    teacher = AutoConfig.from_pretrained(tmp_path)
    assert teacher.name_or_path == str(tmp_path)
    assert build_student("half", teacher, head=head).config.name_or_path == ""
    assert build_student(str(tmp_path), teacher, head=head).config.name_or_path == ""
    assert build_student(str(tmp_path), teacher, pretrained=True, head=head).config.name_or_path == str(tmp_path)
    assert teacher.name_or_path == str(tmp_path)


def test_weights_of_a_pooler_may_be_missing_and_those_of_layers_may_not(tmp_path):
    BertModel(tiny.config("bert", num_hidden_layers=2), add_pooling_layer=False).save_pretrained(tmp_path)
    build_student(str(tmp_path), tiny.config("bert"), pretrained=True)
    tiny.config("bert", num_hidden_layers=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"isn't a whole bert model: 32 weights are missing.*encoder\.layer\.2"):
        build_student(str(tmp_path), tiny.config("bert"), pretrained=True)


def test_what_has_weights_is_told_from_what_has_none(tmp_path):
    assert not has_weights("half")
    assert has_weights("somebody/model")
    tiny.config("bert").save_pretrained(tmp_path)
    assert not has_weights(str(tmp_path))
    tiny.masked_lm().save_pretrained(tmp_path)
    assert has_weights(str(tmp_path))


def test_a_checkpoint_in_pickles_is_refused_and_not_taken_for_a_configuration(tmp_path):
    """A student would else start from the teacher's weights in the place of its own, without a word."""
    model = tiny.masked_lm()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"can't be loaded: Error no file named model\.safetensors"):
        started_student(str(tmp_path), Teacher(tiny.masked_lm()))


@pytest.mark.parametrize(
    ("name", "layers", "sizes", "message"),
    [
        ("half", 3, {}, "half of 3 layers isn't a whole number: set --student_layers"),
        ("half", 4, {"num_hidden_layers": 0}, "can't have 0 as its num_hidden_layers"),
        ("half", 4, {"hidden_size": -8}, "can't have -8 as its hidden_size"),
        ("half", 4, {"num_attention_heads": 5}, "hidden size 32 isn't a multiple of its 5 heads"),
        ("half", 4, {"embedding_size": 8}, "family bert has no size embedding_size"),
        ("/no/such/folder", 4, {}, "the student /no/such/folder: there is no such folder"),
    ],
)
def test_impossible_students_are_refused(name, layers, sizes, message):
    with pytest.raises(UserError, match=message):
        build_student(name, tiny.config("bert", num_hidden_layers=layers), sizes)


@pytest.mark.parametrize(
    ("layers", "of_teacher", "taken"),
    [
        (6, 12, [2, 4, 6, 8, 10, 12]),  # the paper's: l N / m
        (4, 6, [2, 3, 5, 6]),  # 1.5, 3, 4.5, 6, rounded up
        (5, 12, [3, 5, 8, 10, 12]),
        (8, 12, [2, 3, 5, 6, 8, 9, 11, 12]),
        (11, 12, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (1, 3, [3]),
        (3, 3, [1, 2, 3]),
        (4, 3, None),
    ],
)
def test_a_student_of_any_smaller_depth_takes_layers_in_even_distances_and_the_last(layers, of_teacher, taken):
    assert kept_layers(layers, of_teacher, MASKED) == taken


def test_the_layers_of_a_depth_that_doesn_t_divide_are_copied_and_compared():
    teacher = Teacher(tiny.masked_lm("bert", num_hidden_layers=3))
    student = build_student("half", teacher.config, {"num_hidden_layers": 2})
    assert initialise_from_teacher(student, teacher).layers == [2, 3]
    own, other = student.encoder.layer[0].output.dense.weight, teacher.body.encoder.layer[1].output.dense.weight
    assert torch.equal(own, other)
    settings = METHODS["tinybert"].settings(attention_score_weight=0.0)
    module = METHODS["tinybert"].module(student.eval(), teacher, settings, tiny.tokenizer())
    batch = MaskingCollator(tiny.tokenizer(), 0.15, 0, tiny.VOCABULARY)([{**row, "draw": 0} for row in tiny.rows(2)])
    states = teacher.body(batch.input_ids, batch.attention_mask, output_hidden_states=True).hidden_states
    answers = student(batch.input_ids, batch.attention_mask, output_hidden_states=True).hidden_states
    expected = sum(((answers[s] - states[t]) ** 2).mean() for s, t in ((0, 0), (1, 2), (2, 3)))
    torch.testing.assert_close(module(batch, teacher).loss, expected)


def test_a_student_deeper_than_its_teacher_takes_its_embeddings_alone():
    teacher = Teacher(tiny.masked_lm("bert", num_hidden_layers=2))
    student = build_student("half", teacher.config, {"num_hidden_layers": 3})
    found = initialise_from_teacher(student, teacher)
    assert (found.layers, found.sliced) == ([], 0)
    assert torch.equal(student.get_input_embeddings().weight, teacher.body.get_input_embeddings().weight)
    of_student, of_teacher = (each.encoder.layer[0].output.dense.weight for each in (student, teacher.body))
    assert not torch.equal(of_student, of_teacher)


def test_an_odd_teacher_can_have_a_student_of_a_divisor_s_depth():
    teacher = Teacher(tiny.masked_lm("bert", num_hidden_layers=3))
    student = build_student("half", teacher.config, {"num_hidden_layers": 1})
    assert initialise_from_teacher(student, teacher).layers == [3]


@pytest.mark.parametrize(
    ("config", "neurons"),
    [
        (BertConfig(), 768),
        (BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536), 384),
        (DistilBertConfig(), 768),
        (AlbertConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12), 768),
        (tiny.causal_config("llama", hidden_size=64, intermediate_size=256), 96),
        (GPT2Config(n_embd=256, n_head=4, n_layer=2), 256),
        (FalconConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, ffn_hidden_size=256), 88),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_thin_leaves_the_layers_half_of_their_parameters(config, neurons):
    thin = student_config("thin", config)
    assert neurons_of(thin) == neurons
    assert (thin.num_hidden_layers, thin.hidden_size) == (config.num_hidden_layers, config.hidden_size)
    whole, half = (
        sum(p.numel() for p in layer_stack(AutoModel.from_config(each)).parameters()) for each in (config, thin)
    )
    unit = 64 if neurons_of(config) >= 1024 else 8
    of_a_unit = unit * (whole - half) / (neurons_of(config) - neurons)
    assert abs(half - whole / 2) <= of_a_unit / 2


def test_thin_with_as_many_neurons_as_asked_for():
    assert student_config("thin", BertConfig(), {"intermediate_size": 512}).intermediate_size == 512
    assert student_config("half", DistilBertConfig(), {"intermediate_size": 512}).hidden_dim == 512


def test_thin_of_a_model_that_is_mostly_attention_is_refused():
    assert student_config("thin", ModernBertConfig(num_hidden_layers=2)).intermediate_size == 64  # of 1,152
    with pytest.raises(UserError, match=r"such a modernbert model hold too few .* --student_intermediate_size"):
        student_config("thin", ModernBertConfig(num_hidden_layers=2, intermediate_size=1024))


def test_thin_of_a_model_whose_layers_differ_in_neurons_is_refused():
    teacher = Gemma3nTextConfig(num_hidden_layers=2, intermediate_size=[64, 128], num_kv_shared_layers=0)
    with pytest.raises(UserError, match=r"different numbers of neurons, \[64, 128\]: choose --student half"):
        student_config("thin", teacher, objective=CAUSAL)


def test_thin_of_a_model_whose_neurons_cant_be_set_is_refused():
    with pytest.raises(UserError, match="thin: intermediate_size doesn't change the layers of a bloom model"):
        student_config("thin", BloomConfig(hidden_size=32, n_layer=2, n_head=4))


def test_a_narrower_student_says_which_slices_it_starts_from():
    teacher = Teacher(tiny.masked_lm())
    how = {"sizes": {"hidden_size": 16}, "head": MASKED}
    assert (
        "as slices, those that matter most on the text, if that can be told"
        in started_student("half", teacher, **how).told
    )
    student = build_student("half", teacher.config, {"hidden_size": 16})
    assert "as slices, evenly spaced" in str(initialise_from_teacher(student, teacher))
