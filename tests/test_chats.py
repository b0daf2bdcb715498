"""Conversations as rows: a chat template filled in, and a student that learns the answers alone."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from commands import SHORT, complete, fail, history
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import ByteLevel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tutorkd.config import DistillationConfig
from tutorkd.data import prepare_corpus
from tutorkd.data.chat_template import written
from tutorkd.data.chats import ANSWERED, ChatEncoder, answer_end
from tutorkd.data.documents import Conversation
from tutorkd.errors import UserError
from tutorkd.evaluation.heldout import NOT_SCORED
from tutorkd.evaluation.heldout_chats import chat_prompts, chat_rows
from tutorkd.methods import CAUSAL_METHODS
from tutorkd.methods.causal_kd import own_text
from tutorkd.objective import CAUSAL
from tutorkd.spacing import SpacedCollator
from tutorkd.students import started_student
from tutorkd.teacher import Teacher, load_teacher
from tutorkd.trainer import DistillationTrainer, build_module

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{% else %}{{ message.content }}<|im_end|>"
    "{% endif %}{{ '\n' }}{% endfor %}"
)
# As Llama 2's: no token says whose turn it is, and an end of text closes an answer, behind a space.
INSTRUCTION = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content.strip() }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content.strip() }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant talk here') }}{% endif %}{% endfor %}"
)
# As Qwen 3's: what was thought stays in the last answer alone, where there is always room for it.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% set said = message.content.split('</think>')[-1] %}"
    "{% set thought = message.content.split('</think>')[0] if '</think>' in message.content else '<think>' %}"
    "{% if message.role == 'assistant' and loop.last %}{{ thought }}</think>{% endif %}{{ said }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A call of a tool is written by the template from what isn't content.
TOOLS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.name }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen 3's and SmolLM 3's: there is room for thoughts in the last answer, and in others only if there are any.
REASONING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and (loop.last or message.reasoning_content) %}"
    "<think>\n{{ message.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.name }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek R1's: the prompt asks for thoughts, and the template leaves them out.
ASKING_TO_THINK = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# As Command R7B's: two tokens end an answer, of which the second ends a text.
TWO_ENDS = CHATML.replace("<|im_end|>", "<|im_end|>{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}")
# As LFM2.5's, which marks the line end behind an answer too.
MARKED_TO_LINE_END = MARKED.replace("{% endgeneration %}{% else %}", "\n{% endgeneration %}{% else %}").replace(
    "{% endif %}{{ '\n' }}", "\n{% endif %}"
)
WITHOUT_PROMPT = CHATML.partition("{% if add")[0]
# What follows the calls of tools must be what these say, as in Mistral's.
STRICT = TOOLS.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if message.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
    "{{ raise_exception('nobody called') }}{% endif %}",
)
# Has no prompt for an answer behind an answer.
ONE_ANSWER = CHATML.replace(
    "{% if add_generation_prompt %}",
    "{% if add_generation_prompt %}{% if messages[-1].role == 'assistant' %}{{ raise_exception('') }}{% endif %}",
)
PARTS = CHATML.replace("message.content", "message.content[0].text")
END = "<|im_end|>"
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "w7"}]}
TOLD = {"role": "tool", "content": "w5"}


def _tokenizer(template: str | dict[str, str] | None = CHATML) -> PreTrainedTokenizerFast:
    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", END]})
    tokenizer.chat_template = template
    return tokenizer


VOCABULARY = len(_tokenizer())


def _chat(*turns: str) -> list[dict[str, str]]:
    """Question, answer, question and so on."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": turn} for i, turn in enumerate(turns)]


def _chats(count: int = 40) -> list[list[dict[str, str]]]:
    texts = [text.split() for text in tiny.documents(count)]
    return [
        _chat(*(" ".join(each) for each in (text[:2], text[2:5], *((text[5:7], text[7:9]) if i % 3 else ()))))
        for i, text in enumerate(texts)
    ]


def _save(path: Path, chats) -> str:
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    return str(path)


