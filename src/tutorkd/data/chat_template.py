"""Conversations in a tokenizer's chat template, and where in the text that comes of it the answers are."""

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tutorkd.data.documents import Conversation, Messages
from tutorkd.errors import UserError
from tutorkd.words import one_line

_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = "\ue000answer\ue001"  # is in no text, being of characters for private use
_SHOWN = 60  # characters of a conversation in a message


class Answer(NamedTuple):
    """Where an answer is in a text, in characters: what is said in it begins at ``said``, which may be behind what a
    template writes at its start.
    """

    start: int
    said: int
    end: int


def written(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> tuple[str, list[Answer]]:
    """A conversation in the chat template of a tokenizer, and where its answers are.

    Where a template marks them, as transformers' ``{% generation %}`` does, these marks count. Otherwise an answer is
    all that stands between the prompt for it (``add_generation_prompt``) and what follows: thoughts and calls of tools
    too. What follows is found by another answer in its place or, where the template doesn't take that, by the
    conversation that ends there. An assistant's message that says nothing is no answer.

    Raises:
        UserError: if it doesn't fit the template, or an answer can't be found in what comes of it.
    """
    messages, tools = _without_none(conversation.messages), _tools(conversation)
    fill = partial(_filled, tokenizer, messages, tools)
    if _MARKS_ANSWERS.search(tokenizer.get_chat_template()):
        text, marks = fill(messages, return_assistant_tokens_mask=True)
        return text, [Answer(start, start, end) for start, end in marks]
    text, _ = fill(messages)
    _refuse_parts_as_text(messages, text)
    answers = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or not any(value for key, value in message.items() if key != "role"):
            continue
        answer = _place_of(text, fill, messages, place)
        if answer is None:
            raise UserError(
                f"{_named(messages)}: its message {place + 1} can't be found in what the chat template makes of "
                "it: "
                + (
                    "make its content a string in the place of a list"
                    if isinstance(message.get("content"), list)
                    else "mark answers in the template, with {% generation %} and {% endgeneration %}"
                )
            )
        if text[answer.start : answer.end].strip():
            answers.append(answer)
    return text, answers


def _tools(conversation: Conversation) -> list[Any] | None:
    """The tools of a conversation as a template takes them.

    Raises:
        UserError: if they are a text that isn't a list in JSON.
    """
    tools: Any = conversation.tools or None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) or None
        except ValueError as error:
            raise UserError(f"{_named(conversation.messages)} has tools that aren't JSON: {one_line(error)}") from error
        if not isinstance(tools, list | None):
            raise UserError(f"{_named(conversation.messages)} has tools that aren't a list of JSON schemas")
        return tools
    return _without_none(tools)


def _refuse_parts_as_text(messages: Messages, text: str) -> None:
    """Refuse contents that are lists of parts where a template writes out the list in the place of what it holds."""
    for place, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and content and (str(content) in text or json.dumps(content) in text):
            raise UserError(
                f"{_named(messages)}: the content of its message {place + 1} is a list, which this chat template "
                "writes out as it is: make it a string"
            )


def _place_of(text: str, fill: Callable[..., Any], messages: Messages, place: int) -> Answer | None:
    """Where the answer in some message is in a text; None if that can't be told."""
    asked, message, following = messages[:place], messages[place], messages[place + 1 :]
    answered = [*asked, _with_content(message, {"role": message["role"]})]
    before, found, behind = _if_it_fits(fill, [*answered, *following]).partition(_STAND_IN)
    so_far = _if_it_fits(fill, [*asked, message]) if message.get("tool_calls") or not found else ""
    if so_far and text.startswith(so_far):
        before, found, closing = _if_it_fits(fill, answered).partition(_STAND_IN)
        end = len(so_far) - len(closing) if so_far.endswith(closing) else len(so_far.rstrip())
    elif text.endswith(behind):
        end = len(text) - len(behind)
        if message.get("tool_calls") and following:  # what a tool said may stand in the turn that called it
            told = _if_it_fits(fill, [*asked, message, _with_content(following[0], following[0]), *following[1:]])
            if _alike(text, told) < end:
                return None
    else:
        return None
    start = _start_of(text, fill, asked, before) if found else None
    if start is None:
        return None
    said = max(start, len(before)) if text.startswith(before) else start
    return Answer(start, min(said, max(start, end)), max(start, end))


def _with_content(message: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Another message whose content is the stand-in, in the form that the content of some message has."""
    parts = isinstance(message.get("content"), list)
    return {**other, "content": [{"type": "text", "text": _STAND_IN}] if parts else _STAND_IN}


def _start_of(text: str, fill: Callable[..., Any], asked: Messages, before: str) -> int | None:
    """Where the answer to a conversation begins in a text, which is where a prompt for it ends; None if that can't be
    told.

    Args:
        before: what stands before an answer without thoughts or calls of tools.
    """
    prompt = _if_it_fits(fill, asked, add_generation_prompt=True)
    to_prompt, to_answer = _alike(text, prompt), _alike(text, before)
    if to_prompt == len(prompt) <= to_answer and not text[to_prompt:to_answer].strip():
        return to_prompt
    unasked = _if_it_fits(fill, asked)
    if prompt not in ("", unasked) and to_prompt == len(prompt):
        return to_prompt
    # Without a prompt, or with one that asks for thoughts where there are none, another answer tells where the header
    # ends.
    if text.startswith(unasked) and to_answer > len(unasked):
        return min(to_answer, to_prompt) if to_prompt > len(unasked) else to_answer
    return to_answer if to_answer == len(before) else None


def _alike(text: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    if text.startswith(other):
        return len(other)
    differs = (place for place, (one, two) in enumerate(zip(text, other, strict=False)) if one != two)
    return next(differs, min(len(text), len(other)))


def _if_it_fits(fill: Callable[..., Any], messages: Messages, **options: Any) -> str:
    """What a template makes of a conversation that nobody had; nothing if that doesn't fit it."""
    try:
        return fill(messages, **options)[0]
    except UserError:
        return ""


def _filled(
    tokenizer: PreTrainedTokenizerBase,
    named: Messages,
    tools: list[Any] | None,
    messages: Messages,
    **options: Any,
) -> tuple[str, list[Any]]:
    """The text that a tokenizer's chat template makes of a conversation, and the places that it marks as answers."""
    template = tokenizer.get_chat_template()
    try:
        texts, marks = cast(Any, render_jinja_template)(
            [messages], tools=tools, chat_template=template, **options, **tokenizer.special_tokens_map
        )
    except Exception as error:  # a template is anybody's code
        raise UserError(f"{_named(named)} doesn't fit the chat template: {one_line(error)}") from error
    return texts[0], marks[0] if marks else []


def _named(messages: Messages) -> str:
    first = " ".join(str(messages[0].get("content")).split())
    return f"the conversation that begins {first[:_SHOWN]!r}"


def _without_none(value: Any) -> Any:
    """A message without keys that have no value, which Parquet gives to every message once one has a value there."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value
