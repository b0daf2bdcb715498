"""Models that ``tutorkd adapt`` starts at random on a tokenizer, and checkpoints whose tokenizer has new tokens."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from commands import SHORT, assert_same, complete, fail, save, set_json, weights
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, set_seed

from tutorkd.report import training

FAMILIES = ("bert", "roberta", "electra", "modernbert", "distilbert")
UNTRAINED = ["--learning_rate", "0"]  # what is saved is what training began with
NEW = ["zwieback", "w95"]


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    """A tokenizer in a folder of its own, whose 100 tokens are those of ``tiny``."""
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def more(tmp_path) -> Path:
    """The same with two tokens behind them."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(NEW)
    tokenizer.save_pretrained(tmp_path / "more")
    return tmp_path / "more"


@pytest.fixture
def configuration(tmp_path) -> Path:
    """One of another vocabulary than the tokenizer's."""
    tiny.config("bert").save_pretrained(tmp_path / "configuration")
    set_json(tmp_path / "configuration/config.json", vocab_size=5000, pad_token_id=77)
    return tmp_path / "configuration"


def adapt(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["adapt", "--corpus", str(corpus), "--output_dir", str(out), *SHORT, *more]


def at_random(configuration: Path, tokenizer: Path, *more: str) -> list[str]:
    return ["--config_name", str(configuration), "--tokenizer_name", str(tokenizer), *more]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_at_random_is_that_of_its_configuration_with_the_tokenizer_s_vocabulary(
    tmp_path, corpus_file, tokenizer, family
):
    """``tiny``'s configurations have that vocabulary, and where they have them the ids of its special tokens."""
    right, folder = tiny.config(family), tmp_path / "other"
    right.save_pretrained(folder)
    strange = {name: 90 + i for i, name in enumerate(tiny.IDS) if hasattr(right, name)}
    set_json(folder / "config.json", vocab_size=5000, **(strange | {"pad_token_id": 9}))
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(folder, tokenizer), *UNTRAINED, "--seed", "7"))
    set_seed(7)
    expected = AutoModelForMaskedLM.from_config(right, dtype=torch.float32)
    found = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert_same(dict(found.state_dict()), dict(expected.state_dict()))
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": None, "eos_token_id": None}
    told = found.config.to_dict()
    assert {name: told[name] for name in ids if name in told} == {name: ids[name] for name in ids if name in told}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tiny.tokenizer().get_vocab()


def test_a_causal_model_at_random_has_the_tokenizer_s_end_of_text(tmp_path, corpus_file):
    tiny.causal_tokenizer().save_pretrained(tmp_path / "tokenizer")
    tiny.causal_config("llama", vocab_size=999, bos_token_id=5, eos_token_id=6).save_pretrained(tmp_path / "other")
    flags = at_random(tmp_path / "other", tmp_path / "tokenizer")
    complete(*adapt(corpus_file, tmp_path / "out", *flags))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    config = model.config
    assert (config.vocab_size, config.eos_token_id, config.bos_token_id) == (tiny.CAUSAL_VOCABULARY, 0, None)
    assert model.get_output_embeddings().weight.shape[0] == tiny.CAUSAL_VOCABULARY
    assert model.generation_config.eos_token_id == 0


def test_what_started_at_random_is_a_teacher(tmp_path, corpus_file, configuration, tokenizer):
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    student = ["--corpus", str(corpus_file), "--output_dir", str(tmp_path / "student"), *SHORT]
    complete("distill", "--method", "tutor-kd", "--teacher", str(tmp_path / "out"), *student)
    assert AutoModel.from_pretrained(tmp_path / "student").config.vocab_size == tiny.VOCABULARY


def test_a_model_at_random_isn_t_quantised_as_the_checkpoint_of_its_configuration_is(
    tmp_path, corpus_file, configuration, tokenizer
):
    set_json(configuration / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").dtype == torch.float32


def test_what_started_at_random_names_no_checkpoint(tmp_path, corpus_file, configuration, tokenizer):
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    card = ModelCard.load(tmp_path / "out/README.md")
    assert "# A masked language model\n" in card.text
    assert "| start         | random weights" in card.text
    assert not [word for word in ("adapted", "further", str(tmp_path)) if word in card.content]
    assert card.data.base_model is None
    assert training.section(tmp_path / "out", running=False).title == "configuration"


def test_a_card_names_no_configuration_of_the_hub_as_its_base_model(
    tmp_path, configuration, tokenizer, monkeypatch, corpus_file
):
    """transformers notes in a configuration where it came from; as if that were on the Hub."""
    load = AutoConfig.from_pretrained

    def named(*args, **kwargs):
        config = load(*args, **kwargs)
        config.name_or_path = "google-bert/bert-base-uncased"
        return config

    monkeypatch.setattr(AutoConfig, "from_pretrained", named)
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    assert "bert-base-uncased" not in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_a_run_at_random_goes_on_to_the_same_weights(tmp_path, corpus_file, configuration, tokenizer, capfd):
    command = at_random(configuration, tokenizer)
    complete(*adapt(corpus_file, tmp_path / "whole", *command))
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/checkpoint-4")
    for name in ("model.safetensors", "trainer_state.json"):
        (tmp_path / "out" / name).unlink()
    complete(*adapt(corpus_file, tmp_path / "out", *command))
    assert f"going on from {tmp_path}/out/checkpoint-2" in capfd.readouterr().out
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("changed", ["config_name", "tokenizer_name"])
def test_a_configuration_or_tokenizer_that_changed_makes_another_run(
    tmp_path, corpus_file, configuration, tokenizer, capfd, changed
):
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    if changed == "config_name":
        set_json(configuration / "config.json", hidden_act="relu")
    else:
        set_json(tokenizer / "tokenizer_config.json", model_max_length=63)
    message = fail(capfd, *adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer)))
    assert f"holds another run (the contents of {changed} {tmp_path}/" in message


