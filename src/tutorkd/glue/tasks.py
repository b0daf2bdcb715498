"""The tasks of GLUE (Wang et al., 2019): names, columns, classes and metrics as the Hub's ``nyu-mll/glue`` has them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tutorkd.evaluation.problem import Problem

HUB_NAME = "nyu-mll/glue"
_LARGE = 50_000  # training rows
_OFFICIAL_ROWS = {
    "cola": (8_551, 1_043),
    "sst2": (67_349, 872),
    "mrpc": (3_668, 408),
    "stsb": (5_749, 1_500),
    "qqp": (363_846, 40_430),
    "mnli": (392_702, 9_815, 9_832),
    "qnli": (104_743, 5_463),
    "rte": (2_490, 277),
    "wnli": (635, 71),
}


class Figure(NamedTuple):
    """A metric on one of a task's validation splits."""

    metric: str
    split: str = "validation"

    @property
    def name(self) -> str:
        """``accuracy``; ``accuracy_matched`` where a task has several splits."""
        return self.metric + self.split.removeprefix("validation")


class Submission(NamedTuple):
    """A file that the leaderboard wants, and the rows without labels that it is about."""

    config: str
    split: str
    file: str


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the Hub's configuration, and the folder of local data.
        title: as papers write it.
        columns: of the text, one or two.
        classes: in the Hub's order of codes; one name alone is a regression's.
        figures: the official ones; the first is the one that the Tutor-KD paper gives, and that chooses the setting.
        submissions: to the leaderboard.
        max_length: in tokens, from which rows are cut.
        words: whether the leaderboard wants class names rather than codes.
        on_request: whether it is left out unless it is asked for.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    figures: tuple[Figure, ...]
    submissions: tuple[Submission, ...]
    max_length: int = 128
    words: bool = False
    on_request: bool = False

    @property
    def regression(self) -> bool:
        return len(self.classes) == 1

    @property
    def problem(self) -> "Problem":
        return "regression" if self.regression else "single_label_classification"

    @property
    def selected(self) -> Figure:
        return self.figures[0]

    @property
    def validation_splits(self) -> list[str]:
        return list(dict.fromkeys(figure.split for figure in self.figures))

    @property
    def official_rows(self) -> dict[str, int]:
        """How many rows the splits with labels have that the Hub gives."""
        return dict(zip(("train", *self.validation_splits), _OFFICIAL_ROWS[self.name], strict=True))

    @property
    def large(self) -> bool:
        """Whether a seed costs hours, and moves a figure little."""
        return self.official_rows["train"] > _LARGE


_ACCURACY, _F1 = Figure("accuracy"), Figure("f1")
_MATCHED, _MISMATCHED = (Figure("accuracy", f"validation_{kind}") for kind in ("matched", "mismatched"))
_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")


def _task(name: str, title: str, columns: tuple[str, ...], classes: tuple[str, ...], *figures: Figure, **more) -> Task:
    return Task(
        name, title, columns, classes, figures, **{"submissions": (Submission(name, "test", f"{title}.tsv"),), **more}
    )


_TABLE = [
    _task("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), Figure("matthews"), max_length=64),
    _task("sst2", "SST-2", ("sentence",), ("negative", "positive"), _ACCURACY),
    _task("mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), _F1, _ACCURACY),
    _task("stsb", "STS-B", _PAIR, ("similarity",), Figure("spearman"), Figure("pearson")),
    _task("qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), _ACCURACY, _F1),
    _task(
        *("mnli", "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), _MATCHED, _MISMATCHED),
        submissions=(
            Submission("mnli", "test_matched", "MNLI-m.tsv"),
            Submission("mnli", "test_mismatched", "MNLI-mm.tsv"),
            Submission("ax", "test", "AX.tsv"),  # the diagnostic set, answered by MNLI's classifier
        ),
        words=True,
    ),
    _task("qnli", "QNLI", ("question", "sentence"), _ENTAILED, _ACCURACY, max_length=256, words=True),
    _task("rte", "RTE", _PAIR, _ENTAILED, _ACCURACY, max_length=256, words=True),
    _task("wnli", "WNLI", _PAIR, ("not_entailment", "entailment"), _ACCURACY, on_request=True),
]
TASKS = {task.name: task for task in _TABLE}
USUAL = [task.name for task in _TABLE if not task.on_request]
LARGE = [task.name for task in _TABLE if task.large]
