"""Narrower students keep what matters most of the teacher on their text."""

import re
import shutil

import numpy as np
import pytest
import tiny
import torch
from commands import complete, save, save_corpus
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    Qwen2MoeConfig,
)

from tutorkd import trainer
from tutorkd.config import DistillationConfig
from tutorkd.importance import TOKENS, read_some, watching
from tutorkd.objective import CAUSAL, MASKED
from tutorkd.refit import refitting
from tutorkd.sharding import whole
from tutorkd.slices import Slices
from tutorkd.students import build_student, initialise_from_teacher, start_from_text, started_student
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer

ENCODERS = ["bert", "roberta", "electra", "distilbert", "modernbert", "mpnet", "albert", "deberta-v2"]
DECODERS = ["llama", "qwen3", "gemma2", "gpt2", "mistral"]
# OLMo's norms have no weights, and OLMo 2 reads sums rather than what a norm makes.
LLAMAS = {"phi3": Phi3Config, "olmo": OlmoConfig, "olmo2": Olmo2Config}
# Where the weights of these families have dimensions of heads and of neurons, by the names of their modules.
TO_HEADS = r"(query|key|value|(query|key|value)_proj|[qkv]_lin|[qkv]_proj|[qkv]|[qk]_norm|Wqkv|c_attn|qkv_proj)$"
OF_HEADS = r"(attention\.(output\.)?dense|out_lin|o_proj|attn\.(Wo|o|c_proj|out_proj))$"
TO_NEURONS = r"(intermediate\.dense|lin1|gate_proj|up_proj|gate_up_proj|mlp\.Wi|c_fc|ffn|fc1)$"
OF_NEURONS = r"(?<!attention\.)(output\.dense|lin2|down_proj|mlp\.Wo|mlp\.c_proj|ffn_output|fc2)$"


def _config(family, hidden=32, neurons=64):
    if family in LLAMAS:
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
        sizes |= {"hidden_size": hidden, "intermediate_size": neurons, "initializer_range": 0.2}
        return LLAMAS[family](vocab_size=100, **sizes)
    if family == "opt":
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "word_embed_proj_dim": hidden, "pad_token_id": 0}
        return OPTConfig(vocab_size=100, hidden_size=hidden, ffn_dim=neurons, max_position_embeddings=64, **sizes)
    if family == "albert":
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "embedding_size": 8, "pad_token_id": 0}
        return AlbertConfig(vocab_size=100, hidden_size=hidden, intermediate_size=neurons, **sizes)
    inner = {"gpt2": "n_inner", "distilbert": "hidden_dim"}.get(family, "intermediate_size")
    make = tiny.causal_config if family in DECODERS else tiny.config
    sizes = {"hidden_size": hidden, inner: neurons} | ({"embedding_size": 8} if family == "electra" else {})
    if family in DECODERS and family != "gpt2":
        sizes["head_dim"] = hidden // 4
    return make(family, initializer_range=0.2, **sizes)


def _body(config, seed=0):
    torch.manual_seed(seed)
    return AutoModel.from_config(config).eval()


def measure_importance(teacher, batches):
    with watching(teacher.body) as watch:
        read_some(teacher, batches)
    return watch.importance()


def _ids(seed=0, shape=(4, 16)):
    return torch.randint(5, 90, shape, generator=torch.Generator().manual_seed(seed))


def _places(kind, name, narrow, generators):
    """Where the wider model holds the narrower one's dimensions of a kind, in order."""
    seed = generators.setdefault((kind, name), len(generators))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(2 * narrow, generator=generator)[:narrow].sort().values


def _kind(module, out):
    """Of the dimension of a module's weights that it writes, or reads."""
    for kind, patterns in {"heads": (TO_HEADS, OF_HEADS), "neurons": (TO_NEURONS, OF_NEURONS)}.items():
        if re.search(patterns[0 if out else 1], module):
            return kind
    return "hidden"


