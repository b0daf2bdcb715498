"""What ``tutorkd inspect`` is told."""

from dataclasses import dataclass, field

from tutorkd.errors import UserError
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Shows on one page what the tutor of a Tutor-KD run does to sentences, checkpoint by checkpoint: its candidates "
    "beside the teacher's probabilities, the ratio, the student's answer, both rewards. The page is served to this "
    "machine only, and you can type your own sentences there. --output writes it to a file instead, which needs "
    "neither a server nor a network."
)
_RANGES = {"port": (0, 65535), "sentences": (1, 2000), "candidates": (1, 50), "seed": (0, 2**32 - 1)}


@dataclass
class InspectArguments:
    """Which run is looked at, on which sentences, and where the page goes."""

    run: str = field(default="", metadata={"help": "Folder of a run of tutorkd distill --method tutor-kd (a path)."})
    text: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text whose sentences are shown (one or more): local files or a Hub data set, as for --corpus of "
            "distill; by default the text that the run held out."
        },
    )
    text_column: str = field(default="text", metadata={"help": "Column of --text that holds the text (a name)."})
    sentences: int = field(default=100, metadata={"help": "Number of sentences, spread evenly over the text."})
    candidates: int = field(default=8, metadata={"help": "Number of the tutor's likeliest tokens to show."})
    seed: int = field(default=0, metadata={"help": "Seed of masks and of the tutor's draws, an integer."})
    output: str | None = field(default=None, metadata={"help": "File for the page (a path); by default it is served."})
    port: int = field(default=0, metadata={"help": "Port of 127.0.0.1 to serve the page on; 0: any that is free."})
    teacher: str | None = field(
        default=None, metadata={"help": "Where the run's teacher is now, if it has moved (a path or Hub name)."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code that comes with the teacher (true or false)."}
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} can't be {getattr(self, name)}: the least is {least}, the most {most}")
        if self.output is not None and self.port:
            raise UserError("--port is for the page that is served, and --output writes it: give one of them")


def parser() -> OptionParser:
    """Options of ``tutorkd inspect``."""
    return OptionParser("inspect", DESCRIPTION, [InspectArguments], {}, takes_recipe=False)
