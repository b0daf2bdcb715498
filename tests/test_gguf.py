"""Checkpoints in GGUF, written here as llama.cpp's converter writes them."""

import json
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import tiny
import torch
from commands import SHORT, complete, save_corpus
from transformers import AutoModelForCausalLM, PreTrainedModel

from tutorkd import hub
from tutorkd.errors import UserError
from tutorkd.hub import files_of, load_config, load_model, load_tokenizer
from tutorkd.kinds import kind_of_checkpoint

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{kind}_proj": f"attn_{kind}" for kind in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")},
}


def write(model: PreTrainedModel, path: Path) -> str:
    """A Llama in float32 with the tiny byte-pair tokenizer."""
    config, tokenizer = model.config, tiny.causal_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    backend = tokenizer.backend_tokenizer.to_str()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token == tiny.END_OF_TEXT else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in json.loads(backend)["model"]["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    for name, weight in model.state_dict().items():
        layer, rest = "", name.removesuffix(".weight")
        if rest.startswith("model.layers."):
            number, rest = rest.removeprefix("model.layers.").split(".", 1)
            layer = f"blk.{number}."
        for kind, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            if rest == f"self_attn.{kind}_proj":  # the halves of a head, which rotate together, are interleaved
                weight = weight.view(heads, 2, -1, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{layer}{NAMES[rest]}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture
def written(tmp_path):
    model = tiny.tiny_causal("llama")
    return model, write(model, tmp_path / "model.gguf")


def test_a_model_in_gguf_gives_the_answers_of_the_one_that_was_written(written):
    model, path = written
    loaded, missing = load_model(AutoModelForCausalLM, path, "teacher")
    ids = torch.arange(1, 31).view(2, 15)
    assert missing == []
    assert torch.allclose(loaded.eval()(ids).logits, model(ids).logits, atol=1e-4)
    assert load_config(path, "teacher").num_hidden_layers == 4
    assert kind_of_checkpoint(path) == "causal"


def test_what_was_loaded_is_trained_and_saved_as_any_other_model(written, tmp_path):
    loaded, _ = load_model(AutoModelForCausalLM, written[1], "student")
    ids = torch.arange(1, 31).view(2, 15)
    loaded(ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in loaded.parameters())
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    loaded.save_pretrained(tmp_path / "saved")
    load_tokenizer(written[1], "student", needed=()).save_pretrained(tmp_path / "saved")
    again, missing = load_model(AutoModelForCausalLM, str(tmp_path / "saved"), "student")
    assert missing == []
    assert "quantization_config" not in again.config.to_dict()
    assert not hasattr(load_config(written[1], "student"), "quantization_config")
    assert torch.equal(again.eval()(ids).logits, loaded.eval()(ids).logits)
    text = tiny.documents(1)[0]
    tokenizer = load_tokenizer(str(tmp_path / "saved"), "student", needed=("eos_token",))
    assert tokenizer(text)["input_ids"] == tiny.causal_tokenizer()(text)["input_ids"]


def test_its_tokenizer_gives_the_ids_of_the_one_that_was_written(written):
    tokenizer = load_tokenizer(written[1], "teacher", needed=("eos_token",))
    assert tokenizer.eos_token == tiny.END_OF_TEXT
    for text in tiny.documents(5):
        assert tokenizer(text)["input_ids"] == tiny.causal_tokenizer()(text)["input_ids"]


def test_a_name_is_a_file_here_or_one_in_a_repository_of_the_hub(written, tmp_path):
    assert files_of(written[1]) == (str(tmp_path), {"gguf_file": "model.gguf"})
    assert files_of("lab/model/q4.gguf") == ("lab/model", {"gguf_file": "q4.gguf"})
    assert files_of("lab/model/sub/Q4.GGUF") == ("lab/model", {"gguf_file": "sub/Q4.GGUF"})
    assert files_of("lab/model") == ("lab/model", {})
    (tmp_path / "folder.gguf").mkdir()
    assert files_of(str(tmp_path / "folder.gguf")) == (str(tmp_path / "folder.gguf"), {})


def test_a_file_that_isn_t_there_or_isn_t_gguf_is_told_in_one_line(written, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"model2\.gguf: there is no such file; did you mean .*model\.gguf\?"):
        load_config(str(tmp_path / "model2.gguf"), "teacher")
    with pytest.raises(UserError, match=r"^the teacher lab/q4\.gguf: there is no such file$"):
        load_config("lab/q4.gguf", "teacher")
    with pytest.raises(UserError, match=r"^the teacher lab/a/q4\.gguf isn't a file here; HF_HUB_OFFLINE forbids "):
        load_config("lab/a/q4.gguf", "teacher")
    (tmp_path / "text.gguf").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.gguf can't be loaded: "):
        load_model(AutoModelForCausalLM, str(tmp_path / "text.gguf"), "teacher")
    monkeypatch.setattr(hub, "is_gguf_available", lambda: False)
    with pytest.raises(
        UserError, match=r"is a GGUF file, which the package gguf reads: pip install 'tutorkd\[gguf\]'$"
    ):
        load_config(written[1], "teacher")


def test_a_student_of_a_teacher_in_gguf_is_trained_and_saved(written, tmp_path):
    _, path = written
    out = tmp_path / "out"
    text = save_corpus(tmp_path / "text.txt")
    complete("distill", "--teacher", path, "--corpus", text, "--method", "kd", "--output_dir", str(out), *SHORT)
    student = AutoModelForCausalLM.from_pretrained(out)
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (4, 48)
    assert not hasattr(student.config, "quantization_config")


_CHILD = """
import json, sys
from pathlib import Path
from transformers import AutoModelForCausalLM
from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.kinds import kind_of_checkpoint
name = "lab/packed/sub/small.gguf"
found = find_checkpoint(name)
layers = load_model(AutoModelForCausalLM, name, "teacher")[0].config.num_hidden_layers
tokens = len(load_tokenizer(name, "teacher", needed=("eos_token",)))
there = sorted(file.name for file in Path(sys.argv[1]).rglob("*.gguf"))
print(json.dumps([kind_of_checkpoint(name), layers, tokens, found.bytes, found.identity, there]))
"""


def test_a_file_of_the_hub_is_fetched_alone(tmp_path):
    repository = tmp_path / "packed"
    (repository / "sub").mkdir(parents=True)
    write(tiny.tiny_causal("llama", num_hidden_layers=2), repository / "sub" / "small.gguf")
    write(tiny.tiny_causal("llama"), repository / "large.gguf")
    with hub_server.serving() as hub:
        hub.add("models", "lab/packed", repository)
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(tmp_path / "home")],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    kind, layers, tokens, size, identity, there = json.loads(done.stdout.splitlines()[-1])
    assert (kind, layers, tokens, there) == ("causal", 2, 320, ["small.gguf"])
    assert size == (repository / "sub" / "small.gguf").stat().st_size == identity["bytes"]
    assert identity["source"] == "lab/packed/sub/small.gguf"
    assert identity["revision"]