@pytest.fixture
def teacher(tmp_path) -> Path:
    """A Llama of four layers that knows the tokens of a chat."""
    folder = tmp_path / "chat_model"
    tokenizer = _tokenizer()
    model = tiny.tiny_causal(vocab_size=VOCABULARY, max_position_embeddings=128)
    model.generation_config.eos_token_id = [0, tokenizer.convert_tokens_to_ids(END)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chats(tmp_path) -> str:
    return _save(tmp_path / "chats.jsonl", _chats())


def _answers(tokenizer, conversation) -> list[str]:
    """What is learned of a conversation, piece by piece."""
    tokens = ChatEncoder.from_tokenizer(tokenizer, 512).tokens(Conversation(conversation))
    pieces: list[list[int]] = []
    for token, answered, before in zip(tokens.ids, tokens.answered, [False, *tokens.answered], strict=False):
        if answered:
            pieces[-1:] = [[*pieces[-1], int(token)]] if before else [*pieces[-1:], [int(token)]]
    return [tokenizer.decode(piece) for piece in pieces]


ROLES = ("user", "assistant")
THOUGHT = _chat("a", "<think>b</think>c", "d", "<think>e</think>f")


@pytest.mark.parametrize(
    ("template", "conversation", "expected"),
    [
        (CHATML, _chat("w1?", " w2\n\nw3. ", "w2", "w4"), [f" w2\n\nw3. {END}", f"w4{END}"]),
        (CHATML, [{"role": "system", "content": "w2"}, *_chat("w2", "w2", "w2")], [f"w2{END}"]),
        (CHATML, _chat("w1", "tëxt 漢字 🙂", "w2", ""), [f"tëxt 漢字 🙂{END}"]),
        (MARKED, _chat("w1?", "w2 w3.", "w2", "w4"), [f"w2 w3.{END}", f"w4{END}"]),
        (INSTRUCTION, _chat("w1?", "w2 w3. ", "w2", "w4"), [f" w2 w3. {tiny.END_OF_TEXT}", f" w4 {tiny.END_OF_TEXT}"]),
        (THINKING, _chat("w1?", "w2 w3.", "w2", "w4"), [f"w2 w3.{END}", f"<think></think>w4{END}"]),
        (THINKING, THOUGHT, [f"c{END}", f"<think>e</think>f{END}"]),
        (TOOLS, [*_chat("a"), {"role": "assistant", "tool_calls": [{"name": "w7"}]}], [f"<call>w7</call>{END}"]),
        (TOOLS, [*_chat("a"), CALL, TOLD, *_chat("b", "c")[1:]], [f"<call>w7</call>{END}", f"c{END}"]),
        (STRICT, [*_chat("a"), CALL, TOLD, *_chat("b", "c")[1:]], [f"<call>w7</call>{END}", f"c{END}"]),
        (
            REASONING,
            [*_chat("a"), CALL, TOLD, {"role": "assistant", "content": "c", "reasoning_content": "e"}],
            [f"<call>w7</call>{END}", f"<think>\ne\n</think>\n\nc{END}"],
        ),
        (ASKING_TO_THINK, _chat("w1", "w2", "w3", "<b"), [f"w2{END}", f"<b{END}"]),
        (TWO_ENDS, _chat("w1", "w2", "w3", "w4"), [f"{each}{END}{tiny.END_OF_TEXT}" for each in ("w2", "w4")]),
        (MARKED_TO_LINE_END, _chat("w1", "w2", "w3", "w4"), [f"w2{END}\n", f"w4{END}\n"]),
        (WITHOUT_PROMPT, [*_chat("a"), CALL, *_chat("b", "c")], [f"c{END}"]),
        (ONE_ANSWER, [*_chat("w1", "w2"), *_chat("", "w3")[1:]], [f"w2{END}", f"w3{END}"]),
        (PARTS, [{"role": role, "content": [{"type": "text", "text": "w2"}]} for role in ROLES], [f"w2{END}"]),
    ],
    ids=[
        *("several", "system", "characters of several tokens", "marked", "no tokens for turns", "no thought"),
        *("thought", "a call", "a call in between", "a call that has to be there", "a thought behind a call"),
        *("asked to think", "two ends", "marked to the line end", "no prompt", "no prompt behind an answer", "parts"),
    ],
)
def test_an_answer_and_what_ends_it_are_told_from_the_rest(template, conversation, expected):
    assert _answers(_tokenizer(template), conversation) == expected


@pytest.mark.parametrize("conversation", [_chat("w1 w2", "w3 🙂 w4"), _chat("w1", "w2", "w3", "w4 w5", "w6")])
def test_ids_and_answers_are_transformers_own_where_a_template_marks_them(conversation):
    tokenizer = _tokenizer(MARKED)
    theirs = tokenizer.apply_chat_template(conversation, return_dict=True, return_assistant_tokens_mask=True)
    ours = ChatEncoder.from_tokenizer(tokenizer, 512).tokens(Conversation(conversation))
    assert ours.ids.tolist() == theirs["input_ids"]
    assert ours.answered.tolist() == [bool(each) for each in theirs["assistant_masks"]]


def test_a_text_is_what_transformers_makes_of_a_conversation():
    for template in (CHATML, MARKED, INSTRUCTION, THINKING, TOOLS, REASONING, TWO_ENDS):
        tokenizer = _tokenizer(template)
        text, _ = written(tokenizer, Conversation(THOUGHT))
        assert text == tokenizer.apply_chat_template(THOUGHT, tokenize=False)


def test_an_answer_end_with_a_token_that_isn_t_special_too():
    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", normalized=False)])
    tokenizer.chat_template = CHATML
    assert _answers(tokenizer, _chat("w1", "w2 ", "w3", "w4")) == [f"w2 {END}", f"w4{END}"]


def test_a_header_that_takes_white_space_along_is_no_part_of_the_answer_behind_it():
    tokenizer = tiny.causal_tokenizer()
    tokenizer.add_tokens([AddedToken(each, rstrip=True, normalized=False) for each in ("<|user|>", "<|assistant|>")])
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(END, lstrip=True)]})
    tokenizer.chat_template = CHATML.replace("<|im_start|>{{ message.role }}", "<|{{ message.role }}|>").replace(
        "<|im_start|>assistant", "<|assistant|>"
    )
    assert _answers(tokenizer, _chat("w1", " w2 ", "w3", "w4")) == [f"w2{END}", f"w4{END}"]


