"""Conversations that a student and a teacher read in tokens and chat templates of their own."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import assert_same, complete, fail, history, save_causal, weights, write_rows
from test_other_tokenizer import RUN, TEACHERS, byte_tokenizer, of_ids, probabilities, sentencepiece_tokenizer
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tutorkd.alignment import read_answers
from tutorkd.data import prepare_corpus
from tutorkd.data.chats import ANSWERED, ChatEncoder
from tutorkd.data.documents import Conversation
from tutorkd.data.taught import TAUGHT, TAUGHT_ANSWERED
from tutorkd.data.texts import Taught, Texts
from tutorkd.errors import UserError
from tutorkd.spelling import UNKNOWN, Places, Spelling
from tutorkd.teacher import Teacher
from tutorkd.teacher_likeliest import with_likeliest
from tutorkd.teacher_respelled import likeliest_respelled
from tutorkd.token_bytes import bytes_of_tokens

CHAT = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3 w14 w15"},
    {"role": "user", "content": "w5"},
    {"role": "assistant", "content": "w16 w7\nw8 é"},
]
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
TAGS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}[A]{{ m.content }}</s>{% else %}[U] {{ m.content }} [/U]"
    "{% endif %}{% endfor %}"
)


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


def read(own: PreTrainedTokenizerFast, teachers: PreTrainedTokenizerFast, chat=CHAT):
    """What both read, and where the teacher speaks of the student's answers."""
    spelling = Spelling(teachers, own, chats=True)
    readings = [ChatEncoder.from_tokenizer(each, 512).tokens(Conversation(chat)) for each in (own, teachers)]
    parts = [part for each in readings for part in (each.ids, each.answered)]
    return spelling, readings, read_answers(spelling, *parts)


def asked(reading) -> np.ndarray:
    return np.flatnonzero(reading.answered[1:]) + 1


@pytest.mark.parametrize("templates", [(TURNS, TAGS), (TAGS, TURNS), (TAGS, TAGS)])
@pytest.mark.parametrize("kind", TEACHERS)
def test_the_teacher_speaks_of_an_answer_s_tokens_where_it_has_read_the_answer_up_to_them(kind, templates):
    own = with_template(byte_tokenizer(300), templates[0])
    teachers = with_template(PreTrainedTokenizerFast(**vars_of(TEACHERS[kind])), templates[1])
    _, (mine, theirs), places = read(own, teachers)
    known, of_teacher = bytes_of_tokens(own), bytes_of_tokens(teachers)

    def said(reading, texts, until: int) -> bytes:
        """What the assistant has said in its last answer up to a position."""
        run = [place for place in asked(reading) if place <= until]
        begun = next((i for i in reversed(range(1, len(run))) if run[i] - run[i - 1] > 1), 0)
        return b"".join(texts[reading.ids[place]] or b"" for place in run[begun:]).strip()

    speaks = 0
    for index, place in enumerate(asked(mine)):
        position = places.speaks[index]
        if position == UNKNOWN or places.depth[index]:
            continue
        before = said(mine, known, place - 1) if mine.answered[place - 1] else b""
        assert (said(theirs, of_teacher, position) if theirs.answered[position] else b"") == before
        speaks += 1
    assert speaks > 0.5 * len(places.speaks)


def vars_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return {"tokenizer_object": tokenizer.backend_tokenizer, **tokenizer.special_tokens_map}


def test_what_the_teacher_says_of_each_byte_of_an_answer_is_what_a_loop_over_its_tokens_gives():
    own = with_template(byte_tokenizer(), TURNS)
    teachers = with_template(byte_tokenizer(320), TAGS)
    model = tiny.tiny_causal(max_position_embeddings=256, eos_token_id=teachers.eos_token_id)
    spelling, (mine, theirs), places = read(own, teachers)
    row = {"input_ids": mine.ids, ANSWERED: mine.answered, TAUGHT: theirs.ids, TAUGHT_ANSWERED: theirs.answered}
    ids, logs = likeliest_respelled(Teacher(model.double()), [row], spelling, 256, torch.device("cpu"))
    found, said = of_ids(ids, logs, 257), probabilities(model, theirs.ids.tolist())

    texts = [text if token < 319 else None for token, text in enumerate(bytes_of_tokens(teachers))]
    letters = {text[0]: token for token, text in enumerate(bytes_of_tokens(own)) if text}
    checked = ends = 0
    for index, place in enumerate(asked(mine)):
        position, depth = places.speaks[index], places.depth[index]
        if position == UNKNOWN:
            assert not mine.answered[place - 1]  # only the first of an answer, behind other white space
            assert found[index, mine.ids[place]] == pytest.approx(1, abs=1e-6)
            continue
        begun = bytes(b for each in mine.ids[place - depth : place] for b in bytes_of_tokens(own)[each])
        expected = np.zeros(257)
        for token, text in enumerate(texts):
            if text and len(text) > depth and text.startswith(begun):
                expected[letters[text[depth]]] += said[position, token]
        if not depth:
            expected[own.eos_token_id] += said[position, teachers.eos_token_id]
            ends += mine.ids[place] == own.eos_token_id
        np.testing.assert_allclose(found[index], expected / expected.sum(), atol=1e-6)
        checked += 1
    assert checked > 20
    assert ends == 2


