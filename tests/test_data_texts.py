"""Texts as rows of their own: what is a sentence, what stands around a row, and where it is cut."""

import pytest
import tiny
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from tutorkd.data import prepare_corpus, shards
from tutorkd.data.texts import Texts, units
from tutorkd.errors import UserError

DOCUMENTS = ["w1 w2 w3. w4 w5? w6 w7\n\n  w8 w9  \n", None, " \n ", "w10 w11"]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("document", ["w1 w2 w3. w4 w5? w6 w7\n\n  w8 w9", "w10 w11"]),
        ("line", ["w1 w2 w3. w4 w5? w6 w7", "w8 w9", "w10 w11"]),
        ("sentence", ["w1 w2 w3.", "w4 w5?", "w6 w7", "w8 w9", "w10 w11"]),
    ],
)
def test_documents_come_apart_into_lines_and_sentences(unit, expected):
    assert list(units(DOCUMENTS, unit)) == expected


def test_sentences_end_behind_their_marks_and_not_within_numbers_or_words():
    text = 'It cost 3.50 in the U.S.A. today. "Really?" (Yes!) Wait\u2026 no.end \u6f22\u5b57\u3002\u4eee\u540d\uff1f'
    assert list(units([text], "sentence")) == [
        "It cost 3.50 in the U.S.A.",  # what is an abbreviation isn't known
        "today.",
        '"Really?"',
        "(Yes!)",
        "Wait\u2026",
        "no.end \u6f22\u5b57\u3002",
        "\u4eee\u540d\uff1f",
    ]


def test_no_character_but_white_space_is_lost():
    whole = "".join("".join(DOCUMENTS[0].split()))
    assert "".join("".join(text.split()) for text in units(DOCUMENTS[:1], "sentence")) == whole


@pytest.fixture
def prepare(tmp_path):
    def prepare(texts, documents=tiny.documents(), **options):  # noqa: B008
        path = tmp_path / "text.txt"
        if not path.exists() or path.read_text() != "\n".join(documents):
            path.write_text("\n".join(documents))
        options = {"max_length": 16, "heldout": 0, "cache_dir": tmp_path / "cache", "num_proc": 1} | options
        return prepare_corpus(path, tiny.tokenizer(), texts=texts, **options)

    return prepare


@pytest.mark.parametrize("prompt", ["", "w90 w91 "])
def test_a_row_is_what_the_tokenizer_makes_of_prompt_and_text(prepare, prompt):
    packed, tokenizer = prepare(Texts("line", prompt)), tiny.tokenizer()
    by_hand = [
        tokenizer(prompt + text, truncation=True, max_length=16)["input_ids"] for text in [*tiny.documents(), "w5"]
    ]
    assert packed.train["input_ids"] == by_hand[:-1]
    assert prepare(Texts("line", prompt), [*tiny.documents(), "w5"]).train["input_ids"] == by_hand
    assert packed.documents == len(packed.train)
    assert packed.tokens == sum(map(len, by_hand[:-1])) - 2 * len(packed.train)


def test_a_tokenizer_s_own_template_decides_what_stands_around_a_text(prepare, tmp_path):
    tokenizer = tiny.causal_tokenizer()  # puts nothing around
    (tmp_path / "own.txt").write_text("w1 w2\nw3")
    rows = prepare_corpus(
        tmp_path / "own.txt", tokenizer, texts=Texts(), max_length=16, heldout=0, cache_dir=tmp_path / "cache"
    )
    assert rows.train["input_ids"] == [tokenizer(text)["input_ids"] for text in ("w1 w2", "w3")]


def test_a_tokenizer_without_latin_letters_and_an_unknown_token_frames_its_texts_too(tmp_path):
    backend = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "\u044f": 2}, []))
    backend.add_special_tokens(["<s>", "</s>"])
    ends = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single="<s> <s> $A </s>", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="</s>")
    assert tokenizer("a")["input_ids"] == [0, 0, 1]
    (tmp_path / "own.txt").write_text("\u044f\u044f", encoding="utf-8")
    packed = prepare_corpus(tmp_path / "own.txt", tokenizer, texts=Texts(), heldout=0, cache_dir=tmp_path / "cache")
    assert packed.train["input_ids"] == [[0, 0, 2, 2, 1]]


def test_names_of_special_tokens_in_a_text_are_text(tmp_path):
    tokenizer = tiny.causal_tokenizer()
    (tmp_path / "own.txt").write_text(f"w1 {tiny.END_OF_TEXT} w2")
    (row,) = prepare_corpus(tmp_path / "own.txt", tokenizer, texts=Texts(), heldout=0, cache_dir=tmp_path).train[
        "input_ids"
    ]
    assert tokenizer.eos_token_id not in row
    assert tokenizer.decode(row) == f"w1 {tiny.END_OF_TEXT} w2"


def test_rows_differ_by_unit_and_prompt_and_are_kept_apart(prepare):
    documents = ["w1 w2. w3 w4."] * 3
    kept = {
        prepare(texts, documents).corpora[0].cache_path for texts in (Texts(), Texts("sentence"), Texts("line", "w9 "))
    }
    assert len(kept) == 3
    assert prepare(Texts("sentence"), documents).corpora[0].reused


def test_texts_are_held_out_and_shards_change_nothing(prepare, monkeypatch):
    whole = prepare(Texts(), heldout=0.2)
    assert (len(whole.heldout), len(whole.train)) == (12, 48)
    both = sorted([*whole.train["input_ids"], *whole.heldout["input_ids"]])
    assert both == sorted(prepare(Texts()).train["input_ids"])
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 500)
    assert prepare(Texts(), [*tiny.documents(), "w1"]).train["input_ids"][:-1] == prepare(Texts()).train["input_ids"]


def test_streamed_rows_are_the_same(prepare):
    streamed, packed = (prepare(Texts("sentence"), streaming=streaming) for streaming in (True, False))
    assert sorted(row["input_ids"] for row in streamed.train) == sorted(packed.train["input_ids"])


def test_a_corpus_that_the_tokenizer_does_not_know_is_refused(prepare):
    with pytest.raises(UserError, match="doesn't know 100% of its tokens"):
        prepare(Texts(), ["strange words", "only"])


def test_a_tokenizer_of_python_is_refused(prepare, tmp_path, monkeypatch):
    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    (tmp_path / "own.txt").write_text("w1 w2\nw3")
    with pytest.raises(UserError, match="a fast tokenizer"):
        prepare_corpus(tmp_path / "own.txt", tokenizer, texts=Texts())