def test_a_post_processor_that_hides_spaces_hides_nothing_of_an_answer():
    tokenizer = _tokenizer()
    tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    conversation = _chat("w1", "w2 w3.\n\n  ", "w4", "  w5")
    assert _answers(tokenizer, conversation) == [f"w2 w3.\n\n  {END}", f"  w5{END}"]
    tokens = ChatEncoder.from_tokenizer(tokenizer, 512).tokens(Conversation(conversation))
    assert tokens.bytes.sum() == sum(len(message["content"].strip()) for message in conversation[1::2])
    assert tokens.ids.tolist() == tokenizer.apply_chat_template(conversation)["input_ids"]


def test_an_unknown_token_ends_no_answer():
    backend = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, END: 2, "w1": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    tokenizer.chat_template = CHATML
    tokens = ChatEncoder.from_tokenizer(tokenizer, 64).tokens(Conversation(_chat("w1", "w1 漢字")))
    assert tokens.ids[tokens.answered].tolist() == [3, 0, 2]


def test_the_bytes_of_answers_are_counted_once_each():
    answers = ["tëxt 漢字 🙂 w4", "w5"]
    tokens = ChatEncoder.from_tokenizer(_tokenizer(), 512).tokens(
        Conversation(_chat("w1", answers[0], "w2", answers[1]))
    )
    assert tokens.bytes.sum() == sum(len(answer.encode()) for answer in answers)
    assert tokens.bytes[~tokens.answered].sum() == 0


def test_the_bytes_of_answers_are_those_of_what_is_said_in_every_template():
    conversation = _chat("w1", " w2 w3\n", "w4", "w5")
    for template in (CHATML, MARKED, MARKED_TO_LINE_END, INSTRUCTION, THINKING, REASONING, TWO_ENDS):
        tokens = ChatEncoder.from_tokenizer(_tokenizer(template), 512).tokens(Conversation(conversation))
        assert tokens.bytes.sum() == len("w2 w3") + len("w5")


def test_rows_are_the_same_from_every_kind_of_source_and_in_a_stream(tmp_path, chats):
    conversations = _chats()
    table = pa.Table.from_pylist([{"messages": chat, "id": i} for i, chat in enumerate(conversations)])
    pq.write_table(table, tmp_path / "chats.parquet")
    inner = _save(tmp_path / "inner.jsonl", []) and tmp_path / "inner.jsonl"
    inner.write_text("".join(json.dumps({"data": {"chat": chat}}) + "\n" for chat in conversations), encoding="utf-8")
    settings = {"max_length": 64, "framed": False, "heldout": 0.0, "cache_dir": tmp_path / "cache", "num_proc": 1}

    def rows(source, column="messages", **more):
        corpus = prepare_corpus(source, _tokenizer(), messages_column=column, **settings, **more)
        return [{"input_ids": [*row["input_ids"]], ANSWERED: [*row[ANSWERED]]} for row in corpus.train]

    first = rows(chats)
    assert len(first) == len(conversations)
    given = Dataset.from_list([{"messages": chat} for chat in conversations])
    for other in (str(tmp_path / "chats.parquet"), given):
        assert rows(other) == first
    assert rows(str(inner), "data.chat") == first
    assert sorted(map(str, rows(chats, streaming=True))) == sorted(map(str, first))
    tokenizer = _tokenizer()
    for row, chat in zip(first, conversations, strict=True):
        assert row["input_ids"] == tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"][:64]