def test_a_dry_run_at_random_tells_the_model_and_writes_nothing(tmp_path, corpus_file, configuration, tokenizer, capfd):
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tokenizer), "--dry_run"))
    told = capfd.readouterr().out
    expected = AutoModelForMaskedLM.from_config(tiny.config("bert")).num_parameters() / 1e6
    assert f"model    {configuration}: {expected:.1f} M parameters, bert of 100 tokens, starts at random" in told
    assert f"config_name: {configuration}\ntokenizer_name: {tokenizer}\n" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_new_tokens_get_embeddings_and_the_others_stay_as_they_are(tmp_path, corpus_file, more, family, capfd):
    model = tiny.masked_lm(family)
    folder = save(model, tmp_path / "model")
    complete(*adapt(corpus_file, tmp_path / "out", "--model", folder, "--tokenizer_name", str(more), *UNTRAINED))
    assert "the checkpoint's, 2 tokens new to it start near the mean" in capfd.readouterr().out
    found = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert found.config.vocab_size == tiny.VOCABULARY + 2
    before, after = model.get_input_embeddings().weight, found.get_input_embeddings().weight
    assert torch.equal(after[: tiny.VOCABULARY], before)
    assert after.shape[0] == tiny.VOCABULARY + 2
    assert (after[tiny.VOCABULARY :] - before.mean(0)).abs().max() < 5 * before.std()
    ids = torch.tensor(tiny.rows(2)[0]["input_ids"])[None]
    answers = found(ids).logits
    assert answers.shape[-1] == tiny.VOCABULARY + 2
    torch.testing.assert_close(answers[..., : tiny.VOCABULARY], model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids(NEW) == [100, 101]


def test_a_model_takes_another_tokenizer_with_the_same_tokens(tmp_path, corpus_file, tokenizer):
    folder, same = save(tiny.masked_lm(), tmp_path / "model"), tmp_path / "same"
    complete(*adapt(corpus_file, same, "--model", folder))
    complete(*adapt(corpus_file, tmp_path / "out", "--model", folder, "--tokenizer_name", str(tokenizer)))
    assert_same(weights(tmp_path / "out"), weights(same))


def _bare(folder: Path) -> Path:
    """A tokenizer as the package tokenizers writes it, which says of no token that it is special."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(tiny.SPECIAL + tiny.WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_what_doesn_t_fit_is_told_with_what_to_do(tmp_path, corpus_file, configuration, tokenizer, capfd):
    model = save(tiny.masked_lm(), tmp_path / "model")
    other = tmp_path / "other"
    shutil.copytree(tokenizer, other)
    file = other / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"w7"', '"xx"'), encoding="utf-8")
    bare = _bare(tmp_path / "bare")
    t5 = tmp_path / "t5"
    t5.mkdir()
    (t5 / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    mistakes = [
        ([], "no model: name the model to adapt with --model, or with --config_name the configuration of a model"),
        (["--model", model, *at_random(configuration, tokenizer)], "leave out --config_name or --model"),
        (["--config_name", str(configuration)], f"such as --tokenizer_name {configuration} if there is one beside"),
        (["--model", model, "--tokenizer_name", str(other)], f"the vocabularies of the model {model} and of the "
         f"tokenizer {other} differ: token 12 is 'w7' and 'xx'; choose models that share one; to use this "
         f"tokenizer, start at random, with --config_name {model} instead of --model"),
        (at_random(tmp_path / "nowhere", tokenizer), f"the configuration {tmp_path}/nowhere: there is no such folder"),
        (at_random(configuration, tmp_path / "nowhere"), f"the tokenizer {tmp_path}/nowhere: there is no such folder"),
        (at_random(configuration, configuration), f"the tokenizer {configuration} only has special tokens"),
        (at_random(configuration, bare), f"the tokenizer {bare} has no mask_token, cls_token, sep_token, pad_token, "
         "which masked language modelling needs; name it with: AutoTokenizer.from_pretrained("
         f'"{bare}", mask_token="...", cls_token="...", sep_token="...", pad_token="...").save_pretrained("FOLDER")'),
        (at_random(t5, tokenizer), f"the configuration {t5} is an encoder-decoder (t5), which can't be trained here"),
        (at_random(configuration, tokenizer, "--max_length", "65"), "than the 64 positions of the configuration"),
    ]  # fmt: skip
    for flags, message in mistakes:
        assert message in fail(capfd, *adapt(corpus_file, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


def test_the_remedy_for_a_tokenizer_without_special_tokens_works(tmp_path, corpus_file, configuration, capfd):
    bare = _bare(tmp_path / "bare")
    names = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    AutoTokenizer.from_pretrained(str(bare), **names).save_pretrained(tmp_path / "FOLDER")
    complete(*adapt(corpus_file, tmp_path / "out", *at_random(configuration, tmp_path / "FOLDER")))
    assert AutoConfig.from_pretrained(tmp_path / "out").vocab_size == tiny.VOCABULARY