def test_an_answer_that_the_teacher_reads_otherwise_is_learned_as_it_is():
    own = with_template(byte_tokenizer(300), TURNS)
    teachers = with_template(byte_tokenizer(320, normalizer=normalizers.Replace("w", "v")), TAGS)
    _, _, places = read(own, teachers)
    assert len(places.speaks) > 10
    assert (places.speaks == UNKNOWN).all()


def test_answers_that_the_teacher_s_row_has_no_room_for_are_learned_as_they_are():
    own, teachers = with_template(byte_tokenizer(300), TURNS), with_template(byte_tokenizer(320), TAGS)
    spelling, (mine, theirs), whole = read(own, teachers)
    cut = int(asked(theirs)[-1]) - 3
    some = read_answers(spelling, mine.ids, mine.answered, theirs.ids[:cut], theirs.answered[:cut])
    assert (some.speaks[:8] == whole.speaks[:8]).all()
    assert (some.speaks[-3:] == UNKNOWN).all()
    nothing = read_answers(spelling, mine.ids, mine.answered, theirs.ids[:0], theirs.answered[:0])
    assert (nothing.speaks == UNKNOWN).all()


MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and WHICH %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
ALIKE = [*CHAT[:3], {"role": "assistant", "content": "w3 w14 w16 w7"}]  # begins as the first answer