def test_rows_are_made_anew_once_the_template_writes_another_special_token(tmp_path, chats):
    ends = []
    for eos in (tiny.END_OF_TEXT, END):
        tokenizer = _tokenizer(INSTRUCTION)
        tokenizer.eos_token = eos
        corpus = prepare_corpus(
            chats, tokenizer, max_length=64, messages_column="messages", framed=False, heldout=0.0, cache_dir=tmp_path
        )
        ends.append(tokenizer.convert_ids_to_tokens(corpus.train[0]["input_ids"][-1]))
    assert ends == [tiny.END_OF_TEXT, END]


def test_a_conversation_is_cut_and_left_out_if_no_answer_is_in_its_row(tmp_path):
    long = " ".join(tiny.WORDS[:80])
    short = _chat("w1", "w2")
    file = _save(tmp_path / "a.jsonl", [_chat("w1", long), _chat(long, "w1"), _chat("w1"), [], short])
    corpus = prepare_corpus(
        file, _tokenizer(), max_length=48, messages_column="messages", framed=False, heldout=0.0, cache_dir=tmp_path
    )
    assert corpus.documents == 2
    lengths = [len(_tokenizer().apply_chat_template(chat)["input_ids"]) for chat in (_chat("w1", long), short)]
    assert lengths[0] > 48 > lengths[1]
    assert [len(row["input_ids"]) for row in corpus.train] == [48, lengths[1]]


def test_conversations_without_an_answer_are_no_part_of_a_stream(tmp_path):
    settings = {"max_length": 64, "messages_column": "messages", "framed": False, "streaming": True, "heldout": 0.2}
    answered = _chats(10)
    file = _save(tmp_path / "a.jsonl", [_chat("w1"), answered[0], *[_chat("w2")] * 9, *answered[1:]])
    corpus = prepare_corpus(file, _tokenizer(), **settings)
    told = [_tokenizer().apply_chat_template(chat)["input_ids"][:64] for chat in answered]
    assert [[*row["input_ids"]] for row in corpus.heldout] == told[:2]
    assert sorted([*row["input_ids"]] for row in corpus.train) == sorted(told[2:])
    with pytest.raises(UserError, match="holds no answer"):
        prepare_corpus(_save(tmp_path / "b.jsonl", [_chat("w1")] * 4), _tokenizer(), **settings)


def test_what_isn_t_a_conversation_is_told_with_its_place(tmp_path):
    settings = {"max_length": 24, "framed": False, "cache_dir": tmp_path / "cache"}

    def refused(source, column: str | None = "messages", tokenizer=None, **more) -> str:
        with pytest.raises(UserError) as error:
            prepare_corpus(source, tokenizer or _tokenizer(), messages_column=column, **{**settings, **more})
        return str(error.value)

    chats = _save(tmp_path / "a.jsonl", _chats(4))
    assert "--messages_column messages in the place of --text_column" in refused(chats, None, text_column="messages")
    (tmp_path / "b.jsonl").write_text('{"messages": "text"}\n')
    assert "line 1: column 'messages' holds str, not conversations" in refused(str(tmp_path / "b.jsonl"))
    (tmp_path / "c.jsonl").write_text('{"messages": [{"from": "human", "value": "a"}]}\n')
    assert "each with role and content" in refused(str(tmp_path / "c.jsonl"))
    pq.write_table(pa.table({"messages": [["a", "b"]]}), tmp_path / "d.parquet")
    assert "column 'messages' holds list" in refused(str(tmp_path / "d.parquet"))
    pq.write_table(pa.table({"text": [_chats(1)[0]]}), tmp_path / "e.parquet")
    assert "holds conversations, not text" in refused(str(tmp_path / "e.parquet"), None)
    (tmp_path / "f.txt").write_text("text")
    assert "conversations are read from .jsonl and .json and .parquet" in refused(str(tmp_path / "f.txt"))
    assert "did you mean 'messages'? Name it with --messages_column messages" in refused(chats, "message")
    assert "no chat template" in refused(chats, tokenizer=_tokenizer(None))
    assert "for causal language models" in refused(chats, framed=True)
    told = refused(
        _save(tmp_path / "g.jsonl", [[{"role": "system", "content": "w1 " * 40}]]), tokenizer=_tokenizer(INSTRUCTION)
    )
    assert "the conversation that begins 'w1 w1" in told
    assert "doesn't fit the chat template: only user and assistant talk here" in told
    assert "holds no answer" in refused(_save(tmp_path / "h.jsonl", [_chat("w1"), _chat("w1")]))
    several = _tokenizer({"tool_use": CHATML, "rag": CHATML})
    assert "several chat templates, and none of them is called 'default'" in refused(chats, tokenizer=several)
    parts = [[{"role": role, "content": [{"type": "text", "text": "w1"}]} for role in ROLES]] * 2
    told = refused(_save(tmp_path / "i.jsonl", parts))
    assert "the content of its message 1 is a list, which this chat template writes out as it is" in told
    lost = "{{ messages | length }}"
    assert "its message 2 can't be found" in refused(chats, tokenizer=_tokenizer(lost))


