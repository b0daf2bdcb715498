"""Decoders that learn from a teacher with another tokenizer: its tokens spelled in theirs, against plain loops."""

import copy
import json
import re

import numpy as np
import pytest
import tiny
import torch
from commands import assert_same, complete, fail, history, save_causal, weights
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tutorkd.alignment import read_packed
from tutorkd.cli.main import main
from tutorkd.config import DistillationConfig
from tutorkd.errors import UserError
from tutorkd.likeliest import IDS, LOG_PROBABILITIES
from tutorkd.methods.causal_kd import CausalKDSettings
from tutorkd.objective import CAUSAL
from tutorkd.spelling import UNKNOWN, Spelling
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher, load_teacher
from tutorkd.teacher_likeliest import with_likeliest
from tutorkd.teacher_respelled import likeliest_respelled
from tutorkd.token_bytes import bytes_of_tokens
from tutorkd.trainer import DistillationTrainer

CPU = torch.device("cpu")
TEXT = "w3 w4 w5 wéé w7 日本 w8 w90\nw1  w2"


def byte_tokenizer(size: int = 257, begin: bool = False, normalizer=None, texts=None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of so many tokens, the end of text the last but for a token that begins one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1 - begin, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts or tiny.documents(), trainer)
    tokens = ["</s>", "<s>"][: 1 + begin]
    backend.add_special_tokens(tokens)
    if begin:
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", backend.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", **({"bos_token": "<s>"} if begin else {})
    )


def sentencepiece_tokenizer(prefix: bool = True) -> PreTrainedTokenizerFast:
    """As Llama 2's, which puts a space before a text, or Gemma's, which doesn't: characters, and bytes for others."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted({letter for text in tiny.documents() for letter in text} - {" "})
    merged = ["▁w", *[f"▁w{digit}" for digit in "123456789"]]
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *bytes_, "▁", *letters, *merged])}
    merges = [("▁", "w"), *[("▁w", digit) for digit in "123456789"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def packed(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> list[list[int]]:
    """Rows of text from end to end, as a corpus has them: what begins a text before it, what ends it behind it."""
    ids = []
    for text in texts:
        ids += tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    return [ids[start : start + length] for start in range(0, len(ids) - 1, length)]


def as_rows(rows: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"input_ids": row} for row in rows]


def probabilities(model, ids: list[int]) -> np.ndarray:
    """The distribution behind each position, (n, V) float64."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(torch.tensor([ids])).logits[0].softmax(-1).numpy()


def of_ids(ids: np.ndarray, logs: np.ndarray, size: int) -> np.ndarray:
    """The probabilities of all tokens but one, (n, size); that one has what is left."""
    whole = np.full((len(ids), size), np.nan)
    np.put_along_axis(whole, ids, np.exp(logs[:, :-1]), -1)
    return np.where(np.isnan(whole), np.exp(logs[:, -1:]), whole)


