"""``tutorkd trim``: fewer tokens, and the same answers."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from commands import SHORT, complete, edited, fail, save, save_causal, set_json
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.vocabulary.embeddings import parameters_with, trim_embeddings
from tutorkd.vocabulary.pieces import parts_of
from tutorkd.vocabulary.tokenizer import ranked_tokens, trimmed_tokenizer

GERMAN = [
    "Der schnelle braune Fuchs springt über den faulen Hund, und der Hund schläft weiter.",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein, sagte der Fuchs zum Hund.",
    "Die Straße nach Köln war gesperrt; größere Umwege waren nötig.",
]
OTHERS = [
    "The quick brown fox jumps over the lazy dog, and the dog keeps on sleeping.",
    "คืนนี้ 狐狸跳过了那只懒狗 そして犬は眠り続ける",
    "Szybki brązowy lis przeskakuje nad leniwym psem, a pies śpi dalej.",
    "Le rapide renard brun saute par-dessus le chien paresseux qui dort encore.",
]
# Of each kind of tokenizer that transformers has, and of each way to mark where words begin or end.
TOKENIZERS = [
    *("BertTokenizer", "MPNetTokenizer"),  # WordPiece
    *("XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer", "DebertaV2Tokenizer", "T5Tokenizer"),  # Unigram
    *("RobertaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer"),  # byte-pair encoding of bytes
    *("LlamaTokenizer", "HerbertTokenizer"),  # byte-pair encoding of letters
]


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    return getattr(transformers, name)().train_new_from_iterator([*GERMAN, *OTHERS] * 4, vocab_size=500)


def _counts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> np.ndarray:
    ids = [number for text in texts for number in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return np.bincount(ids, minlength=len(tokenizer))


def _trimmed(tokenizer: PreTrainedTokenizerBase, texts: list[str], size: int | None, folder: Path):
    """A tokenizer of the tokens of some texts, as it is loaded again, and the old ids of its tokens."""
    order, _ = ranked_tokens(tokenizer, _counts(tokenizer, texts))
    kept = np.sort(order[:size])
    trimmed_tokenizer(tokenizer, kept).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), kept


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_whose_tokens_all_stay_are_cut_as_before(name, tmp_path):
    whole = _tokenizer(name)
    trimmed, kept = _trimmed(whole, GERMAN, None, tmp_path)
    assert len(trimmed) == len(kept) < 0.9 * len(whole)
    assert type(trimmed) is type(whole)
    for text in [*GERMAN, "Der Fuchs schläft, die Freiheit war grenzenlos."]:
        assert kept[trimmed(text)["input_ids"]].tolist() == whole(text)["input_ids"]
        names = [each.convert_ids_to_tokens(each(text)["input_ids"]) for each in (trimmed, whole)]
        assert names[0] == names[1]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_stay_with_ids_in_their_order(name, tmp_path):
    whole = _tokenizer(name)
    trimmed, kept = _trimmed(whole, GERMAN, None, tmp_path)
    assert trimmed.special_tokens_map == whole.special_tokens_map
    assert [kept[number] for number in trimmed.all_special_ids] == whole.all_special_ids
    assert set(whole.added_tokens_decoder) == {int(kept[number]) for number in trimmed.added_tokens_decoder}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_whose_tokens_are_gone_are_spelled_with_smaller_ones(name, tmp_path):
    whole = _tokenizer(name)
    trimmed, _ = _trimmed(whole, GERMAN, None, tmp_path)
    text = "le renard dort encore"  # letters of the text, in other words
    before, after = (each(text, add_special_tokens=False)["input_ids"] for each in (whole, trimmed))
    assert len(after) > len(before)
    assert trimmed.unk_token_id is None or trimmed.unk_token_id not in after
    assert trimmed.decode(after, skip_special_tokens=True) == whole.decode(before, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS[-5:])
def test_any_number_of_the_first_tokens_has_all_that_they_are_merged_of(name):
    whole = _tokenizer(name)
    order, fixed = ranked_tokens(whole, _counts(whole, GERMAN))
    parts, ids = parts_of(json.loads(whole.backend_tokenizer.to_str())), whole.get_vocab()
    place = {int(number): rank for rank, number in enumerate(order)}
    assert len(place) == len(order)
    for rank, number in enumerate(order[fixed:], start=fixed):
        assert all(place[ids[part]] <= rank for part in parts(whole.convert_ids_to_tokens(int(number))))


def test_the_tokens_that_most_of_the_text_is_made_of_come_first():
    whole = tiny.tokenizer()  # of whole words, which aren't made of anything
    counts = np.zeros(len(whole), np.int64)
    counts[[10, 20, 30]] = 5, 7, 1
    order, fixed = ranked_tokens(whole, counts, needed=[50])
    assert (order.tolist(), fixed) == ([*tiny.SPECIAL_IDS, 50, 20, 10, 30], 6)


def test_letters_count_wherever_a_token_has_them():
    vocabulary = {"[UNK]": 0, "ab": 1, "##b": 2, "a": 3, "cb": 4, "c": 5, "##a": 6, "b": 7}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    counts = np.array([0, 3, 0, 0, 4, 0, 0, 0])  # of "ab" and "cb"
    order, fixed = ranked_tokens(whole, counts)
    # b in seven tokens, alone and as an end; c in four and the word itself; a in three
    assert (order.tolist(), fixed) == ([0, 7, 2, 5, 4, 3, 1, 6], 1)


def test_a_merged_token_stays_with_the_merges_on_the_way_to_it():
    merges = [["b", "c"], ["a", "bc"], ["a", "b"], ["abc", "d</w>"]]
    model = {"type": "BPE", "merges": merges, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    tokens = ["a", "b", "c", "d</w>", "bc", "ab", "abc", "abcd</w>"]
    parts = parts_of(
        {"model": {**model, "vocab": {token: number for number, token in enumerate(tokens)}}, "added_tokens": []}
    )
    # "ab" is never formed here, since b and c are joined before a and b would be.
    assert parts("abcd</w>") == ["a", "b", "c", "d</w>", "bc", "abc", "abcd</w>"]
    assert parts("ab") == ["a", "b", "ab"]
    assert parts("d</w>") == ["d</w>"]


def _write(folder: Path, texts: list[str]) -> str:
    file = folder / "text.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    return str(file)


FAMILIES = [
    *("BertForMaskedLM", "BertForPreTraining", "BertForTokenClassification", "BertModel", "ElectraForMaskedLM"),
    *("ElectraForPreTraining", "AlbertForMaskedLM", "RobertaForMaskedLM", "ModernBertForMaskedLM", "MPNetForMaskedLM"),
    *("DebertaV2ForMaskedLM", "EsmForMaskedLM", "DistilBertForMaskedLM"),
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM", "GPTNeoXForCausalLM"),
]


def _model(architecture: str, **changes):
    """A model of 110 tokens, ten of which its tokenizer doesn't have, at random everywhere, also in its biases."""
    family = next(name for name in ("For", "LMHead", "Model") if name in architecture)
    config = getattr(transformers, architecture[: architecture.index(family)] + "Config")
    if "DistilBert" in architecture:
        sizes = {"n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 64}
    else:
        sizes = {**tiny.SIZES, "num_hidden_layers": 2}
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = config(**{"vocab_size": 110, "max_position_embeddings": 160, **sizes, **ids, **changes})
    changed = {"embedding_size": 16, "num_key_value_heads": 2}
    for name in changed.keys() & vars(config).keys():
        setattr(config, name, changed[name])
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    return model


WORDS = [30, 35, 40, 95]  # ids of the words of the text
TEXT = ["w25 w30 w35 w90 w25 w25", "w30 w25 w90"] * 4


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_trimmed_model_gives_the_same_answers(architecture, tmp_path):
    model = _model(architecture)
    folder = save(model, tmp_path / "whole")
    complete(
        "trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", "--coverage", "1", *_to(tmp_path)
    )
    trimmed = getattr(transformers, architecture).from_pretrained(tmp_path / "trimmed").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    kept = [*tiny.SPECIAL_IDS, *WORDS]
    assert trimmed.config.vocab_size == len(tokenizer) == len(kept)
    whole_ids = torch.tensor([[2, 30, 95, 4, 35, 3]])
    ids = tokenizer("w25 w90 [MASK] w30", return_tensors="pt")["input_ids"]
    assert torch.tensor(kept)[ids].tolist() == whole_ids.tolist()
    with torch.no_grad():
        expected, found = model(whole_ids)[0], trimmed(ids)[0]
    if expected.shape[-1] == 110:
        expected = expected[..., kept]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _to(folder: Path) -> list[str]:
    return ["--output_dir", str(folder / "trimmed")]


def test_untied_heads_are_trimmed_as_embeddings_are(tmp_path):
    model = _model("LlamaForCausalLM", tie_word_embeddings=False)
    folder = save(model, tmp_path / "whole")
    complete(
        "trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", "--coverage", "1", *_to(tmp_path)
    )
    trimmed = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "trimmed")
    kept = [*tiny.SPECIAL_IDS, *WORDS]
    assert torch.equal(trimmed.get_input_embeddings().weight, model.get_input_embeddings().weight[kept])
    assert torch.equal(trimmed.get_output_embeddings().weight, model.get_output_embeddings().weight[kept])


