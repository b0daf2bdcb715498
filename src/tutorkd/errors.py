"""What ends a command early, and what its message suggests."""

import difflib
import re
import signal
from collections.abc import Iterable, Mapping
from typing import Any

_NOT_FOR_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake of the user's, told in one line: what is wrong, where, and what to do.

    The command line prints the message alone and exits with code 2. Line ends and control characters, which names
    that come out of a file may hold, are escaped.
    """

    def __init__(self, message: str):
        # torch hands on what a data loader's worker raised with the traceback in front of the message
        message = message.rstrip().rpartition(f"{__name__}.UserError: ")[2]
        super().__init__(_NOT_FOR_A_LINE.sub(lambda found: ascii(found[0])[1:-1], message))


class UnknownKey(UserError):
    """A recipe has a key that its command doesn't know, though another command may.

    Attributes:
        name: of the recipe, as the user gave it.
        recipe: its content.
    """

    def __init__(self, message: str, name: str, recipe: Mapping[str, Any]):
        super().__init__(message)
        self.name, self.recipe = name, recipe


class Interrupted(Exception):
    """A run was stopped by a signal, and what it had done is kept; the command exits with 128 + ``signal_number``."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number

    @classmethod
    def by(cls, stop: KeyboardInterrupt, message: str) -> "Interrupted":
        """What a signal stopped, in words, where Ctrl-C or SIGTERM raised ``stop``."""
        return cls(message, stop.args[0] if stop.args else signal.SIGINT)


def nearest(word: str, words: Iterable[str], then: str = "") -> str:
    """ "; did you mean ...?", or nothing where no word is near.

    Args:
        then: what is said behind it, or in its place: a sentence of its own behind the question.
    """
    near = closest(word, words)
    if near is None:
        return f"; {then}" if then else ""
    return f"; did you mean {near}?" + (f" {then[0].upper()}{then[1:]}" if then else "")


def closest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The word of ``words`` that ``nearest`` would name.

    Args:
        cutoff: likeness from which on a word is near, from 0, whatever it is, to 1, the same.
    """
    return next(iter(difflib.get_close_matches(word, list(words), 1, cutoff)), None)


def kind_of(value: object) -> str:
    """Return what to call something that was given in the place of something else: "a list", "None"."""
    return "None" if value is None else f"a {type(value).__name__}"