def _hidden_away(narrow, wide, neurons):
    """The wider model holds the narrower one's weights at random places, and zeros elsewhere: of hidden dimensions at
    the same ones everywhere, of neurons at each layer's own, of heads at every other one."""
    drawn = {}
    model, of_narrow = _body(wide), narrow.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            own = of_narrow[name]
            if not weight.is_floating_point() or own.shape == weight.shape:
                weight.copy_(own)
                continue
            weight.zero_()
            module = name.rpartition(".")[0]
            transposed = "gpt2" in type(model).__name__.lower() and weight.dim() == 2 and ".h." in f".{name}"
            places = []
            for dim, (n, w) in enumerate(zip(own.shape, weight.shape, strict=True)):
                out = dim == 0 if weight.dim() == 1 else dim == int(transposed)
                kind = _kind(module, out)
                if n == w:
                    places.append(torch.arange(n))
                elif kind == "heads":
                    places.append(torch.arange(n) * 2)
                elif kind == "neurons":
                    of_layer = re.search(r"\d+", name).group()
                    one = _places(kind, of_layer, neurons, drawn)
                    places.append(torch.cat([part * 2 * neurons + one for part in range(n // neurons)]))
                else:
                    places.append(_places(kind, "", n, drawn))
            weight[torch.meshgrid(*places, indexing="ij")] = own
    return model


@pytest.mark.parametrize("neurons", [24, 16], ids=["", "as many neurons as hidden dimensions"])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS, *LLAMAS, "opt"])
def test_what_a_wider_model_hides_among_idle_dimensions_is_found_again(family, neurons):
    narrow = _body(_config(family, hidden=16, neurons=neurons))
    wide = _hidden_away(narrow, _config(family, hidden=32, neurons=2 * neurons), neurons)
    teacher = Teacher(wide)
    importance = measure_importance(teacher, [(_ids(), None)])
    student = _body(narrow.config, seed=1)
    student.config.num_hidden_layers = narrow.config.num_hidden_layers
    initialise_from_teacher(student, teacher, importance=importance)
    for name, weight in student.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(weight, narrow.state_dict()[name], msg=name)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_importance_is_the_root_mean_square_of_an_input_times_the_norm_of_its_column(family):
    teacher = Teacher(_body(_config(family)))
    body = teacher.body
    ids, mask = _ids(), torch.ones(4, 16, dtype=torch.long)
    mask[1, 9:] = 0
    ids[1, 9:] = 77  # padding, which counts for nothing
    if family == "bert":
        stack, of_heads, of_neurons = "encoder.layer.2", "attention.output.dense", "output.dense"
    else:
        stack, of_heads, of_neurons = "layers.2", "self_attn.o_proj", "mlp.down_proj"
    layer = body.get_submodule(stack)
    of_heads, of_neurons = layer.get_submodule(of_heads), layer.get_submodule(of_neurons)
    given = {}
    for module in body.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, x, _: given.setdefault(m, []).append(x[0].detach().double()))
    importance = measure_importance(teacher, [(ids[:3], mask[:3]), (ids[3:], None)])

    def expected(module):
        rows = torch.cat([x[m.bool()] for x, m in zip(given[module], (mask[:3], mask[3:]), strict=True)])
        return rows.square().mean(0).sqrt() * module.weight.double().norm(dim=0)

    def alike(found, wanted):
        torch.testing.assert_close(found.double() / found.double().mean(), wanted / wanted.mean(), rtol=1e-5, atol=0)

    alike(importance.neurons[stack], expected(of_neurons))
    alike(importance.heads[stack], expected(of_heads).square().view(4, 8).sum(1))
    hidden = r"(query|key|value|intermediate\.dense|[qkv]_proj|gate_proj|up_proj)$"
    of_all = [expected(module) for name, module in body.named_modules() if re.search(hidden, name)]
    assert len(of_all) == 4 * (4 if family == "bert" else 5)
    alike(importance.hidden, torch.stack([each / each.mean() for each in of_all]).mean(0))


def test_reading_ends_when_there_are_enough_tokens():
    read = []

    def batches():
        for seed in range(1000):
            read.append(seed)
            yield _ids(seed, (32, 64)), None

    measure_importance(Teacher(_body(_config("bert"))), batches())
    assert len(read) == TOKENS // (32 * 64)


def test_the_tokens_that_are_read_are_told_as_they_are_read():
    ids, mask = _ids(shape=(3000, 16)), torch.ones(3000, 16, dtype=torch.long)
    mask[:, 11:] = 0
    told = []
    read_some(Teacher(_body(_config("bert"))), zip(ids.split(700), mask.split(700), strict=True), told.append)
    assert told == [7700, 7700, 990]  # of 16,384 tokens, in whole rows of 11


def test_whole_heads_are_kept_by_importance_with_the_queries_that_read_their_keys():
    sizes = {"hidden_size": 16, "head_dim": 2, "intermediate_size": 40, "num_hidden_layers": 1, "vocab_size": 100}
    wide = LlamaConfig(num_attention_heads=8, num_key_value_heads=4, **sizes)
    narrow = LlamaConfig(**{**sizes, "hidden_size": 12}, num_attention_heads=4, num_key_value_heads=2)
    body = _body(wide)
    found = measure_importance(Teacher(body), [(_ids(), None)])
    of_heads = torch.tensor([1.0, 5.0, 9.0, 1.0, 2.0, 2.0, 3.0, 4.0])  # of a key's two queries together 6, 10, 4, 7
    found = found._replace(heads={"layers.0": of_heads})
    slices, target = Slices(wide, narrow, found), torch.full((8, 12), -1.0)
    rows = torch.arange(16.0)[:, None].expand(16, 16)
    assert slices.copy("layers.0.self_attn.q_proj.weight", rows, target, "layers.0")
    assert target[:, 0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]  # the queries 2, 3 and 6, 7
    keys = torch.full((4, 12), -1.0)
    assert slices.copy("layers.0.self_attn.k_proj.weight", rows[:8], keys, "layers.0")
    assert keys[:, 0].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("teacher_dtype", ["auto", "int8"])
def test_training_starts_a_narrower_student_from_what_matters_on_its_rows(tmp_path, teacher_dtype):
    sizes = {"hidden_size": 16, "intermediate_size": 24}
    rows, teacher = tiny.rows(20), tiny.masked_lm()
    student, expected, evenly = (build_student("half", teacher.config, sizes, head=MASKED) for _ in range(3))
    initialise_from_teacher(evenly, Teacher(teacher))
    initialise_from_teacher(student, Teacher(teacher))
    ids = torch.tensor([row["input_ids"] for row in rows])
    reader = Teacher(teacher)
    start_from_text(expected, reader, lambda: read_some(reader, [(ids, None)]))
    args = DistillationConfig(
        output_dir=str(tmp_path), max_steps=1, teacher_dtype=teacher_dtype, eval_strategy="no", report_to="none"
    )
    DistillationTrainer(student, teacher, args, rows, tiny.tokenizer(), method="kd", sliced=True)
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(student.state_dict()[name], evenly.state_dict()[name])


def test_where_it_cant_be_told_what_is_what_slices_are_evenly_spaced():
    sizes = tiny.SIZES | {
        "embedding_size": 8,
        "num_hidden_groups": 2,
        "vocab_size": 100,
    }  # two layers, and no list of all
    config = AlbertConfig(**sizes)
    assert measure_importance(Teacher(_body(config)), [(_ids(), None)]) is None
    target = torch.full((16,), -1.0)
    narrow = AlbertConfig(**sizes | {"hidden_size": 16})
    assert Slices(config, narrow, None).copy("hidden", torch.arange(32.0), target)
    assert target.tolist() == list(range(0, 32, 2))


def test_a_thin_student_of_bert_can_be_made_thinner_though_its_neurons_are_as_many_as_hidden_dimensions():
    reader = Teacher(tiny.masked_lm(intermediate_size=32))
    made = started_student("thin", reader, {"intermediate_size": 16})
    assert made.sliced
    start_from_text(made.student, reader, lambda: read_some(reader, [(_ids(), None)]))
    importance = measure_importance(reader, [(_ids(), None)])
    for number, layer in enumerate(made.student.encoder.layer):
        kept = importance.neurons[f"encoder.layer.{number}"].topk(16).indices.sort().values
        wide = reader.body.encoder.layer[number].intermediate.dense.weight
        torch.testing.assert_close(layer.intermediate.dense.weight, wide[kept])


def test_a_model_that_was_watched_runs_as_before():
    teacher = Teacher(_body(_config("bert")))

    def hooks():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in teacher.body.modules()]

    before, hooked = teacher.body(input_ids=_ids()).last_hidden_state, hooks()
    measure_importance(teacher, [(_ids(), None)])
    assert hooks() == hooked
    torch.testing.assert_close(teacher.body(input_ids=_ids()).last_hidden_state, before, rtol=0, atol=0)


