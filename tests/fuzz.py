"""Inputs that are nearly right: valid files with a few bytes, or values of JSON, changed at random."""

import csv
import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tutorkd.errors import UserError

_LONG = int(os.environ.get("TUTORKD_FUZZ_EXAMPLES", "0"))


def fuzzed(examples: int) -> settings:
    """So many inputs, the same ones every time; with $TUTORKD_FUZZ_EXAMPLES so many new ones."""
    return settings(
        max_examples=_LONG or examples,
        derandomize=not _LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def parted_by(content: bytes, *columns: str) -> str:
    """What parts the header of a CSV file into these fields and perhaps others: a comma, a semicolon or a tab."""
    first = next(iter(content.decode("utf-8-sig").splitlines()), "")
    marks = (mark for mark in ",;\t" if set(columns) <= set(next(csv.reader([first], delimiter=mark), [])))
    return next(marks, ",")


def or_refused(naming: str, call: Callable, *args: Any) -> Any:
    """What a call returns, or None where it refused its input in one line that says `naming`."""
    try:
        return call(*args)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert naming in message
    return None


# Unpaired surrogates can't be encoded, so no file of text holds them; JSON can escape them.
characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    list("\0\x1c\x85\u2028\ufeff\"',;:#&*-{}[]\\ \t\n\r")
)
texts = st.text(characters, max_size=20)
numbers = st.integers(-(2**70), 2**70) | st.sampled_from([-1, 0, 1, 2, 3, 0.5, 1e-4, 10**30]) | st.floats()
words = st.sampled_from(
    ["", " ", "text", "true", "no", "null", "~", "nan", "-1", "010", "1_0", "1e3", "2024-02-30", "\0"]
)
scalars = st.none() | st.booleans() | numbers | words | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)

_PIECES = [
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xe2\x80\xa8",
        b"\r",
        b"\r\n",
        b"\n",
        b"\n\n",
        b"\t",
        b" ",
    ),
    *(
        b'"',
        b'""',
        b"'",
        b",",
        b":",
        b": ",
        b"- ",
        b"# ",
        b"\n---\n",
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"? ",
        b"!!int ",
        b"|\n",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 3000,
        b"- " * 3000,
        b'{"a":' * 3000,
        b"9" * 5000,
        b"-1",
        b"0",
        b"1e999",
        b"010",
        b"1:30",
    ),
    *(b"NaN", b"-Infinity", b".nan", b"null", b"true", b"2001-01-01", b"\\ud83d", b"\\u0000", b"\\", b"text", b"label"),
    *(b'"text": 1, ', b'"text": "a", ', b"text,", b"\ntext: a\n", b"!!python/object/apply:os.getcwd []"),
]


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A file with up to four bits turned over, pieces cut out, repeated or put in, or its end missing."""
    content = bytearray(draw(valid))
    for change in draw(st.lists(st.sampled_from(["bit", "cut", "end", "repeat", "insert"]), max_size=4)):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.integers(1, 60)))
        if change == "bit" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del content[at:until]
        elif change == "end":
            del content[at:]
        elif change == "repeat":
            content[at:at] = content[at:until]
        elif change == "insert":
            content[at:at] = draw(st.sampled_from(_PIECES) | st.binary(max_size=6))
    return bytes(content)


@st.composite
def altered(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON value in which up to three parts are replaced by another value, or left out."""
    value = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        value = _altered_once(draw, value)
    return value


def _altered_once(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(values)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    if draw(st.integers(0, 4)) == 0:
        del value[key]
    else:
        value[key] = _altered_once(draw, value[key])
    return value


def damaged_json(valid: Any) -> st.SearchStrategy[bytes]:
    """A JSON file, its values altered or its bytes changed."""
    return altered(valid).map(lambda value: json.dumps(value).encode()) | mutated(
        st.just(json.dumps(valid, indent=2).encode())
    )