def _rows(count: int = 6) -> list[dict]:
    encoder = ChatEncoder.from_tokenizer(_tokenizer(), 64)
    found = [encoder.tokens(Conversation(chat)) for chat in _chats(count)]
    return [
        {"input_ids": each.ids.tolist(), ANSWERED: each.answered.astype(int).tolist(), "draw": draw}
        for draw, each in enumerate(found)
    ]


def _batch(count: int = 6, share: float = 0.0, window: int = 0):
    return SpacedCollator(_tokenizer(), share, window, 0, VOCABULARY)(_rows(count))


def _module(method: str, **settings):
    teacher = Teacher(tiny.tiny_causal(vocab_size=VOCABULARY))
    student = tiny.tiny_causal(seed=1, vocab_size=VOCABULARY)
    chosen = CAUSAL_METHODS[method].settings(**settings)
    return build_module(CAUSAL_METHODS[method], student, teacher, chosen, _tokenizer()), teacher


def _labels(batch) -> torch.Tensor:
    """As transformers takes them: -100 where nothing is asked."""
    labels = torch.full_like(batch.input_ids, -100)
    for row, each in enumerate(_rows(len(labels))):
        mask = torch.tensor(each[ANSWERED], dtype=torch.bool)
        labels[row, : len(mask)][mask] = torch.tensor(each["input_ids"])[mask]
    return labels


def test_the_loss_on_answers_is_transformers_own_with_labels():
    batch = _batch()
    module, teacher = _module("clm")
    theirs = module.model(input_ids=batch.input_ids, attention_mask=batch.mask, labels=_labels(batch)).loss
    torch.testing.assert_close(module(batch, teacher).loss, theirs)
    assert float(batch.counts.predicted) == int((_labels(batch)[:, 1:] != -100).sum())


