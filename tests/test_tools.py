"""Conversations in which the assistant could call tools, which the chat template writes out."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from commands import assert_same, complete, fail, save_causal, weights, write_rows
from datasets import Dataset

from tutorkd.data import prepare_corpus
from tutorkd.data.chats import ANSWERED
from tutorkd.errors import UserError

TEMPLATE = (
    "{% if tools %}tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|endoftext|>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = [
    {
        "type": "function",
        "function": {"name": "w1", "parameters": {"type": "object", "properties": {"w2": {"type": "string"}}}},
    }
]
OTHERS = [{"type": "function", "function": {"name": "w3", "parameters": {"type": "object", "required": ["w4"]}}}]
RUN = [
    *("--method", "kd", "--max_length", "160", "--per_device_train_batch_size", "4", "--logging_steps", "1"),
    *("--bf16", "false", "--use_cpu", "--eval_strategy", "no", "--heldout", "0", "--max_steps", "2"),
]


def _messages(i: int) -> list[dict[str, str]]:
    words = tiny.documents(12)[i].split()
    return [
        {"role": "user", "content": " ".join(words[:3])},
        {"role": "assistant", "content": " ".join(words[3 : 6 + i % 3])},
    ]


ROWS = [{"messages": _messages(i), "tools": [TOOLS, None, OTHERS, []][i % 4]} for i in range(12)]


def _tokenizer():
    tokenizer = tiny.causal_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def teacher(tmp_path) -> str:
    folder = tmp_path / "teacher"
    save_causal(tiny.tiny_causal(max_position_embeddings=512), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def _corpus(source, **settings):
    settings = {"max_length": 400, "framed": False, "heldout": 0, "tools_column": "tools"} | settings
    return prepare_corpus(source, _tokenizer(), messages_column="messages", **settings).train


def _files(folder) -> dict:
    """The same rows in every form that they come in; tools may be lists, or these as JSON."""
    as_json = [{**row, "tools": None if row["tools"] is None else json.dumps(row["tools"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(as_json), folder / "text.parquet")
    alike = [{**row, "tools": TOOLS if row["tools"] else None} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(alike), folder / "lists.parquet")
    return {
        "jsonl": write_rows(folder / "lists.jsonl", ROWS),
        "jsonl, as JSON": write_rows(folder / "text.jsonl", as_json),
        "parquet, as JSON": str(folder / "text.parquet"),
        "a Dataset, as JSON": Dataset.from_list(as_json),
        "parquet": str(folder / "lists.parquet"),
    }


@pytest.mark.parametrize("form", ["jsonl", "jsonl, as JSON", "parquet, as JSON", "a Dataset, as JSON", "parquet"])
def test_a_row_is_what_transformers_makes_of_messages_and_tools(form, tmp_path):
    tokenizer = _tokenizer()
    rows = _corpus(_files(tmp_path)[form])
    expected = []
    for row in ROWS:
        tools = (TOOLS if row["tools"] and form == "parquet" else row["tools"]) or None
        ids = tokenizer.apply_chat_template(row["messages"], tools=tools)["input_ids"]
        answer = tokenizer(row["messages"][1]["content"] + tiny.END_OF_TEXT)["input_ids"]
        expected.append((ids, [0] * (len(ids) - len(answer)) + [1] * len(answer)))
    found = sorted((row["input_ids"], row[ANSWERED]) for row in rows)
    assert found == sorted(expected)


def test_without_the_column_tools_are_left_out(tmp_path):
    file = write_rows(tmp_path / "chats.jsonl", ROWS)
    plain, told = _corpus(file, tools_column=None), _corpus(file)
    without = {tuple(_tokenizer().apply_chat_template(row["messages"])["input_ids"]) for row in ROWS}
    assert {tuple(row["input_ids"]) for row in plain} == without
    assert {tuple(row["input_ids"]) for row in told} != without


def test_a_stream_reads_them_too(tmp_path):
    file = write_rows(tmp_path / "chats.jsonl", ROWS)
    stream = _corpus(file, streaming=True)
    some = [next(iter(stream))["input_ids"] for _ in range(1)]
    assert some[0] in [row["input_ids"] for row in _corpus(file)]


def test_a_run_and_its_evaluation_read_them(teacher, tmp_path, capsys):
    file = write_rows(tmp_path / "chats.jsonl", ROWS)
    run = ["distill", "--teacher", teacher, "--corpus", file, "--messages_column", "messages", *RUN]
    complete(*run, "--tools_column", "tools", "--output_dir", str(tmp_path / "with"))
    complete(*run, "--output_dir", str(tmp_path / "without"))
    with pytest.raises(AssertionError):
        assert_same(weights(tmp_path / "with"), weights(tmp_path / "without"))
    capsys.readouterr()
    likelihoods = []
    for tools in ([], ["--tools_column", "tools"]):
        out = tmp_path / f"evaluation{len(tools)}"
        complete(
            *("evaluate", "--models", str(tmp_path / "with"), "--text", file, "--messages_column", "messages", *tools),
            *("--prompts", "1", "--new_tokens", "2", "--max_length", "400", "--output_dir", str(out)),
        )
        (result,) = json.loads((out / "results.json").read_text())["results"]
        likelihoods.append(result["perplexity"])
    assert likelihoods[0] != likelihoods[1]


def test_trim_counts_the_tokens_of_tools(teacher, tmp_path, capsys):
    file = write_rows(tmp_path / "chats.jsonl", ROWS)
    run = ["trim", "--model", teacher, "--corpus", file, "--messages_column", "messages", "--dry-run"]
    complete(*run)
    without = capsys.readouterr().out
    complete(*run, "--tools_column", "tools")
    assert capsys.readouterr().out != without


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("{not JSON", "the conversation that begins 'w[^']*' has tools that aren't JSON: "),
        ('{"a": 1}', "has tools that aren't a list of JSON schemas"),
        (7, "line 1: column 'tools' holds int, not tools: a list of JSON schemas is needed in each row"),
    ],
)
def test_what_is_no_list_of_tools_is_told(tools, said, tmp_path):
    file = write_rows(tmp_path / "chats.jsonl", [{"messages": _messages(0), "tools": tools}])
    with pytest.raises(UserError, match=said):
        _corpus(file, max_length=64)


def test_a_parquet_column_of_numbers_holds_no_tools(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"messages": _messages(0), "tools": 7}]), tmp_path / "chats.parquet")
    with pytest.raises(UserError, match="column 'tools' holds int64, not tools"):
        _corpus(str(tmp_path / "chats.parquet"))
    with pytest.raises(UserError, match=r"column 'tools' holds .*, not tools"):
        _corpus(Dataset.from_list([{"messages": _messages(0), "tools": 7}]))


def test_tools_without_conversations_and_missing_columns_are_refused(teacher, tmp_path, capfd):
    file = write_rows(tmp_path / "chats.jsonl", ROWS)
    run = ["distill", "--teacher", teacher, "--corpus", file, *RUN, "--output_dir", str(tmp_path / "out")]
    assert "name their column with messages_column" in fail(capfd, *run, "--tools_column", "tools")
    said = fail(capfd, *run, "--messages_column", "messages", "--tools_column", "tool")
    assert "'tool'" in said
    assert "did you mean 'tools'" in said or "--tools_column" in said
    asked = ["evaluate", "--models", teacher, "--text", file, "--output_dir", str(tmp_path / "ev")]
    assert "name their column with --messages_column" in fail(capfd, *asked, "--tools_column", "tools")
