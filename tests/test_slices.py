"""Narrower students start from slices of the teacher."""

import pytest
import tiny
import torch
from transformers import AutoModel, BertConfig, LlamaConfig, Phi3Config

from tutorkd.objective import CAUSAL, MASKED
from tutorkd.slices import Slices
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher

ENCODERS = ["bert", "roberta", "distilbert", "electra", "modernbert"]
DECODERS = ["llama", "qwen3", "gemma2", "gpt2", "mistral"]


def _cut(wide, narrow, size, wanted):
    """The places that are kept of a vector."""
    target = torch.full((wanted,), -1.0)
    assert Slices(wide, narrow).copy("weight", torch.arange(float(size)), target)
    return target.int().tolist()


def _bert(hidden, heads, inner, **others):
    return BertConfig(hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, **others)


def test_dimensions_are_kept_at_even_distances():
    assert _cut(_bert(12, 3, 20), _bert(6, 3, 8), 12, 6) == [0, 2, 4, 6, 8, 10]
    assert _cut(_bert(12, 3, 20), _bert(9, 3, 8), 12, 9) == [0, 1, 2, 4, 5, 6, 8, 9, 10]  # three of each head's four
    assert _cut(_bert(12, 3, 20), _bert(6, 3, 8), 20, 8) == [0, 2, 5, 7, 10, 12, 15, 17]


def test_fewer_heads_are_whole_heads():
    assert _cut(_bert(12, 4, 24), _bert(6, 2, 12), 12, 6) == [0, 1, 2, 6, 7, 8]
    both = _cut(_bert(16, 4, 24), _bert(4, 2, 12), 16, 4)  # two of four heads, and two of four dimensions of each
    assert both == [0, 2, 8, 10]


def test_heads_that_share_keys_go_on_to_share_the_same_ones():
    sizes = {"hidden_size": 16, "head_dim": 2, "intermediate_size": 40}
    wide = LlamaConfig(num_attention_heads=8, num_key_value_heads=4, **sizes)
    narrow = LlamaConfig(**{**sizes, "hidden_size": 12}, num_attention_heads=4, num_key_value_heads=2)
    assert _cut(wide, narrow, 8, 4) == [0, 1, 4, 5]  # keys of the heads 0 and 2
    assert _cut(wide, narrow, 16, 8) == [0, 1, 2, 3, 8, 9, 10, 11]  # the queries that read these: 0, 1 and 4, 5


def test_three_parts_in_one_weight_are_sliced_one_by_one():
    assert _cut(_bert(8, 2, 24), _bert(4, 2, 12), 24, 12) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    sizes = {"intermediate_size": 40, "pad_token_id": 0}
    wide = Phi3Config(hidden_size=16, num_attention_heads=8, num_key_value_heads=2, **sizes)
    narrow = Phi3Config(hidden_size=8, num_attention_heads=4, num_key_value_heads=2, **sizes)
    queries, keys, values = [0, 1, 4, 5, 8, 9, 12, 13], [16, 17, 18, 19], [20, 21, 22, 23]
    assert _cut(wide, narrow, 24, 16) == [*queries, *keys, *values]


def test_ids_and_positions_are_the_first_ones():
    wide = _bert(12, 3, 20, vocab_size=100, max_position_embeddings=64)
    narrow = _bert(12, 3, 20, vocab_size=90, max_position_embeddings=32)
    assert _cut(wide, narrow, 100, 90) == list(range(90))
    assert _cut(wide, narrow, 64, 32) == list(range(32))
    target = torch.full((100,), -1.0)
    assert Slices(narrow, wide).copy("bias", torch.arange(90.0), target)
    assert target.tolist() == [*range(90), *[-1] * 10]


def test_what_is_no_slice_of_the_same_thing_stays_as_it_is():
    target = torch.full((6,), -1.0)
    factorised = tiny.config("electra", hidden_size=12, num_attention_heads=3, embedding_size=8)
    narrow = tiny.config("electra", hidden_size=6, num_attention_heads=3, embedding_size=4)
    assert not Slices(factorised, narrow).copy("of 8 embedded", torch.arange(8.0), target)
    assert not Slices(factorised, narrow).copy("wider", torch.arange(5.0), target)
    assert Slices(factorised, narrow).copy("hidden", torch.arange(12.0), target.clone())
    assert not Slices(_bert(12, 3, 20), narrow).copy("hidden", torch.arange(12.0), target)
    assert not Slices(_bert(12, 3, 20), _bert(6, 3, 8)).copy("matrix", torch.zeros(12, 12), target)
    # GPT-NeoX and BLOOM keep queries, keys and values of a head together.
    assert not Slices(_bert(12, 2, 20), _bert(6, 1, 8)).copy("query_key_value.bias", torch.zeros(36), target.repeat(3))
    assert (target == -1).all()


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_a_narrow_student_of_any_family_is_made_of_the_teacher_s_numbers(family):
    causal = family in DECODERS
    teacher = Teacher(tiny.tiny_causal(family) if causal else tiny.masked_lm(family))
    own = teacher.config
    sizes = {"hidden_size": own.hidden_size // 2}
    sizes |= {
        name: own.to_dict()[name] // 2 for name in ("intermediate_size", "embedding_size") if name in own.to_dict()
    }
    student = build_student("half", own, sizes, head=CAUSAL if causal else MASKED)
    made = initialise_from_teacher(student, teacher)
    numbers = torch.cat([weight.flatten() for weight in teacher.model.state_dict().values()])
    left = {
        name for name, weight in student.state_dict().items() if not torch.isin(weight, numbers.to(weight.dtype)).all()
    }
    assert not {name for name in left if "pooler" not in name}
    assert made.sliced > made.tensors / 2
    assert f"{made.sliced} of them as slices, evenly spaced" in str(made)


def _with_idle_dimensions(student, config):
    """A wider model that holds the student's weights in every other dimension, and nothing in those between."""
    wide = AutoModel.from_config(config)
    with torch.no_grad():
        for name, weight in wide.state_dict().items():
            own = student.state_dict()[name]
            if not weight.is_floating_point() or own.shape == weight.shape:
                weight.copy_(own)
                continue
            weight.zero_()
            places = [torch.arange(n) * (w // n) for n, w in zip(own.shape, weight.shape, strict=True)]
            weight[torch.meshgrid(*places, indexing="ij")] = own
    return wide


def test_slices_fit_together_through_the_whole_model():
    narrow = LlamaConfig(
        **{"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "rms_norm_eps": 0.0},
    )
    wide = LlamaConfig(**{**narrow.to_dict(), "hidden_size": 32, "intermediate_size": 48})
    torch.manual_seed(0)
    expected = AutoModel.from_config(narrow).eval()
    model = _with_idle_dimensions(expected, wide)
    student = AutoModel.from_config(narrow).eval()
    for name, weight in model.state_dict().items():
        assert Slices(wide, narrow).copy(name, weight, student.state_dict()[name])
    ids = torch.tensor([[3, 7, 9, 11, 4]])
    with torch.no_grad():
        taken, told = student(input_ids=ids).last_hidden_state, expected(input_ids=ids).last_hidden_state
        of_wide = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(taken, told)
    torch.testing.assert_close(of_wide[..., 1::2], torch.zeros_like(told))