@pytest.mark.parametrize("which", ["loop.first", "loop.index == 2", "loop.last"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_answers_are_matched_with_the_same_ones_where_a_template_marks_only_some(which, whose):
    templates = {"student": TURNS, "teacher": TURNS, whose: MARKED.replace("WHICH", which)}
    own, teachers = with_template(byte_tokenizer(300), templates["student"]), byte_tokenizer(320)
    _, (mine, theirs), places = read(own, with_template(teachers, templates["teacher"]), ALIKE)
    known, speaks = [bytes_of_tokens(each) for each in (own, teachers)], 0
    for index, place in enumerate(asked(mine)):
        if (position := places.speaks[index]) == UNKNOWN:
            continue
        # What both have read of the conversation: the words that the assistant and the user wrote before.
        read_by = [
            [letter for letter in b"".join(texts[token] or b"" for token in ids) if chr(letter).isdigit()]
            for texts, ids in zip(
                known, (mine.ids[: place - places.depth[index]], theirs.ids[: position + 1]), strict=True
            )
        ]
        assert read_by[0] == read_by[1]
        speaks += 1
    assert (speaks > 5) == (which != "loop.first")  # which marks nothing


def test_what_ends_an_answer_is_told_apart_from_what_ends_a_text():
    own = with_template(byte_tokenizer(300), TURNS)
    teachers = with_template(byte_tokenizer(310, begin=True), TURNS.replace("</s>", "<s>"))
    spelling, (mine, theirs), places = read(own, teachers)
    assert theirs.ids[places.speaks[-1] + 1] == teachers.bos_token_id  # which ends answers there
    assert mine.ids[asked(mine)[-1]] == own.eos_token_id
    ids = np.array([teachers.bos_token_id])
    said = spelling.said(torch.eye(310)[ids], Places(*np.array([[0], [UNKNOWN], [0], [0], [0]])))
    assert said.argmax(-1).tolist() == [own.eos_token_id]


CHATS = [
    {
        "messages": [
            {"role": "user", "content": " ".join(text.split()[:4])},
            {"role": "assistant", "content": " ".join(text.split()[4 : 9 + i % 5])},
        ]
    }
    for i, text in enumerate(tiny.documents(40))
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    save_causal(tiny.tiny_causal(max_position_embeddings=128), folder)
    (folder / "chat_template.jinja").write_text(TURNS.replace("</s>", tiny.END_OF_TEXT))
    return str(folder)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("student")
    tokenizer = with_template(sentencepiece_tokenizer(), TAGS)
    ends = {"eos_token_id": 2, "bos_token_id": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    tiny.tiny_causal(seed=3, num_hidden_layers=2, **ends).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_student_learns_conversations_from_a_teacher_with_another_template(teacher, student, tmp_path, capsys):
    chats = write_rows(tmp_path / "chats.jsonl", CHATS)
    run = ["distill", "--teacher", teacher, "--student", student, "--corpus", chats, *RUN, "--teacher_top_k", "32"]
    run += ["--messages_column", "messages", "--max_length", "96", "--max_steps", "30", "--learning_rate", "5e-3"]
    complete(*run, "--eval_steps", "10", "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "40 conversations" in said
    looks = [entry["eval_kl_to_teacher"] for entry in history(tmp_path / "out") if "eval_kl_to_teacher" in entry]
    assert looks[-1] < 0.85 * looks[0]
    complete(*run, "--eval_steps", "10", "--output_dir", str(tmp_path / "again"))
    assert "computed before" in capsys.readouterr().out
    assert_same(weights(tmp_path / "out"), weights(tmp_path / "again"))


def test_python_s_rows_hold_what_both_read(teacher, student, tmp_path):
    own, teachers = (AutoTokenizer.from_pretrained(each) for each in (student, teacher))
    chats = write_rows(tmp_path / "chats.jsonl", CHATS)
    texts = Texts(taught=Taught(teachers))
    corpus = prepare_corpus(chats, own, max_length=96, framed=False, heldout=0, messages_column="messages", texts=texts)
    assert {*corpus.train.column_names} == {"input_ids", ANSWERED, TAUGHT, TAUGHT_ANSWERED}
    found = {tuple(row[TAUGHT]): row for row in corpus.train}
    for each in CHATS:
        mine, theirs = (
            ChatEncoder.from_tokenizer(which, 96).tokens(Conversation(each["messages"])) for which in (own, teachers)
        )
        row = found[tuple(theirs.ids)]
        assert row["input_ids"] == mine.ids.tolist()
        assert row[ANSWERED] == mine.answered.astype(int).tolist()
        assert row[TAUGHT_ANSWERED] == theirs.answered.astype(int).tolist()


@pytest.mark.parametrize("mistake", ["no spelling", "of text", "the other way round", "what the student reads alone"])
def test_rows_that_do_not_belong_to_a_spelling_are_refused_in_python(mistake, teacher, student, tmp_path):
    own, teachers = (AutoTokenizer.from_pretrained(each) for each in (student, teacher))
    chats = write_rows(tmp_path / "chats.jsonl", CHATS)
    texts = None if mistake == "what the student reads alone" else Texts(taught=Taught(teachers))
    corpus = prepare_corpus(chats, own, max_length=96, framed=False, heldout=0, messages_column="messages", texts=texts)
    spelling, said = {
        "no spelling": (None, "give spelling=Spelling(teacher_tokenizer, tokenizer, chats=True)"),
        "of text": (Spelling(teachers, own), r"these rows are of conversations: Spelling\(..., chats=True\)"),
        "the other way round": (Spelling(own, teachers, chats=True), "in another tokenizer than that of the rows"),
        "what the student reads alone": (Spelling(teachers, own, chats=True), "no columns teacher_ids and"),
    }[mistake]
    with pytest.raises(UserError, match=said.replace("(teacher_tokenizer, tokenizer, chats=True)", "")):
        with_likeliest(corpus.train, pytest.fail, own, 8, len(own), tmp_path / "kept", torch.device("cpu"), spelling)


def test_a_stream_leaves_out_what_has_no_answer_and_goes_on_where_it_was(teacher, student, tmp_path):
    own, teachers = (AutoTokenizer.from_pretrained(each) for each in (student, teacher))
    silent = {"messages": [{"role": "user", "content": "w1"}]}
    chats = write_rows(tmp_path / "chats.jsonl", [CHATS[0], silent, CHATS[1], silent, CHATS[2]])
    settings = {
        "max_length": 96,
        "framed": False,
        "messages_column": "messages",
        "texts": Texts(taught=Taught(teachers)),
    }
    rows = prepare_corpus(chats, own, heldout=0, streaming=True, **settings).train
    kept = [
        ChatEncoder.from_tokenizer(own, 96).tokens(Conversation(each["messages"])).ids.tolist() for each in CHATS[:3]
    ]
    assert sorted(row["input_ids"] for row in rows) == sorted(kept)


def test_a_teacher_without_a_template_is_told(teacher, student, tmp_path, capfd):
    folder = tmp_path / "plain"
    save_causal(tiny.tiny_causal(), folder)
    chats = write_rows(Path(tmp_path / "chats.jsonl"), CHATS)
    run = ["--teacher", str(folder), "--student", student, "--corpus", chats, *RUN, "--teacher_top_k", "8"]
    said = fail(capfd, "distill", *run, "--messages_column", "messages", "--output_dir", str(tmp_path / "out"))
    assert "plain has no chat template" in said