def test_kd_is_the_mean_divergence_at_the_answers():
    batch = _batch()
    module, teacher = _module("kd")
    asked = _labels(batch)[:, 1:] != -100
    p, q = (
        model(input_ids=batch.input_ids, attention_mask=batch.mask).logits.double()[:, :-1][asked].log_softmax(-1)
        for model in (teacher.model, module.student)
    )
    expected = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
    assert float(module(batch, teacher).loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_rows_whose_answers_are_all_of_them_are_learned_as_text_is(method):
    settings = {"window": 2, "replaced_share": 0.2} if method == "tutor-kd" else {}
    text = [{"input_ids": row["input_ids"], "draw": row["draw"]} for row in _rows()]
    whole = [{**row, ANSWERED: [1] * len(row["input_ids"])} for row in text]
    losses = []
    for rows in (text, whole):
        module, teacher = _module(method, **settings)
        batch = SpacedCollator(_tokenizer(), *((0.2, 2) if settings else (0.0, 0)), 0, VOCABULARY)(rows)
        torch.manual_seed(0)
        losses.append(module(batch, teacher).loss)
    torch.testing.assert_close(*losses)


def test_a_tutor_replaces_tokens_of_answers_and_looks_at_answers_alone():
    batch = _batch(20, 0.3, 2)
    rows = _rows(20)
    length = batch.input_ids.shape[1]
    places = [divmod(int(position), length) for position in batch.masked_positions]
    assert len(places) > 20
    assert all(rows[row][ANSWERED][place] for row, place in places)
    ends = _tokenizer().convert_tokens_to_ids(END)
    assert all(rows[row]["input_ids"][place] != ends for row, place in places)
    module, teacher = _module("tutor-kd", window=2, replaced_share=0.3, divergence="forward-kl")
    torch.manual_seed(0)
    lesson = module.teach(batch, teacher)
    tutored = batch.with_tokens(lesson.action.replaced_ids)
    log_p, log_q = (
        model(input_ids=tutored, attention_mask=batch.mask).logits.double().log_softmax(-1)
        for model in (teacher.model, module.student)
    )
    clean = teacher.model(input_ids=batch.input_ids, attention_mask=batch.mask).logits.double().log_softmax(-1)
    for (row, place), easier, further in zip(places, lesson.reward_teacher, lesson.reward_student, strict=True):
        ahead = [at for at in (place + 1, place + 2) if at < len(rows[row]["input_ids"]) and rows[row][ANSWERED][at]]
        gains = [log_p[row, at - 1, tutored[row, at]] - clean[row, at - 1, tutored[row, at]] for at in ahead]
        apart = [(log_p[row, at - 1].exp() - log_q[row, at - 1].exp()).abs().sum() / 2 for at in ahead]
        gained = sum(min(max(float(gain), -1), 1) for gain in gains) / max(len(gains), 1)
        assert float(easier) == pytest.approx(gained, abs=1e-4)
        assert float(further) == pytest.approx(sum(map(float, apart)) / max(len(apart), 1), abs=1e-4)


def test_the_student_writes_its_own_last_answer_up_to_its_end():
    module, _ = _module("kd", on_policy_share=1.0)
    end = _tokenizer().convert_tokens_to_ids(END)
    module.student.generation_config.eos_token_id = [0, end]
    batch, rows = _batch(), _rows()
    torch.manual_seed(0)
    own = own_text(module, batch)
    assert own.input_ids.shape == batch.input_ids.shape
    asked = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
    asked[own.answers] = True
    for row, ids, before, now in zip(rows, own.input_ids, batch.input_ids, asked.view_as(batch.input_ids), strict=True):
        mask = row[ANSWERED]
        start = max(place for place in range(1, len(mask)) if mask[place] and not mask[place - 1])
        assert torch.equal(ids[:start], before[:start])
        written = ids[now].tolist()
        assert now[start]
        assert now.sum() == len(written) == int(own.mask[rows.index(row)].sum()) - start
        assert not {0, end} & {*written[:-1]}
        assert start + len(written) == len(ids) or written[-1] in (0, end)
    assert any(not torch.equal(one, other) for one, other in zip(own.input_ids, batch.input_ids, strict=True))


def test_none_of_the_rows_is_written_by_the_student_at_a_share_of_0():
    module, _ = _module("kd")
    batch = _batch()
    assert own_text(module, batch) is batch


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{ANSWERED: [0, 1]}], "a row of 3 tokens has 2 assistant_masks"),
        ([{ANSWERED: [0, 1, 1]}, {}], "has no assistant_masks"),
        ([{ANSWERED: [0, 0, 0]}], "no token of 1 rows is part of an answer"),
        ([{ANSWERED: [1, 0, 0]}], "no token of 1 rows is part of an answer"),
    ],
)
def test_rows_that_say_too_little_of_their_answers_are_refused(rows, told):
    collator = SpacedCollator(_tokenizer(), 0.0, 0, 0, VOCABULARY)
    with pytest.raises(UserError, match=told):
        collator([{"input_ids": [5, 6, 7], "draw": 0, **row} for row in rows])


def test_labels_say_what_is_learned_as_transformers_own_loss_takes_them():
    collator = SpacedCollator(_tokenizer(), 0.0, 0, 0, VOCABULARY)
    masked, plain = _rows(), [{"input_ids": row["input_ids"], "draw": row["draw"]} for row in _rows()]
    labelled = [
        {**row, "labels": [i if told else -100 for i, told in zip(row["input_ids"], each[ANSWERED], strict=True)]}
        for row, each in zip(plain, masked, strict=True)
    ]
    assert torch.equal(collator(labelled).answers, collator(masked).answers)
    assert collator(labelled).counts == collator(masked).counts
    everything = collator([{**row, "labels": row["input_ids"]} for row in plain])
    assert everything.answers is None
    assert everything.counts == collator(plain).counts


def _distill(teacher: Path, chats: str, out: Path, *more: str) -> list[str]:
    return [
        *("distill", "--teacher", str(teacher), "--corpus", chats, "--messages_column", "messages", *SHORT),
        *("--max_length", "64", "--bf16", "false", "--output_dir", str(out), *more),
    ]


