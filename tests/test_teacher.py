import copy

import pytest
import tiny
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    MixtralConfig,
    OPTConfig,
)

from tutorkd.capture import Recording, prepare_layers
from tutorkd.errors import UserError
from tutorkd.objective import CAUSAL
from tutorkd.reader import Ask, Head, Reader
from tutorkd.teacher import Teacher, load_teacher

EVERYTHING, LAST = Ask(range(5), range(1, 5), values=True), Ask(hidden=[4])
FAMILIES = ["bert", "roberta", "electra", "distilbert", "modernbert"]


def _rows():
    ids = torch.randint(5, tiny.VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return ids.masked_fill(mask == 0, 0), mask


@pytest.mark.parametrize("family", FAMILIES)
def test_head_on_masked_positions_equals_the_whole_model_there(family):
    model, (ids, mask) = tiny.masked_lm(family), _rows()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
    teacher, positions = Teacher(model), torch.tensor([1, 4, 13, 30])
    torch.testing.assert_close(teacher(ids, mask, positions=positions).logits, expected[positions])


_CAUSAL_SIZES = {"vocab_size": tiny.VOCABULARY, "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32}


@pytest.mark.parametrize(
    "config",
    [
        OPTConfig(**_CAUSAL_SIZES, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=64, pad_token_id=0),
        MixtralConfig(**_CAUSAL_SIZES, intermediate_size=64, num_key_value_heads=2, num_local_experts=4),
    ],
    ids=["a decoder within the body", "a mixture of experts"],
)
def test_head_of_a_causal_model_of_another_make_equals_the_whole_model(config, tmp_path):
    torch.manual_seed(0)
    model, (ids, mask) = AutoModelForCausalLM.from_config(config).eval(), _rows()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
    model.save_pretrained(tmp_path)
    teacher, positions = load_teacher(str(tmp_path)), torch.tensor([1, 4, 13, 30])
    assert teacher.objective is CAUSAL
    torch.testing.assert_close(teacher(ids, mask, positions=positions).logits, expected[positions - 1])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "modernbert"])
def test_captured_queries_and_keys_give_the_attention_that_the_model_reports(family):
    (ids, mask) = _rows()
    eager = tiny.masked_lm(family).base_model
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        reported = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    states = Teacher(tiny.masked_lm(family))(ids, mask, EVERYTHING)
    assert len(states.attention) == len(reported) == 4
    for captured, expected in zip(states.attention, reported, strict=True):
        scores = captured.query @ captured.key.mT / captured.query.shape[-1] ** 0.5
        scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
        torch.testing.assert_close(
            scores.softmax(-1)[mask.bool().nonzero()[:, 0]], expected[mask.bool().nonzero()[:, 0]]
        )


@pytest.mark.parametrize("padded", [False, True])
def test_captured_windows_are_the_pairs_that_local_layers_attend(padded):
    """A query attends a key if, and only if, its output has a gradient for the key's value."""
    model = tiny.masked_lm("modernbert").base_model  # a window of 4 to each side in every other layer
    prepare_layers(model, "student")
    ids = torch.randint(5, tiny.VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 7:] = 0
    outputs = [layer.attn.Wo for layer in model.layers]
    mixed = []
    hooks = [part.register_forward_pre_hook(lambda _, args: mixed.append(args[0])) for part in outputs]
    layers = Reader(model)(ids, mask, EVERYTHING).attention
    for hook in hooks:
        hook.remove()
    assert [layer.window is None for layer in layers] == [True, False, True, False]
    for layer, output in zip(layers[1::2], mixed[1::2], strict=True):
        window = layer.window.expand(2, 1, 12, 12)
        for row in range(2):
            for query in range(int(mask[row].sum())):
                (gradient,) = torch.autograd.grad(output[row, query].sum(), layer.value, retain_graph=True)
                attended = gradient[row].abs().sum((0, 2)) > 0
                near = [abs(query - key) <= 4 and bool(mask[row, key]) for key in range(12)]
                assert attended.tolist() == (window[row, 0, query] & mask[row].bool()).tolist() == near