FEED_FORWARD = {"bert": "encoder.layer.{}.output.dense", "llama": "layers.{}.mlp.down_proj", "gpt2": "h.{}.mlp.c_proj"}


@pytest.mark.parametrize("family", FEED_FORWARD)
def test_the_neurons_that_stay_are_fitted_to_what_all_of_them_gave(family):
    """By numpy's least squares, in which rows that pull towards the kept weights stand for the decay."""
    teacher, kept = Teacher(_body(_config(family))), 20
    ids, mask = _ids(shape=(6, 20)), torch.ones(6, 20, dtype=torch.long)
    mask[2, 7:] = 0
    name = FEED_FORWARD[family].format(1)
    module = teacher.body.get_submodule(name)
    seen = []
    hook = module.register_forward_hook(lambda _, x, y: seen.append((x[0].double(), y.double())))
    importance = measure_importance(teacher, [(ids, mask)])
    hook.remove()
    with refitting(teacher.body, importance, kept) as refit:
        read_some(teacher, [(ids[:2], None), (ids[2:], mask[2:])])
    found = refit.weights()

    x, y = (each[mask.bool()].numpy() for each in seen[0])
    layer = name.rpartition("." + FEED_FORWARD[family].partition("{}.")[2])[0]
    places = importance.neurons[layer].topk(kept).indices.sort().values
    x, weight = x[:, places], module.weight.detach().double()
    weight = (weight.mT if family == "gpt2" else weight)[:, places].numpy()
    decay = np.sqrt(1e-2 * np.square(x).mean(0).mean() * len(x)) * np.eye(kept)
    ones = np.ones((len(x), 1)) if family != "llama" else np.zeros((len(x), 0))
    given = np.block([[x, ones], [decay, np.zeros((kept, ones.shape[1]))]])
    wanted = np.concatenate([y, decay @ weight.T])
    solution = np.linalg.lstsq(given, wanted, rcond=None)[0]
    fitted = found[f"{name}.weight"].mT if family == "gpt2" else found[f"{name}.weight"]
    np.testing.assert_allclose(fitted[:, places], solution[:kept].T, rtol=2e-4, atol=2e-5)
    if family == "llama":
        assert f"{name}.bias" not in found
    else:
        np.testing.assert_allclose(found[f"{name}.bias"], solution[kept], rtol=2e-4, atol=2e-5)