@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_a_student_of_conversations_is_trained_by_every_method(tmp_path, teacher, chats, method, capsys):
    flags = ["--window", "2", "--replaced_share", "0.2"] if method == "tutor-kd" else []
    out = tmp_path / "out"
    complete(*_distill(teacher, chats, out, "--method", method, *flags))
    assert "40 conversations" in capsys.readouterr().out
    assert all(math.isfinite(line["loss"]) for line in history(out) if "loss" in line)
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(_chat("w1"), add_generation_prompt=True, return_tensors="pt")
    student = AutoModelForCausalLM.from_pretrained(out)
    assert student.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.5, "do_sample": True}, {"temperature": 0.5, "do_sample": False}]
)
def test_a_student_ends_its_answers_as_its_teacher_does(tmp_path, teacher, settings):
    file = teacher / "generation_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, **settings}))
    student = started_student("half", load_teacher(str(teacher), torch.float32), head=CAUSAL).student
    student.save_pretrained(tmp_path / "student")
    saved = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == told["eos_token_id"] == [0, _tokenizer().convert_tokens_to_ids(END)]
    assert (saved.get("temperature") == 0.5) is settings["do_sample"]  # the other can be read, but not written


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_model_that_learns_answers_stops_at_what_ends_them(tmp_path, teacher, chats, streaming):
    base = tmp_path / "base"
    tiny.tiny_causal(vocab_size=VOCABULARY, max_position_embeddings=128, num_hidden_layers=2).save_pretrained(base)
    flags = ["--student", str(base), "--streaming", streaming]
    complete(*_distill(teacher, chats, tmp_path / "out", *flags))
    assert 'chat([{"role": "user"' in (tmp_path / "out" / "README.md").read_text()
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert student.generation_config.eos_token_id == [0, _tokenizer().convert_tokens_to_ids(END)]


def test_what_ends_answers_is_read_off_the_chat_template():
    ends = {}
    # As GLM's: the next turn's token ends an answer, so that nothing ends the last one; what ends a thought doesn't.
    turns = CHATML.replace("<|im_end|>\n", "").replace("{{ message.content }}", "</think>{{ message.content }}")
    for template in (turns, CHATML, INSTRUCTION, TWO_ENDS, MARKED_TO_LINE_END, "{{ messages | length }}", None):
        tokenizer = _tokenizer(template)
        tokenizer.add_tokens(["</think>"])
        ends[template] = tokenizer.convert_ids_to_tokens(answer_end(tokenizer))
    assert [*ends.values()] == ["<|im_start|>", END, *[tiny.END_OF_TEXT] * 2, END, *[tiny.END_OF_TEXT] * 2]


def test_on_policy_rows_of_conversations_train(tmp_path, teacher, chats):
    complete(*_distill(teacher, chats, tmp_path / "out", "--on_policy_share", "0.5"))
    assert all(math.isfinite(line["loss"]) for line in history(tmp_path / "out") if "loss" in line)


def test_the_loss_of_conversations_doesn_t_depend_on_how_rows_are_shared(tmp_path, teacher, chats):
    for name, batch, parts in (("one", "8", "1"), ("four", "2", "4")):
        flags = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", parts, "--max_steps", "2"]
        complete(*_distill(teacher, chats, tmp_path / name, "--eval_strategy", "no", *flags))
    first, second = (history(tmp_path / name) for name in ("one", "four"))
    for one, four in zip(first[:2], second[:2], strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)


def test_adapt_trains_a_model_on_conversations_and_a_stream_of_them(tmp_path, teacher, chats):
    for name, flags in (("kept", []), ("streamed", ["--streaming", "true"])):
        command = ["adapt", "--model", str(teacher), "--corpus", chats, "--messages_column", "messages", *SHORT]
        complete(*command, "--max_length", "64", "--output_dir", str(tmp_path / name), *flags)
        assert all(math.isfinite(line["loss"]) for line in history(tmp_path / name) if "loss" in line)


def test_rows_of_conversations_are_read_with_their_like_and_aren_t_compiled(tmp_path, teacher, capfd):
    rows = [{key: row[key] for key in ("input_ids", ANSWERED)} for row in _rows(40)]
    config = DistillationConfig(
        str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=10, eval_strategy="no", report_to="none"
    )
    trainer = DistillationTrainer("half", str(teacher), config, Dataset.from_list(rows), _tokenizer(), method="kd")
    batches = list(trainer.get_train_dataloader())
    padding = sum(float((batch.mask == 0).sum()) for batch in batches) / sum(len(row["input_ids"]) for row in rows)
    assert padding < 0.05
    assert trainer.args.torch_compile is False
    command = _distill(teacher, _save(tmp_path / "a.jsonl", _chats()), tmp_path / "compiled", "--torch_compile", "true")
    told = fail(capfd, *command)
    assert "rows of unequal lengths can't go through one graph" in told