def test_rows_that_fit_into_the_window_have_one_all_the_same():
    teacher = Teacher(tiny.masked_lm("modernbert"))
    layers = teacher(torch.tensor([[2, 7, 8, 3]]), ask=EVERYTHING).attention  # no mask: all is attended
    assert [layer.window is None for layer in layers] == [True, False, True, False]
    assert layers[1].window.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_states_hold_the_embedding_output_and_every_layer(family):
    ids, mask = _rows()
    teacher = Teacher(tiny.masked_lm(family))
    states = teacher(ids, mask, EVERYTHING)
    assert [h.shape for h in states.hidden] == [(3, 12, 32)] * 5
    torch.testing.assert_close(states.hidden[-1], teacher(ids, mask, LAST).hidden[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_asked_of_some_layers_is_what_a_pass_over_all_gives_there(family):
    (ids, mask), teacher = _rows(), Teacher(tiny.masked_lm(family))
    everything, some = (teacher(ids, mask, ask) for ask in (EVERYTHING, Ask(hidden=[0, 2, 4], attention=[2, 4])))
    assert len(some.hidden) == 3
    assert all(torch.equal(got, everything.hidden[layer]) for got, layer in zip(some.hidden, (0, 2, 4), strict=True))
    assert len(some.attention) == 2
    for got, layer in zip(some.attention, (2, 4), strict=True):
        assert torch.equal(got.query, everything.attention[layer - 1].query)
        assert torch.equal(got.key, everything.attention[layer - 1].key)
        assert got.value is None


def test_one_call_of_a_reader_runs_body_and_head_within_its_forward_pass():
    teacher, (ids, mask), order = Teacher(tiny.masked_lm()), _rows(), []
    teacher.register_forward_pre_hook(lambda *_: order.append("enters"))
    teacher.register_forward_hook(lambda *_: order.append("leaves"))
    teacher.body.register_forward_hook(lambda *_: order.append("body"))
    teacher.head.register_forward_hook(lambda *_: order.append("head"))
    teacher(ids, mask, positions=torch.tensor([1, 2]))
    teacher(ids, mask)  # without positions no head
    assert order == ["enters", "body", "head", "leaves", "enters", "body", "leaves"]


def test_what_is_recorded_stays_as_it_is_when_the_pass_is_over():
    teacher, (ids, mask), recording = Teacher(tiny.masked_lm()), _rows(), Recording(layers=[2])
    teacher.body(ids, mask, recording=recording)
    recording.close()
    teacher.body(ids, mask, recording=recording)
    assert len(recording.kept) == 1


def test_the_student_s_attention_carries_gradients():
    student, (ids, mask) = AutoModel.from_config(tiny.config("bert")), _rows()
    prepare_layers(student, "student")
    states = Reader(student)(ids, mask, EVERYTHING)
    states.attention[0].query.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_the_teacher_is_frozen_and_without_dropout_even_while_training():
    teacher, (ids, mask) = Teacher(tiny.masked_lm("bert", hidden_dropout_prob=0.5)), _rows()
    teacher.train()
    assert torch.equal(teacher(ids, mask, LAST).hidden[0], teacher(ids, mask, LAST).hidden[0])
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copied_head_is_independent_and_starts_over_at_random(family):
    model = tiny.masked_lm(family)
    head = Head(model)
    hidden = torch.randn(5, 32)
    before = head(hidden)
    other = copy.deepcopy(head)
    torch.testing.assert_close(other(hidden), before)
    other.reset_parameters()
    assert not torch.allclose(other(hidden), before, atol=1e-2)
    torch.testing.assert_close(head(hidden), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [("./no-such-folder", "no such folder"), ("no-such-organisation/no-such-model", "isn't a folder here")],
)
def test_a_model_that_isn_t_there_is_told_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(name)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_told_in_one_line(teacher_folder):
    (teacher_folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="can't be loaded"):
        load_teacher(str(teacher_folder))