def test_a_fitted_student_is_nearer_to_its_teacher_than_one_of_the_same_neurons():
    teacher = Teacher(_body(_config("llama")))
    ids = _ids(shape=(40, 30))
    importance = measure_importance(teacher, [(ids, None)])
    students = [build_student("thin", teacher.config, head=None) for _ in range(2)]
    initialise_from_teacher(students[0], teacher, importance=importance)
    start_from_text(students[1], teacher, lambda: read_some(teacher, [(ids, None)]))
    new = _ids(seed=9, shape=(20, 30))
    expected = teacher.body(input_ids=new).last_hidden_state
    apart, fitted = ((each.eval()(input_ids=new).last_hidden_state - expected).square().mean() for each in students)
    assert fitted < 0.95 * apart


def test_a_student_with_all_neurons_is_fitted_to_nothing():
    teacher = Teacher(_body(_config("bert")))
    with refitting(teacher.body, measure_importance(teacher, [(_ids(), None)]), 64) as refit:
        read_some(teacher, [(_ids(), None)])
    assert refit.weights() == {}


def _started(teacher, batches, **sizes):
    """A student of half of the layers and 20 neurons."""
    student = build_student("half", teacher.config, {"intermediate_size": 20} | sizes)
    start_from_text(student, teacher, lambda: read_some(teacher, batches))
    return student.state_dict()


