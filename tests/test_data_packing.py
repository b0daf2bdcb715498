"""Text to ids: long texts, encoded part by part, have the ids of the whole."""

import json
import random
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CamembertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from tutorkd.data import packing
from tutorkd.data.packing import Encoder

SCRIPTS = [
    *("abcdefghijklmnopqrstuvwxyz", "ABCÄÖÜßéèñçø", "абвгдежзийклмн", "αβγδεζης", "אבגדהו", "ابتثجحخ"),
    *("अआइकखगािीु्", "กขคงจาิี", "漢字仮名交文東京", "ひらがなカタカナ", "0123456789", ".,;:!?()[]'\"-"),
    "😀👩\u200d👧🇩🇪\u0301\u0308\u200b\ufeff\u0600ﬁ①",
]
SPACES = [" "] * 8 + ["  ", "\n", "\r\n", "\t", "\u3000", "\xa0", ""]


def random_text(seed: int, words: int) -> str:
    """Words of up to twelve characters of any script, some of several scripts, parted by all kinds of white space."""
    choose = random.Random(seed)
    parts = []
    for _ in range(words):
        letters = choose.choice([*SCRIPTS, "".join(SCRIPTS)])
        parts += [*choose.choices(letters, k=choose.randint(1, 12)), choose.choice(SPACES)]
    return "".join(parts).strip()


SAMPLE = [random_text(seed, 50) for seed in range(200)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def trained(model, trainer, pre_tokenizer=None, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(SAMPLE, trainer)
    return tokenizer


def word_pieces() -> dict[str, int]:
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], limit_alphabet=150
    )
    model = models.WordPiece(unk_token="[UNK]")
    return trained(model, trainer, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()).get_vocab()


def byte_pairs(**kwargs) -> RobertaTokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet)
    model = model_of(trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False)))
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **kwargs)


@cache
def pieces() -> list[tuple[str, float]]:
    """A Unigram vocabulary, the special tokens first."""
    trainer = trainers.UnigramTrainer(vocab_size=800, n_sub_iterations=1, special_tokens=SPECIAL, unk_token="<unk>")
    model = model_of(trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), normalizers.NFKC()))
    return [(piece, score) for piece, score in model["vocab"]]


def model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]


def words(pre_tokenizer) -> Tokenizer:
    trainer = trainers.WordLevelTrainer(vocab_size=800, special_tokens=["[UNK]"])
    return trained(models.WordLevel(unk_token="[UNK]"), trainer, pre_tokenizer)


TOKENIZERS = {
    "BERT": lambda: BertTokenizer(vocab=word_pieces()).backend_tokenizer,
    "BERT, cased": lambda: BertTokenizer(vocab=word_pieces(), do_lower_case=False).backend_tokenizer,
    "RoBERTa": lambda: byte_pairs().backend_tokenizer,
    "RoBERTa, add_prefix_space": lambda: byte_pairs(add_prefix_space=True).backend_tokenizer,
    "XLM-R": lambda: XLMRobertaTokenizer(vocab=pieces()).backend_tokenizer,
    "CamemBERT": lambda: CamembertTokenizer(vocab=pieces()).backend_tokenizer,
    "words and punctuation": lambda: words(pre_tokenizers.Whitespace()),
    "words": lambda: words(pre_tokenizers.WhitespaceSplit()),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def backend(request) -> Tokenizer:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module", autouse=True)
def short_parts():
    """Parts of 600 characters, so that texts of a few thousand have many joins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_CHARACTERS_AT_ONCE", 600)
        patch.setattr(packing, "_OVERLAP", 200)
        yield


def encoder(backend) -> Encoder:
    return Encoder(backend, cls_id=-1, sep_id=-2, unknown_id=None, dtype=np.dtype(np.int32))


def ids_of(backend, text: str) -> list[int]:
    """The ids that the encoder gives, the separator taken off."""
    *ids, last = np.concatenate(list(encoder(backend)(text))).tolist()
    assert last == -2
    return ids


def test_a_long_text_has_the_ids_of_the_whole(backend):
    for seed in range(1000, 1008):
        text = random_text(seed, 700)
        assert len(list(encoder(backend)(text))) > 5
        assert ids_of(backend, text) == backend.encode(text, add_special_tokens=False).ids


WORD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(st.lists(WORD, min_size=1, max_size=60), st.sampled_from([" ", "\n", "  ", "\u3000", "\r\n", ". "]))
@example(["a"], " ")
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_words_have_the_ids_of_the_whole(backend, words, space):
    text = space.join(words * 10)
    whole = backend.encode(text, add_special_tokens=False).ids
    assert [token for piece in encoder(backend)(text) for token in piece.tolist()] == ([*whole, -2] if whole else [])


def test_a_text_without_white_space_is_encoded_in_bounded_parts(backend):
    lengths = []

    class Listening:
        def encode(self, text, **kwargs):
            lengths.append(len(text))
            return backend.encode(text, **kwargs)

    text = "nowhitespaceatall" * 300
    assert ids_of(Listening(), text)
    assert max(lengths) == 600
    assert sum(lengths) < 3 * len(text)


@pytest.mark.parametrize("unit", ["a", "漢字", "nowhitespaceatall", "\u0301x"])
def test_a_text_without_white_space_loses_and_doubles_nothing(unit):
    backend = byte_pairs().backend_tokenizer
    backend.decoder = decoders.ByteLevel()  # of these tokens the text can be put together again
    text = unit * (5000 // len(unit))
    assert backend.decode(ids_of(backend, text)) == text


def test_a_short_text_is_one_piece_and_a_separator(backend):
    whole = backend.encode("some words", add_special_tokens=False).ids
    got = list(encoder(backend)("some words"))
    assert [ids.tolist() for ids in got] == [whole, [-2]]
    assert {ids.dtype for ids in got} == {np.dtype(np.int32)}