KINDS = {
    "byte-level": byte_tokenizer(300),
    "SentencePiece": sentencepiece_tokenizer(),
    "SentencePiece without a prefix": sentencepiece_tokenizer(prefix=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_text_s_tokens_are_the_text(kind):
    tokenizer = KINDS[kind]
    known = bytes_of_tokens(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    written = b"".join(known[token] for token in ids).decode()
    assert written.removeprefix(" " if kind == "SentencePiece" else "") == TEXT
    assert known[tokenizer.eos_token_id] is None


def test_a_tokenizer_that_loses_what_stood_between_words_is_refused():
    with pytest.raises(UserError, match="don't say which bytes of a text they stand for"):
        bytes_of_tokens(tiny.tokenizer())


def shuffled_tokenizer() -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """The teacher's tokens in another order, and the new id of each."""
    order = np.random.default_rng(0).permutation(320)
    state = json.loads(tiny.causal_tokenizer().backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: int(order[old]) for token, old in state["model"]["vocab"].items()}
    state["added_tokens"][0]["id"] = int(order[0])
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tiny.END_OF_TEXT), order


def test_with_the_same_tokens_in_another_order_it_is_what_the_teacher_says(tmp_path):
    teacher, tokenizer = Teacher(tiny.tiny_causal()), tiny.causal_tokenizer()
    shuffled, order = shuffled_tokenizer()
    rows = Dataset.from_dict({"input_ids": packed(tokenizer, tiny.documents(5), 24)})
    turned = Dataset.from_dict({"input_ids": [order[row].tolist() for row in rows["input_ids"]]})
    one = with_likeliest(rows, lambda: teacher, tokenizer, 6, 320, tmp_path / "a", CPU)
    spelling = Spelling(tokenizer, shuffled)
    other = with_likeliest(turned, lambda: teacher, shuffled, 6, 320, tmp_path / "b", CPU, spelling)
    for index in range(len(rows)):
        assert [order[ids].tolist() for ids in one[index][IDS]] == other[index][IDS].tolist()
        np.testing.assert_allclose(one[index][LOG_PROBABILITIES], other[index][LOG_PROBABILITIES], atol=4e-3)


@pytest.mark.parametrize("begin", [False, True])
def test_bytes_learn_what_a_teacher_of_larger_tokens_says_of_each(begin):
    own, teachers = byte_tokenizer(), byte_tokenizer(320, begin)
    ends = {"eos_token_id": teachers.eos_token_id, "bos_token_id": teachers.bos_token_id}
    model = tiny.tiny_causal(**ends)
    text = "w3 w4 w14 w15\nwé"
    row = [*own(text)["input_ids"], own.eos_token_id, *own("w5 w6")["input_ids"]]
    spelling = Spelling(teachers, own)
    ids, logs = likeliest_respelled(Teacher(model.double()), as_rows([row]), spelling, 256, CPU)
    found = of_ids(ids, logs, 257)

    strings = [
        None if token in teachers.all_special_ids else known for token, known in enumerate(bytes_of_tokens(teachers))
    ]
    letters = {known[0]: token for token, known in enumerate(bytes_of_tokens(own)) if known}
    pieces = [*teachers(text)["input_ids"], teachers.eos_token_id, *teachers("w5 w6")["input_ids"]]
    said = probabilities(model, pieces)
    place = 0
    for position, token in enumerate(pieces):
        spelled = strings[token]
        if token == teachers.bos_token_id and begin:
            continue
        for depth in range(1 if spelled is None else len(spelled)):
            if place:  # nothing is asked about the first
                expected = np.zeros(257)
                for other, text_of in enumerate(strings):
                    if text_of is None and other == teachers.eos_token_id and not depth:
                        expected[own.eos_token_id] += said[position - 1, other]
                    elif text_of and len(text_of) > depth and text_of[:depth] == (spelled or b"")[:depth]:
                        expected[letters[text_of[depth]]] += said[position - 1, other]
                np.testing.assert_allclose(found[place - 1], expected / expected.sum(), atol=1e-6)
            place += 1
    assert place == len(row)


def test_a_token_that_holds_several_of_the_teacher_s_is_as_likely_as_these_together():
    own, teachers = byte_tokenizer(320), byte_tokenizer()
    model = tiny.tiny_causal(vocab_size=257, eos_token_id=256)
    text = " ".join(tiny.documents(1)[0].split()[:16])
    row = [*own(text)["input_ids"], own.eos_token_id]
    ids, logs = likeliest_respelled(Teacher(model.double()), as_rows([row]), Spelling(teachers, own), 319, CPU)
    found = of_ids(ids, logs, 320)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    read = [*teachers(text)["input_ids"], teachers.eos_token_id]
    said = probabilities(model, read)
    known, letters = bytes_of_tokens(own), {each: token for token, each in enumerate(bytes_of_tokens(teachers)) if each}
    begun, checked = len(known[row[0]]), 0
    for place, token in enumerate(row[1:-1]):
        pieces = [letters[known[token][depth : depth + 1]] for depth in range(len(known[token]))]
        chain = [said[begun + depth - 1, piece] for depth, piece in enumerate(pieces)]
        assert found[place, token] == pytest.approx(np.prod(chain), rel=1e-4)
        if len(chain) > 1:
            first = own.convert_tokens_to_ids(teachers.convert_ids_to_tokens(pieces[0]))
            assert found[place, first] == pytest.approx(chain[0] - np.prod(chain), rel=1e-4)
            checked += 1
        begun += len(chain)
    assert checked > 10
    assert found[-1, own.eos_token_id] == pytest.approx(said[-2, teachers.eos_token_id], rel=1e-4)


TEACHERS = {**KINDS, "byte-level with a beginning": byte_tokenizer(310, begin=True)}


@pytest.mark.parametrize("own", TEACHERS)
@pytest.mark.parametrize("teachers", TEACHERS)
def test_the_teacher_speaks_of_a_token_where_it_has_read_the_text_before_it(own, teachers):
    own, teachers = TEACHERS[own], TEACHERS[teachers]
    spelling = Spelling(teachers, own)
    known, theirs = bytes_of_tokens(own), bytes_of_tokens(teachers)
    texts = [TEXT, "日本語", *tiny.documents(3)]
    speaks = 0
    for row in packed(own, texts, 17):  # most of them begin amid a text, some amid a character
        read, places = read_packed(spelling, row)
        for place, position in enumerate(places.speaks):
            if position == UNKNOWN:
                continue
            speaks += 1
            before = b"".join(theirs[token] or b"" for token in read[: position + 1])
            begun = b"".join(known[token] or b"" for token in row[: place + 1]).lstrip(bytes(range(0x80, 0xC0)))
            depth = places.depth[place]
            inside = b"".join(known[token] for token in row[place + 1 - depth : place + 1])
            # A space before a text is a matter of the tokenizer.
            assert before.replace(b" ", b"")[-6:] == begun.removesuffix(inside).replace(b" ", b"")[-6:]
            if depth:
                tokens = spelling._order[places.start[place] : places.end[place]]
                assert all(theirs[token].startswith(inside) and theirs[token] != inside for token in tokens)
    assert speaks > 0.5 * sum(len(row) - 1 for row in packed(own, texts, 17))


MIXED = ["naïve café — “yes”…\r\n\tx   =  1", "日本語 😀 العربية", "w3 w14w15 w9"]


@pytest.mark.parametrize("own", TEACHERS)
@pytest.mark.parametrize("teachers", TEACHERS)
def test_no_token_of_the_text_is_called_impossible(own, teachers):
    own, teachers = TEACHERS[own], TEACHERS[teachers]
    teacher, spelling = Teacher(tiny.tiny_causal(vocab_size=330).double()), Spelling(teachers, own)
    rows = packed(own, [*MIXED, *tiny.documents(2, seed=1)], 23)
    ids, logs = likeliest_respelled(teacher, as_rows(rows), spelling, spelling.own_size - 1, CPU)
    found = of_ids(ids, logs, spelling.own_size)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    asked = np.concatenate([row[1:] for row in rows])
    assert found[np.arange(len(asked)), asked].min() > 1e-9


@pytest.mark.parametrize("own", ["byte-level", "SentencePiece", "byte-level that puts a space before a text"])
def test_every_token_of_text_is_spelled_also_parts_of_characters(own):
    prefixed = byte_tokenizer(300)
    prefixed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    own = {**KINDS, "byte-level that puts a space before a text": prefixed}[own]
    teachers = byte_tokenizer(500, texts=MIXED * 9)
    known, spelling = bytes_of_tokens(own), Spelling(teachers, own)
    parts = 0
    for token, text in enumerate(bytes_of_tokens(teachers)):
        if text:
            assert b"".join(known[piece] for piece in spelling.of(token)) == text
            parts += text.decode(errors="ignore").encode() != text
    assert parts > 140


def test_around_text_that_the_teacher_s_tokenizer_changes_it_speaks_of_all_else():
    own, teachers = byte_tokenizer(320), byte_tokenizer(300, normalizer=normalizers.Lowercase())
    spelling, teacher = Spelling(teachers, own), Teacher(tiny.tiny_causal(vocab_size=300))
    row, plain = (own(f"w1 {word} é w3 w4")["input_ids"] for word in ("W2", "w2"))
    read, places = read_packed(spelling, row)
    assert read == teachers("w1 w2 é w3 w4")["input_ids"]
    changed, said = (likeliest_respelled(teacher, as_rows([each]), spelling, 4, CPU) for each in (row, plain))
    capital = row.index(own.convert_tokens_to_ids("W"))
    assert places.speaks[capital - 1] == UNKNOWN
    assert changed[0][capital - 1, 0] == row[capital]
    np.testing.assert_allclose(np.exp(changed[1][capital - 1]), [1, 0, 0, 0, 0], atol=1e-6)
    behind = len(row) - capital - 2
    assert behind >= 6
    np.testing.assert_array_equal(changed[0][-behind:], said[0][-behind:])
    np.testing.assert_allclose(changed[1][-behind:], said[1][-behind:], atol=1e-5)
    assert np.exp(changed[1][-behind:, 0]).max() < 0.9


def test_what_is_an_unknown_token_for_the_teacher_is_learned_as_it_is():
    state = json.loads(sentencepiece_tokenizer(prefix=False).backend_tokenizer.to_str())
    state["model"]["byte_fallback"] = False
    teachers = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    own = byte_tokenizer(300)
    row = own("w1 w2日 w3")["input_ids"]
    read, places = read_packed(Spelling(teachers, own), row)
    assert teachers.unk_token_id in read
    first, last = (own(text)["input_ids"] for text in ("w1 w2", " w3"))
    assert (places.speaks[len(first) - 1 : -len(last)] == UNKNOWN).all()
    assert (places.speaks[len(first) - len(last) - 1 : len(first) - 1] != UNKNOWN).any()
    assert (places.speaks[-len(last) :] != UNKNOWN).all()


def test_rows_read_together_say_what_they_say_alone():
    own, teachers = byte_tokenizer(300), tiny.causal_tokenizer()
    teacher, spelling = Teacher(tiny.tiny_causal()), Spelling(teachers, own)
    rows = packed(own, tiny.documents(3), 19)
    together = likeliest_respelled(teacher, as_rows(rows), spelling, 8, CPU)
    alone = [likeliest_respelled(teacher, as_rows([row]), spelling, 8, CPU) for row in rows]
    apart = [np.concatenate(each) for each in zip(*alone, strict=True)]
    np.testing.assert_array_equal(together[0], apart[0])
    np.testing.assert_allclose(np.exp(together[1]), np.exp(apart[1]), atol=1e-5)


def test_a_row_of_one_part_of_a_character_can_be_read():
    own = byte_tokenizer()
    part = own("é")["input_ids"][0]
    for row in ([part, part], [own.eos_token_id, part], [part]):
        read, places = read_packed(Spelling(tiny.causal_tokenizer(), own), row)
        assert read
        assert len(places.speaks) == len(row) - 1


RUN = [
    *("--method", "kd", "--max_length", "24", "--per_device_train_batch_size", "4", "--warmup_steps", "0"),
    *("--logging_steps", "1", "--heldout", "0.1", "--bf16", "false", "--use_cpu", "--eval_steps", "2"),
    *("--max_steps", "4", "--torch_compile", "false"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return save_causal(tiny.tiny_causal(), tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    """A checkpoint of two layers whose tokenizer has 290 other tokens."""
    folder = tmp_path_factory.mktemp("student")
    tokenizer = byte_tokenizer(290)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id}
    tiny.tiny_causal(seed=3, vocab_size=290, num_hidden_layers=2, **ends).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(tiny.documents(40)))
    return str(file)


def test_a_student_with_its_own_tokenizer_comes_nearer_to_the_teacher(teacher, student, corpus, tmp_path, capsys):
    run = ["distill", "--teacher", teacher, "--student", student, "--corpus", corpus, *RUN, "--teacher_top_k", "32"]
    run += ["--max_steps", "30", "--learning_rate", "5e-3", "--eval_steps", "10"]
    complete(*run, "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "what the teacher says is said in its tokens" in said
    assert "its own weights" in said
    looks = [entry["eval_kl_to_teacher"] for entry in history(tmp_path / "out") if "eval_kl_to_teacher" in entry]
    assert looks[-1] < 0.8 * looks[0]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.config.vocab_size == 290
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert "290 tokens of its own" in (tmp_path / "out" / "README.md").read_text()
    complete(*run, "--output_dir", str(tmp_path / "again"))
    assert "computed before" in capsys.readouterr().out
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "again"))


@pytest.mark.parametrize("how", ["a tokenizer", "a configuration", "a checkpoint's shape"])
def test_a_student_starts_from_layers_and_from_means_of_embeddings(how, teacher, student, corpus, tmp_path, capsys):
    folder, own = tmp_path / "own", AutoTokenizer.from_pretrained(student)
    own.save_pretrained(folder)
    asked = {
        "a tokenizer": ["--student", "half", "--student_tokenizer", str(folder)],
        "a configuration": ["--student", str(folder)],
        "a checkpoint's shape": ["--student", student, "--student_init", "teacher"],
    }[how]
    if how == "a configuration":
        AutoModelForCausalLM.from_pretrained(student).config.save_pretrained(folder)
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", "--save_initial_student"]
    complete("distill", *run, *asked, "--output_dir", str(tmp_path / "out"))
    assert "its layers from the teacher's 1, 4, its embeddings means" in capsys.readouterr().out
    began = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "initial_student")
    given = tiny.tiny_causal()
    of_teacher, known = AutoTokenizer.from_pretrained(teacher), bytes_of_tokens(own)
    for kind in ("get_input_embeddings", "get_output_embeddings"):
        weight, made = (getattr(model, kind)().weight for model in (given, began))
        assert made.shape == (290, 32)
        for token in (own.convert_tokens_to_ids("w"), 270, 285):
            pieces = of_teacher(known[token].decode())["input_ids"]
            torch.testing.assert_close(made[token], weight[pieces].mean(0))
        torch.testing.assert_close(made[own.eos_token_id], weight[0])
    layer = [model.model.layers[place].mlp.up_proj.weight for model, place in ((given, 3), (began, 1))]
    torch.testing.assert_close(*layer)
    assert began.config.eos_token_id == began.generation_config.eos_token_id == own.eos_token_id


def test_a_narrower_student_keeps_what_matters_whatever_its_tokenizer(teacher, corpus, tmp_path, capsys):
    """With the teacher's tokens in another order, it starts as one that has the teacher's tokenizer."""
    shuffled, order = shuffled_tokenizer()
    shuffled.save_pretrained(tmp_path / "shuffled")
    run = ["distill", "--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8", "--save_initial_student"]
    run += ["--student_hidden_size", "16", "--student_intermediate_size", "40"]
    for name, own in (("plain", []), ("other", ["--student_tokenizer", str(tmp_path / "shuffled")])):
        complete(*run, *own, "--output_dir", str(tmp_path / name))
        assert "as slices, those that matter most on the text" in capsys.readouterr().out
    plain, other = (weights(tmp_path / name / "initial_student") for name in ("plain", "other"))
    for name, weight in plain.items():
        of_tokens = len(weight) == 320
        np.testing.assert_allclose(other[name][order] if of_tokens else other[name], weight, atol=1e-5, err_msg=name)


def test_special_tokens_take_over_the_embedding_of_the_teacher_s_of_that_name():
    own, teachers = byte_tokenizer(290), byte_tokenizer(300)
    for tokenizer, names in ((own, ["<|turn|>", "<|own|>"]), (teachers, ["<|other|>", "<|turn|>"])):
        tokenizer.add_special_tokens({"additional_special_tokens": names})
    weight = torch.randn(310, 6)
    made = Spelling(teachers, own).averaged(weight)
    turn, alone = (own.convert_tokens_to_ids(name) for name in ("<|turn|>", "<|own|>"))
    torch.testing.assert_close(made[turn], weight[teachers.convert_tokens_to_ids("<|turn|>")])
    torch.testing.assert_close(made[alone], weight[: len(teachers)].mean(0))
    torch.testing.assert_close(made[own.eos_token_id], weight[teachers.eos_token_id])


def test_a_student_at_random_with_its_own_tokenizer_takes_nothing_over(teacher, student, corpus, tmp_path, capsys):
    run = ["--teacher", teacher, "--student_tokenizer", student, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete("distill", *run, "--student_init", "random", "--output_dir", str(tmp_path / "out"))
    assert "starts at random" in capsys.readouterr().out


def test_a_trainer_takes_rows_of_a_student_with_its_own_tokenizer(teacher, student, tmp_path):
    own, teachers = AutoTokenizer.from_pretrained(student), AutoTokenizer.from_pretrained(teacher)
    rows = Dataset.from_dict({"input_ids": packed(own, tiny.documents(8), 24)})
    reader, spelling = Teacher(tiny.tiny_causal()), Spelling(teachers, own)
    known = with_likeliest(rows, lambda: reader, own, 8, 290, tmp_path / "kept", CPU, spelling)
    args = DistillationConfig(output_dir=str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none")
    settings = CausalKDSettings(teacher_top_k=8)
    trainer = DistillationTrainer(student, teacher, args, known, own, known, "kd", settings)
    assert trainer.train().global_step == 2


def test_a_trainer_has_the_teacher_read_its_own_tokens_where_a_student_is_sliced(teacher, student, tmp_path):
    """A student that is named and one that was built start alike, though nobody says how its tokens are spelled."""
    own, teachers = AutoTokenizer.from_pretrained(student), AutoTokenizer.from_pretrained(teacher)
    rows = Dataset.from_dict({"input_ids": packed(own, tiny.documents(8), 24)})
    reader, spelling = load_teacher(teacher), Spelling(teachers, own)
    known = with_likeliest(rows, lambda: reader, own, 8, 290, tmp_path / "kept", CPU, spelling)
    args = DistillationConfig(output_dir=str(tmp_path / "out"), eval_strategy="no", use_cpu=True, report_to="none")
    told = reader, args, known, own, None, "kd", CausalKDSettings(teacher_top_k=8)
    built = build_student("thin", reader.config, {"vocab_size": 290}, head=CAUSAL)
    initialise_from_teacher(built, reader, spelling)
    started = [DistillationTrainer("thin", *told), DistillationTrainer(built, *told, sliced=True)]
    named, made = (trainer.saved_model.state_dict() for trainer in started)
    for name, weight in named.items():
        torch.testing.assert_close(made[name], weight, msg=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--teacher_top_k", "0"], "or ask the teacher before training: --method kd --teacher_top_k 64"),
        (["--divergence", "reverse-kl"], "choose --divergence forward-kl, js or skew-kl"),
        (["--streaming"], "leave out --streaming"),
        (["--on_policy_share", "0.5"], "leave out --teacher_top_k or --on_policy_share"),
    ],
)
def test_what_a_student_with_its_own_tokenizer_can_not_do_is_refused(
    changes, said, teacher, student, corpus, tmp_path, capfd
):
    run = ["--teacher", teacher, "--student", student, "--corpus", corpus, *RUN, "--teacher_top_k", "8", *changes]
    assert said in fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--method", "clm"], "add --method kd --teacher_top_k 64"),
        (["--teacher_top_k", "0"], "add --method kd --teacher_top_k 64"),
        (["--student", "STUDENT"], "has weights for the tokens of the tokenizer beside it"),
        (["--student_tokenizer", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_a_tokenizer_that_can_not_be_a_student_s_is_refused(changes, said, teacher, student, corpus, tmp_path, capfd):
    run = ["--teacher", teacher, "--student_tokenizer", student, "--corpus", corpus, *RUN]
    run += [] if "clm" in changes else ["--teacher_top_k", "8"]
    changes = [student if each == "STUDENT" else each for each in changes]
    assert said in fail(capfd, "distill", *run, *changes, "--output_dir", str(tmp_path / "out"))


def test_the_teacher_s_own_tokenizer_is_no_other(teacher, corpus, tmp_path, capsys):
    run = ["--teacher", teacher, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete("distill", *run, "--student_tokenizer", teacher, "--output_dir", str(tmp_path / "named"))
    assert "a tokenizer of its own" not in capsys.readouterr().out
    complete("distill", *run, "--output_dir", str(tmp_path / "plain"))
    assert_same(weights(tmp_path / "named"), weights(tmp_path / "plain"))


def test_a_comparison_refuses_a_student_whose_figures_are_of_other_tokens(teacher, student, corpus, tmp_path, capsys):
    recipe = tmp_path / "matrix.yaml"
    recipe.write_text(
        f"common: {{teacher: {teacher}, corpus: {corpus}, max_steps: 2, max_length: 24, use_cpu: true}}\n"
        f"variants: [{{name: known, method: kd, teacher_top_k: 8}}]\nstudents: [{student}]\nreferences: false\n"
        f"evaluate: {{text: {corpus}, prompts: 2, new_tokens: 2, prompt_length: 4, max_length: 24}}\n"
    )
    assert main(["compare", str(recipe), "--output_dir", str(tmp_path / "out")]) == 1
    assert "before it began: the student has another tokenizer than the teacher" in capsys.readouterr().out


def test_a_row_that_is_longer_in_the_teacher_s_tokens_than_it_can_read_is_told(student, corpus, tmp_path, capfd):
    folder = tmp_path / "teacher"
    tokenizer = byte_tokenizer()
    model = tiny.tiny_causal(vocab_size=257, max_position_embeddings=30, eos_token_id=256)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = ["--teacher", str(folder), "--student", student, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    said = fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))
    assert (
        "rows have more of the teacher's tokens than the 30 that it reads at most: set a smaller --max_length" in said
    )
    assert "likeliest tokens:" not in said  # it hasn't been asked


def test_a_row_that_has_a_few_more_tokens_than_the_teacher_reads_is_learned_as_text_behind_these():
    own, teachers = byte_tokenizer(300), byte_tokenizer()
    texts, model = tiny.documents(2), tiny.tiny_causal(vocab_size=257, max_position_embeddings=64, eos_token_id=256)
    row = own(" ".join(texts))["input_ids"][:90]
    spelling = Spelling(teachers, own)
    ids, logs = likeliest_respelled(Teacher(model), as_rows([row, row[:8]]), spelling, 8, CPU)
    begun = likeliest_respelled(Teacher(model), as_rows([row[:20], row[:8]]), spelling, 8, CPU)
    np.testing.assert_array_equal(ids[:19], begun[0][:19])
    np.testing.assert_array_equal(ids[-7:], begun[0][-7:])
    np.testing.assert_allclose(logs[:19], begun[1][:19], atol=1e-4)
    assert ids[70:89, 0].tolist() == row[71:90]
    np.testing.assert_allclose(np.exp(logs[70:89, 0]), 1)


def spelled_otherwise(how: str) -> PreTrainedTokenizerFast:
    """A tokenizer that agrees with the teacher's in all ids that both have, and reads a text otherwise."""
    tokenizer = tiny.causal_tokenizer()
    if how == "more tokens":
        tokenizer.add_tokens(["w1 w2", "w3 w4 w5"])
    else:
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace("w", "v")
    return tokenizer


@pytest.mark.parametrize("how", ["more tokens", "another normalizer"])
def test_a_named_tokenizer_with_the_teacher_s_ids_that_reads_otherwise_is_the_student_s(
    how, teacher, corpus, tmp_path, capsys
):
    own = spelled_otherwise(how)
    own.save_pretrained(tmp_path / "own")
    run = ["--teacher", teacher, "--student_tokenizer", str(tmp_path / "own"), "--corpus", corpus, *RUN]
    complete("distill", *run, "--teacher_top_k", "8", "--output_dir", str(tmp_path / "out"))
    assert "a tokenizer of its own" in capsys.readouterr().out
    kept = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (
        kept("w1 w2 w3")["input_ids"]
        == own("w1 w2 w3")["input_ids"]
        != tiny.causal_tokenizer()("w1 w2 w3")["input_ids"]
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == len(own)


def test_a_tokenizer_whose_ids_have_gaps_gets_a_student_of_all_of_them(teacher, corpus, tmp_path):
    state = json.loads(byte_tokenizer(290).backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {token: place + 20 * (place > 270) for token, place in vocabulary.items()}
    state["added_tokens"][0]["id"] = 315
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="</s>")
    assert len(own) < max(own.get_vocab().values())
    own.save_pretrained(tmp_path / "own")
    run = ["--teacher", teacher, "--student_tokenizer", str(tmp_path / "own"), "--corpus", corpus, *RUN]
    complete("distill", *run, "--teacher_top_k", "8", "--save_initial_student", "--output_dir", str(tmp_path / "out"))
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "initial_student").get_input_embeddings().weight
    given = tiny.tiny_causal().get_input_embeddings().weight
    assert len(made) == max(own.get_vocab().values()) + 1
    token = max(place for place in vocabulary.values() if place < 289)
    pieces = tiny.causal_tokenizer()(bytes_of_tokens(own)[token + 20].decode())["input_ids"]
    torch.testing.assert_close(made[token + 20], given[pieces].mean(0))


def test_a_teacher_without_all_tokens_of_its_tokenizer_is_refused(student, corpus, tmp_path, capfd):
    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_tokens(["w1 w2", "w3 w4"])
    tiny.tiny_causal().save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    run = ["--teacher", str(tmp_path / "teacher"), "--student", student, "--corpus", corpus, *RUN]
    said = fail(capfd, "distill", *run, "--teacher_top_k", "8", "--output_dir", str(tmp_path / "out"))
    assert "the teacher's tokenizer has 322 tokens and the teacher 320" in said


def test_more_likeliest_tokens_than_the_student_s_tokenizer_has_are_refused(teacher, corpus, tmp_path, capfd):
    folder, tokenizer = tmp_path / "spare", byte_tokenizer(290)
    tiny.tiny_causal(vocab_size=340, eos_token_id=289).save_pretrained(folder)  # spare ids behind its tokens
    tokenizer.save_pretrained(folder)
    run = ["--teacher", teacher, "--student", str(folder), "--corpus", corpus, *RUN, "--teacher_top_k", "300"]
    said = fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))
    assert "1 to 289 likeliest tokens, not 300" in said


def test_a_run_says_of_how_many_tokens_the_teacher_knows_nothing(teacher, student, corpus, tmp_path, capsys):
    run = ["distill", "--student", student, "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete(*run, "--teacher", teacher, "--output_dir", str(tmp_path / "a"))
    assert re.search(r"knows nothing of \d\.\d% of the tokens", said := capsys.readouterr().out)
    assert "so many" not in said
    changes = byte_tokenizer(300, normalizer=normalizers.Replace(Regex("."), ""))
    tiny.tiny_causal(vocab_size=300).save_pretrained(tmp_path / "changes")
    changes.save_pretrained(tmp_path / "changes")
    complete(*run, "--teacher", str(tmp_path / "changes"), "--output_dir", str(tmp_path / "b"))
    said = capsys.readouterr().out
    assert re.search(r"knows nothing of 9\d\.\d% of the tokens", said)
    assert "so many come of a tokenizer that changes what it reads" in said


def test_a_run_isn_t_taken_for_done_once_the_student_s_tokenizer_is_another(teacher, corpus, tmp_path, capfd):
    own = tmp_path / "own"
    byte_tokenizer(290).save_pretrained(own)
    run = ["--teacher", teacher, "--student_tokenizer", str(own), "--corpus", corpus, *RUN, "--teacher_top_k", "8"]
    complete("distill", *run, "--output_dir", str(tmp_path / "out"))
    byte_tokenizer(295).save_pretrained(own)
    said = fail(capfd, "distill", *run, "--output_dir", str(tmp_path / "out"))
    assert f"the contents of student_tokenizer {own} have changed" in said


def test_the_tokenizer_in_a_student_s_gguf_file_counts(student, corpus, tmp_path, capfd):
    pytest.importorskip("gguf")
    from test_gguf import write

    file = write(tiny.tiny_causal(num_hidden_layers=2), tmp_path / "model.gguf")
    folder = tmp_path / "teacher"
    tiny.tiny_causal(vocab_size=320).save_pretrained(folder)
    byte_tokenizer(320).save_pretrained(folder)
    run = ["--teacher", str(folder), "--student", str(file), "--corpus", corpus, *RUN]
    out = ["--output_dir", str(tmp_path / "out")]
    assert "differ: token" in fail(capfd, "distill", *run, *out)
    complete("distill", *run, "--teacher_top_k", "8", *out)
    assert "a tokenizer of its own" in capfd.readouterr().out
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == tiny.END_OF_TEXT