def test_a_run_says_how_many_conversations_are_left_out(tmp_path, teacher, capsys):
    long = _chat(" ".join(tiny.WORDS[:80]), "w1")
    chats = _save(tmp_path / "chats.jsonl", [*_chats(9), long, _chat("w1"), *_chats(9)])
    complete(*_distill(teacher, chats, tmp_path / "out", "--dry-run"))
    told = (
        f"text     {chats}: of the first 20 conversations 2 are left out, in which the assistant says nothing within 64"
    )
    assert told in capsys.readouterr().out
    complete(*_distill(teacher, _save(tmp_path / "all.jsonl", _chats(9)), tmp_path / "out", "--dry-run"))
    assert "left out" not in capsys.readouterr().out


def test_an_encoder_doesn_t_learn_from_conversations(tmp_path, chats, capfd, teacher_folder):
    assert "for causal language models" in fail(capfd, *_distill(teacher_folder, chats, tmp_path / "out"))


def test_conversations_are_measured_by_their_answers(tmp_path, teacher, capfd):
    held_out = _chats(6)
    file = _save(tmp_path / "held.jsonl", held_out)
    out = tmp_path / "evaluation"
    flags = ["--max_length", "64", "--prompts", "3", "--new_tokens", "4", "--bf16", "false"]
    command = ["evaluate", "--models", str(teacher), "--text", file, *flags, "--output_dir", str(out)]
    complete(*command, "--messages_column", "messages")
    (result,) = json.loads((out / "results.json").read_text())["results"]
    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModelForCausalLM.from_pretrained(teacher).double()
    nats = tokens = 0.0
    for chat in held_out:
        tokenizer.chat_template = MARKED
        row = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["assistant_masks"], dtype=torch.bool)
        assert len(ids) <= 64
        with torch.no_grad():
            log_p = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        nats -= float(log_p.gather(-1, ids[1:, None]).squeeze(-1)[mask[1:]].sum())
        tokens += int(mask.sum())
    size = sum(len(message["content"].encode()) for chat in held_out for message in chat[1::2])
    assert result["text_tokens"] == tokens
    assert result["text_bytes"] == size
    assert result["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    assert "6 conversations" in (out / "results.md").read_text()
    told = fail(capfd, *command, "--restart", "--text_column", "messages")
    assert "--messages_column messages in the place of --text_column" in told


def test_a_model_is_measured_anew_once_its_chat_template_has_changed(tmp_path, teacher, capsys):
    command = [
        "evaluate",
        "--models",
        str(teacher),
        "--text",
        _save(tmp_path / "held.jsonl", _chats(6)),
        "--prompts",
        "2",
    ]
    command += ["--messages_column", "messages", "--max_length", "64", "--new_tokens", "4", "--bf16", "false"]
    found = []
    for template in (CHATML, CHATML, INSTRUCTION):
        (teacher / "chat_template.jinja").write_text(template)
        complete(*command, "--output_dir", str(tmp_path / "out"))
        found.append(json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["perplexity"])
        assert ("finished before" in capsys.readouterr().err) == (len(found) == 2)
    assert found[0] == found[1] != found[2]


def test_prompts_are_conversations_up_to_their_last_answer():
    tokenizer = _tokenizer()
    rows = chat_rows([*map(Conversation, _chats(4))], tokenizer, 64)
    for row, chat in zip(rows, _chats(4), strict=True):
        (prompt,) = chat_prompts([row], 1, 64)
        assert prompt == tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
        assert [token for token in row.targets if token != NOT_SCORED][-1] == tokenizer.convert_tokens_to_ids(END)
    with pytest.raises(UserError, match="leaves room for new tokens"):
        chat_prompts(rows, 1, 4)


def test_a_model_is_trimmed_to_conversations_of_any_length_and_then_teaches(tmp_path, teacher):
    late = [_chat("w1", " ".join([*["w2"] * 300, "w94"]))]
    chats = _save(tmp_path / "chats.jsonl", [*_chats(20), *late] * 2)  # one is held out, and its tokens don't count
    out = tmp_path / "trimmed"
    complete(
        *("trim", "--model", str(teacher), "--corpus", chats, "--messages_column", "messages"),
        *("--coverage", "1", "--output_dir", str(out), "--cache_dir", str(tmp_path / "cache")),
    )
    whole, trimmed = (AutoTokenizer.from_pretrained(folder) for folder in (teacher, out))
    assert len(trimmed) < len(whole)
    for chat in (*_chats(20), *late):
        ids = trimmed.apply_chat_template(chat)["input_ids"]
        assert trimmed.convert_ids_to_tokens(ids) == whole.convert_ids_to_tokens(
            whole.apply_chat_template(chat)["input_ids"]
        )
    complete(*_distill(out, chats, tmp_path / "student"))
