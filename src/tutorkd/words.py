"""How durations and errors are put into words."""


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    seconds = round(seconds)
    for unit, size, below, divisor in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // divisor} {below}"
    return f"{seconds} s"


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