def test_configurations_name_the_new_ids(tmp_path):
    model = tiny.tiny_causal(vocab_size=330)
    model.config.eos_token_id = model.generation_config.eos_token_id = [0, 300, 325]  # the last stands for no token
    folder = save_causal(model, tmp_path / "whole")
    text = tmp_path / "text.txt"
    text.write_text("w1 w2", encoding="utf-8")
    complete("trim", "--model", folder, "--corpus", str(text), *_to(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    of_300 = tokenizer.convert_tokens_to_ids(tiny.causal_tokenizer().convert_ids_to_tokens(300))
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "trimmed" / file).read_text())["eos_token_id"] == [0, of_300]


def test_a_classifier_keeps_its_classes_and_its_number_format(tmp_path):
    classes = {0: "bad", 1: "good"}
    model = _model("BertForSequenceClassification", id2label=classes, label2id={"bad": 0, "good": 1}).to(torch.bfloat16)
    folder = save(model, tmp_path / "whole")
    complete("trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path))
    trimmed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trimmed", dtype="auto")
    assert (trimmed.config.id2label, trimmed.dtype) == (classes, torch.bfloat16)
    assert torch.equal(trimmed.classifier.weight, model.classifier.weight)


def test_the_table_tells_sizes_and_tokens(tmp_path, capsys):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    text = _write(tmp_path, ["w1 w2 w3 w1", "w1 w1 w2", "w1 w2 w1"])  # ten words, one document held out
    complete("trim", "--model", folder, "--corpus", text, "--lines", "--coverage", "0.9", *_to(tmp_path))
    whole, trimmed = (find_checkpoint(str(tmp_path / name)) for name in ("whole", "trimmed"))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    (*_, tokens, tokens_after) = [row[1] for row in rows]
    kept = json.loads((tmp_path / "trimmed" / "trimmed.json").read_text())["kept"]
    assert (tokens, tokens_after) == ("100", str(len(kept)))
    assert [row[4] for row in rows[1:]][-2:] == ["10", "10"]
    before, after = (AutoModelForMaskedLM.from_pretrained(each.folder).num_parameters() for each in (whole, trimmed))
    assert before - after == (100 - len(kept)) * (32 + 1)  # an embedding and a bias for each


def test_what_is_written_is_a_teacher(tmp_path, corpus_file):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    complete("trim", "--model", folder, "--corpus", str(corpus_file), "--vocab_size", "60", *_to(tmp_path))
    run = ["--teacher", str(tmp_path / "trimmed"), "--corpus", str(corpus_file), "--output_dir", str(tmp_path / "run")]
    complete("distill", *run, *SHORT)
    assert AutoConfig.from_pretrained(tmp_path / "run").vocab_size == 60


def test_an_embedding_model_keeps_its_vectors_and_its_prompts(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = tiny.sentence_encoder(tmp_path)
    set_json(folder / "config_sentence_transformers.json", prompts={"query": "w70 w71 "})
    complete(
        *("trim", "--model", str(folder), "--corpus", _write(tmp_path, TEXT), "--lines", "--coverage", "1"),
        *_to(tmp_path),
    )
    whole, trimmed = (SentenceTransformer(str(each), device="cpu") for each in (folder, tmp_path / "trimmed"))
    assert len(trimmed.tokenizer) == len(tiny.SPECIAL) + len(WORDS) + 2
    for prompt in (None, "query"):
        before, after = (each.encode(["w25 w90", "w30"], prompt_name=prompt) for each in (whole, trimmed))
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_an_embedding_model_whose_encoder_lies_in_a_folder_below_is_told_to_be_written_anew(tmp_path, capfd):
    from sentence_transformers import SentenceTransformer

    encoder = tiny.sentence_encoder(tmp_path)
    names = [file.name for file in encoder.iterdir() if file.is_file() and file.name != "modules.json"]
    (encoder / "0_Transformer").mkdir()
    for name in names:
        if name != "config_sentence_transformers.json":
            (encoder / name).rename(encoder / "0_Transformer" / name)
    with edited(encoder / "modules.json") as listed:
        listed[0]["path"] = "0_Transformer"
    read = ["--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path)]
    said = fail(capfd, "trim", "--model", str(encoder), *read)
    assert f'SentenceTransformer("{encoder}").save_pretrained("FOLDER")' in said
    SentenceTransformer(str(encoder)).save_pretrained(str(tmp_path / "anew"))
    complete("trim", "--model", str(tmp_path / "anew"), *read)


def test_a_dry_run_tells_sizes_to_choose_from_and_writes_nothing(tmp_path, capsys):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    text = _write(tmp_path, ["w1 w2 w3 w1", "w1 w1 w2"] * 100)
    complete("trim", "--model", folder, "--corpus", text, "--lines", "--vocab_size", "6", "--dry_run", *_to(tmp_path))
    assert not (tmp_path / "trimmed").exists()
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ][2:]
    parameters = tiny.masked_lm().num_parameters()
    assert [row[0] for row in rows] == ["6", "8", "100"]
    assert [row[3] for row in rows] == [f"{(parameters - gone * 33) / 1e6:.1f} M" for gone in (94, 92, 0)]
    assert rows[1][1] == "100.00%"
    assert 55 < float(rows[0][1].rstrip("%")) < 60  # w1 is four tokens of seven
    assert "asked for" in rows[0][4]


def test_the_same_model_is_trimmed_anew_and_another_only_when_it_is_said(tmp_path, capfd):
    first, other = (save(tiny.masked_lm(seed=seed), tmp_path / f"whole{seed}") for seed in (0, 1))
    text = _write(tmp_path, TEXT)
    run = ["--corpus", text, "--lines", *_to(tmp_path)]
    complete("trim", "--model", first, "--vocab_size", "7", *run)
    stale = tmp_path / "trimmed" / "model-00001-of-00002.safetensors"
    stale.write_bytes(b"of an earlier result")
    complete("trim", "--model", first, "--vocab_size", "8", *run)
    assert AutoConfig.from_pretrained(tmp_path / "trimmed").vocab_size == 8
    assert not stale.exists()
    assert "or --restart to overwrite it" in fail(capfd, "trim", "--model", other, *run)
    complete("trim", "--model", other, *run, "--restart")
    assert json.loads((tmp_path / "trimmed" / "trimmed.json").read_text())["model"] == other


def test_a_model_that_answers_otherwise_is_not_written(tmp_path, capfd, monkeypatch):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    monkeypatch.setattr(
        "tutorkd.vocabulary.trimming.trim_embeddings", lambda model, kept: trim_embeddings(model, np.arange(len(kept)))
    )
    line = fail(capfd, "trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path))
    assert "doesn't answer as the whole one does" in line
    assert not (tmp_path / "trimmed").exists()


def test_a_tokenizer_that_cuts_otherwise_is_not_written(tmp_path, capfd, monkeypatch):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    monkeypatch.setattr(
        "tutorkd.vocabulary.trimming.trimmed_tokenizer",
        lambda tokenizer, kept: trimmed_tokenizer(tokenizer, np.array([*kept[:-1], 99])),
    )
    line = fail(capfd, "trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path))
    assert "cuts texts otherwise" in line
    assert not (tmp_path / "trimmed").exists()


def _refusals(folder: Path) -> dict[str, tuple[list[str], str]]:
    model, text = save(tiny.masked_lm(), folder / "whole"), _write(folder, TEXT)
    named, read = ["--model", model], ["--corpus", text, "--lines"]
    other = folder / "other"
    other.mkdir()
    (other / "diary.txt").write_text("dear diary")
    unknown = folder / "unknown.txt"
    unknown.write_text("x y z")
    own = Path(shutil.copytree(model, folder / "own_class"))
    set_json(own / "config.json", architectures=["BertForDreaming"])
    few = save(_model("BertForMaskedLM", vocab_size=90), folder / "few")
    return {
        "no model": (read, "no model: name the one to trim"),
        "no text": (named, "no text: name it with --corpus"),
        "no such model": (["--model", str(folder / "hole"), *read], "did you mean"),
        "too few": ([*named, *read, "--vocab_size", "4"], "5 tokens must stay"),
        "none": ([*named, *read, "--vocab_size", "0"], "vocab_size must be 1 or more"),
        "no share": ([*named, *read, "--coverage", "0"], "coverage must be above 0"),
        "both": ([*named, *read, "--coverage", "0.9", "--vocab_size", "9"], "both say how many tokens stay"),
        "percent": ([*named, *read, "--coverage", "99"], "at most 1, not 99"),
        "folder of others": ([*named, *read, "--output_dir", str(other)], "holds something that isn't a trimmed model"),
        "its own folder": ([*named, *read, "--output_dir", model], "holds something that isn't a trimmed model"),
        "unknown text": ([*named, "--corpus", str(unknown)], "doesn't know 100% of its tokens"),
        "class of nobody": (["--model", str(own), *read], "is a BertForDreaming, which transformers doesn't have"),
        "fewer embeddings": (["--model", few, *read, "--coverage", "1"], "embeddings of 90 tokens, its tokenizer 100"),
    }


@pytest.mark.parametrize(
    "what",
    [
        *("no model", "no text", "no such model", "too few", "none", "no share", "both", "percent", "folder of others"),
        *("its own folder", "unknown text", "class of nobody", "fewer embeddings"),
    ],
)
def test_what_cant_be_trimmed_is_told_in_a_line(what, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv, said = _refusals(tmp_path)[what]
    assert said in fail(capfd, "trim", *argv)
    assert not (tmp_path / "tutorkd-trimmed").exists()


def test_a_trimmed_folder_isnt_trimmed_into_itself(tmp_path, capfd):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    run = ["--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path)]
    complete("trim", "--model", folder, *run)
    line = fail(capfd, "trim", "--model", str(tmp_path / "trimmed"), *run, "--restart")
    assert "is the model's own folder" in line
    AutoModel.from_pretrained(tmp_path / "trimmed")


def test_the_card_shows_how_to_load_it(tmp_path):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    complete("trim", "--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", *_to(tmp_path))
    card = (tmp_path / "trimmed" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: fill-mask" in card
    code = card.split("```python")[1].split("```")[0].replace("THIS_FOLDER_OR_REPOSITORY", str(tmp_path / "trimmed"))
    loaded: dict = {}
    logging.disable(logging.WARNING)
    exec(code, loaded)
    logging.disable(logging.NOTSET)
    assert loaded["model"].config.vocab_size == len(loaded["tokenizer"])


def test_a_configuration_of_generation_forbids_and_favours_the_same_tokens(tmp_path):
    model = tiny.tiny_causal()
    names = tiny.causal_tokenizer().convert_ids_to_tokens
    given = {"suppress_tokens": [300, 319], "begin_suppress_tokens": [319], "bad_words_ids": [[65, 66], [319]]}
    for name, told in {**given, "sequence_bias": [[[66], -1.0], [[319], 2.0]]}.items():
        setattr(model.generation_config, name, told)
    model.generation_config.eos_token_id = [0, 300]
    folder = save_causal(model, tmp_path / "whole")
    text = tmp_path / "text.txt"
    text.write_text("w1 w2", encoding="utf-8")
    complete("trim", "--model", folder, "--corpus", str(text), *_to(tmp_path))
    new = AutoTokenizer.from_pretrained(tmp_path / "trimmed").get_vocab()
    assert names(319) not in new
    told = json.loads((tmp_path / "trimmed" / "generation_config.json").read_text())
    assert told["suppress_tokens"] == [new[names(300)]]
    assert told.get("begin_suppress_tokens") is None
    assert told["bad_words_ids"] == [[new[names(65)], new[names(66)]]]
    assert told["sequence_bias"] == [[[new[names(66)]], -1.0]]


def test_parts_of_a_layer_that_are_as_many_as_the_tokens_stay_whole(tmp_path):
    model = _model("BertForMaskedLM", intermediate_size=110, max_position_embeddings=110)
    folder = save(model, tmp_path / "whole")
    read = ["--model", folder, "--corpus", _write(tmp_path, TEXT), "--lines", "--coverage", "1"]
    complete("trim", *read, *_to(tmp_path))
    trimmed = AutoModelForMaskedLM.from_pretrained(tmp_path / "trimmed")
    assert trimmed.config.intermediate_size == 110
    assert parameters_with(model, [9]) == [trimmed.num_parameters()]


def test_padding_has_no_gradient_and_every_other_token_has():
    model = _model("BertForMaskedLM", pad_token_id=40)
    trim_embeddings(model, np.array([2, 3, 40, 41, 42]))
    model(torch.tensor([[0, 2, 3]])).logits.sum().backward()
    embeddings = model.get_input_embeddings()
    assert embeddings.padding_idx == model.config.pad_token_id == 2


def _of_roles(**changes) -> PreTrainedTokenizerBase:
    """Of bytes and of what is often in a few words, among them the names of roles."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"]
    )
    backend.train_from_iterator([*GERMAN, "system user assistant query"] * 4, trainer)
    named = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    for name, value in changes.items():
        setattr(named, name, value)
    return named


_CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)


def test_a_chat_is_cut_as_before_though_the_text_has_no_roles(tmp_path):
    whole = _of_roles(chat_template=_CHAT)
    model = _model("LlamaForCausalLM", vocab_size=len(whole))
    folder = save(model, tmp_path / "whole")
    whole.save_pretrained(folder)
    text = _write(tmp_path, GERMAN * 4)
    complete("trim", "--model", folder, "--corpus", text, "--lines", "--coverage", "1", *_to(tmp_path))
    kept = json.loads((tmp_path / "trimmed" / "trimmed.json").read_text())["kept"]
    chat = [{"role": "user", "content": GERMAN[0]}, {"role": "assistant", "content": GERMAN[1]}]
    trimmed = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    before, after = (
        each(each.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        for each in (whole, trimmed)
    )
    assert whole.convert_tokens_to_ids("user") in before  # one token, of which the text has nothing
    assert "system" not in trimmed.get_vocab()  # which the template refuses
    assert [kept[number] for number in after] == before


def test_a_token_that_must_stay_is_formed_as_before():
    whole = _of_roles()
    query = whole.convert_tokens_to_ids("\u0120query")
    order, fixed = ranked_tokens(whole, _counts(whole, ["der Hund"]), needed=[query])
    assert fixed == ranked_tokens(whole, _counts(whole, ["der Hund"]), needed=[query, whole.eos_token_id])[1]
    kept = np.sort(order[:fixed])
    assert kept[trimmed_tokenizer(whole, kept)(" query")["input_ids"]].tolist() == [query]


def test_it_is_told_when_the_smaller_model_doesn_t_know_much_of_the_text(tmp_path, capsys):
    folder = save(tiny.masked_lm(), tmp_path / "whole")
    run = ["trim", "--model", folder, "--lines", *_to(tmp_path)]
    complete(*run, "--corpus", _write(tmp_path, ["w1 w1 w1 w1 w2"]), "--vocab_size", "6")  # five special ones and w1
    assert "But 20.0% of the trimmed model's tokens are unknown" in capsys.readouterr().out
    complete(*run, "--corpus", _write(tmp_path, ["w1 w1 w1 w1 nothing"]))
    assert "The model itself doesn't know 20.0% of the text's tokens" in capsys.readouterr().out


def test_special_tokens_are_found_whole_and_keep_no_letters():
    whole = _tokenizer("XLMRobertaTokenizer")
    assert ranked_tokens(whole, _counts(whole, GERMAN), needed=whole.all_special_ids)[1] == len(whole.all_special_ids)
