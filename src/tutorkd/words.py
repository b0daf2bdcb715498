"""How durations, figures, errors and lists are put into words."""

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_LISTED, _MOST_CHARACTERS = 8, 40


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    seconds = round(seconds)
    for unit, size, below, divisor in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // divisor} {below}"
    return f"{seconds} s"


def as_figure(value: Any) -> str:
    """A figure of the log: three decimals, or powers of ten where these would say nothing; what is no number, as is."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.1e}"


def listed(words: Sequence[str]) -> str:
    """Words with commas between them, few and short enough to be read: of the others their number."""
    shown = [word if len(word) <= _MOST_CHARACTERS else f"{word[: _MOST_CHARACTERS - 3]}..." for word in words]
    rest = len(words) - _MOST_LISTED
    return ", ".join(shown[:_MOST_LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


def by_error(errors: Mapping[str, str]) -> dict[str, list[str]]:
    """Each error once, with all that it is told of."""
    return {error: [what for what in errors if errors[what] == error] for error in errors.values()}


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