def test_the_same_text_is_read_whatever_the_size_of_a_batch():
    teacher = Teacher(_body(_config("bert")))
    ids, mask = _ids(shape=(1400, 16)), torch.ones(1400, 16, dtype=torch.long)
    mask[::3, 11:] = 0
    read, forward = [], teacher.forward
    teacher.forward = lambda ids, mask: read.append(mask) or forward(ids, mask)
    students = []
    for size in (7, 64, 1400):
        students.append(_started(teacher, list(zip(ids.split(size), mask.split(size), strict=True))))
        assert TOKENS <= sum(int(each.sum()) for each in read) / 2 < TOKENS + 16
        read.clear()
    for each in students[1:]:
        for name, weight in each.items():
            torch.testing.assert_close(weight, students[0][name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_network_whose_neurons_are_silent_is_fitted_to_nothing():
    body = _body(BertConfig(**tiny.SIZES, vocab_size=100, hidden_act="relu", initializer_range=0.2))
    silent = body.encoder.layer[1]
    with torch.no_grad():
        silent.intermediate.dense.weight.zero_()
        silent.intermediate.dense.bias.zero_()
    student = _started(Teacher(body), [(_ids(), None)])
    kept = student["encoder.layer.0.output.dense.weight"].mT
    assert all((row == silent.output.dense.weight.mT).all(1).any() for row in kept)
    torch.testing.assert_close(student["encoder.layer.0.output.dense.bias"], silent.output.dense.bias)


def test_a_network_that_stays_as_wide_isn_t_fitted():
    """Experts that all tokens share have a size of their own, which a student's other neurons don't change."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = Qwen2MoeConfig(
        vocab_size=100, intermediate_size=64, shared_expert_intermediate_size=64, pad_token_id=0, **sizes, **experts
    )
    teacher = Teacher(_body(config))
    assert measure_importance(teacher, [(_ids(), None)]).neurons["layers.0"].shape == (64,)
    student = _started(teacher, [(_ids(), None)], num_hidden_layers=2)
    for name, weight in student.items():
        torch.testing.assert_close(weight, teacher.body.state_dict()[name], rtol=0, atol=0, msg=name)


def test_matrices_of_relative_positions_leave_it_open_what_is_what():
    config = tiny.config("deberta-v2", pos_att_type=["p2c", "c2p"], share_att_key=False)
    assert measure_importance(Teacher(_body(config)), [(_ids(), None)]) is None


def test_a_visiting_teacher_starts_the_same_student():
    teacher = Teacher(_body(_config("bert")))
    visitor = teacher.visiting(torch.device("cpu"))
    student = build_student("half", teacher.config, {"intermediate_size": 20, "hidden_size": 16})
    start_from_text(student, teacher, lambda: read_some(visitor, [(_ids(), None)]), visitor.body)
    expected = _started(teacher, [(_ids(), None)], hidden_size=16)
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("family", "said"), [("mixtral", "which neurons"), ("albert", "which dimensions"), ("bert", "")]
)
def test_a_run_says_where_it_cant_be_told_what_matters(tmp_path, capsys, family, said):
    sizes = tiny.SIZES | {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0}
    config = {
        "mixtral": MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2, eos_token_id=3),
        "albert": AlbertConfig(**sizes, embedding_size=8, num_hidden_groups=2),
        "bert": BertConfig(**sizes),
    }[family]
    kind, method = (AutoModelForCausalLM, "kd") if family == "mixtral" else (AutoModel, "minilm-v2")
    teacher = Teacher(kind.from_config(config).eval())
    student = started_student("thin", teacher, head=CAUSAL if family == "mixtral" else None).student
    args = DistillationConfig(output_dir=str(tmp_path), max_steps=1, eval_strategy="no", report_to="none")
    DistillationTrainer(student, teacher, args, tiny.rows(20), tiny.tokenizer(), method=method, sliced=True)
    told = capsys.readouterr().out
    assert (f"note     {said} matter on the text can't be told of a {family} model" in told) == bool(said)


def test_what_matters_is_chosen_on_rows_from_all_over_the_text(tmp_path):
    rows = [{"input_ids": [2, *[10 if number < 1500 else 90] * 14, 3]} for number in range(3000)]
    teacher = tiny.masked_lm()
    student = build_student("thin", teacher.config)
    initialise_from_teacher(student, Teacher(teacher))
    read = []
    teacher.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    args = DistillationConfig(output_dir=str(tmp_path), max_steps=1, eval_strategy="no", report_to="none")
    DistillationTrainer(student, teacher, args, rows, tiny.tokenizer(), method="minilm-v2", sliced=True)
    tokens = torch.cat([ids.flatten() for ids in read])
    assert 0.4 < (tokens == 90).sum() / ((tokens == 10) | (tokens == 90)).sum() < 0.6  # the later half of the text


def test_a_teacher_in_8_bits_starts_a_student_from_the_numbers_that_it_stands_for():
    rounded = Teacher(_body(_config("bert")))
    rounded.quantise()
    plain = _body(_config("bert"))
    with torch.no_grad():
        for name, weight in plain.state_dict().items():
            weight.copy_(whole(rounded.body.state_dict()[name]))
    found, expected = (_started(teacher, [(_ids(), None)]) for teacher in (rounded, Teacher(plain)))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_is_only_measured_or_goes_on_from_a_checkpoint_reads_no_text(tmp_path, monkeypatch):
    save(tiny.masked_lm(intermediate_size=128), tmp_path / "teacher")
    corpus = save_corpus(tmp_path / "corpus.txt")
    read = []
    monkeypatch.setattr(trainer, "start_from_text", lambda *_: (read.append(None), None))
    run = ["--teacher", str(tmp_path / "teacher"), "--student", "thin", "--corpus", corpus, "--max_length", "16"]
    run += ["--max_steps", "2", "--save_steps", "1", "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    complete("distill", *run, "--dry_run")
    assert not read
    complete("distill", *run)
    assert len(read) == 1
    for left in ("checkpoint-2", "trainer_state.json"):
        shutil.rmtree(tmp_path / "out" / left) if "-" in left else (tmp_path / "out" / left).unlink()
    complete("distill", *run)
    assert len(read) == 1
