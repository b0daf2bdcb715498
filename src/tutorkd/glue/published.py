"""The rows that Kim et al. (EMNLP 2022, doi 10.18653/v1/2022.emnlp-main.498) print, GLUE development sets.

CoLA: Matthews; STS-B: Spearman; MRPC: F1; the others: accuracy. Percent, fine-tuned on the full training sets.
"""

from dataclasses import dataclass

SOURCE = "Kim et al., EMNLP 2022"
TITLE = "one figure a task: CoLA Matthews, STS-B Spearman, MRPC F1, the others accuracy, MNLI on the matched set"
COLUMNS = ["mnli", "qnli", "qqp", "sst2", "cola", "stsb", "mrpc", "rte"]


@dataclass(frozen=True)
class PublishedRow:
    """A model's scores in percent by task, and their average as printed, up to a point from their mean."""

    model: str
    layers: int
    hidden_size: int
    scores: dict[str, float]
    average: float


def _rows(columns: list[str], table: list[tuple]) -> list[PublishedRow]:
    return [
        PublishedRow(model, layers, hidden, dict(zip(columns, scores, strict=True)), average)
        for model, layers, hidden, *scores, average in table
    ]


TEACHER, *_SMALL = _rows(
    COLUMNS,
    [
        ("BERT-base (teacher)", 12, 768, 83.9, 90.6, 91.2, 92.8, 59.9, 86.3, 88.7, 65.4, 82.2),
        ("BERT-small", 6, 768, 81.8, 89.2, 90.6, 91.3, 52.5, 84.5, 87.3, 66.7, 80.5),
        ("DistilBERT", 6, 768, 82.1, 89.4, 90.5, 90.7, 43.6, 84.8, 87.8, 59.9, 78.6),
        ("TinyBERT", 6, 768, 82.4, 90.0, 90.4, 91.7, 45.9, 85.1, 87.8, 64.9, 79.7),
        ("MiniLM", 6, 768, 83.2, 90.1, 90.7, 91.8, 54.1, 85.5, 88.3, 66.2, 81.2),
        ("MiniLM v2", 6, 768, 83.6, 90.4, 90.8, 92.0, 52.1, 85.2, 88.5, 67.3, 81.2),
        ("Tutor-KD", 6, 768, 83.6, 90.4, 91.0, 92.2, 61.0, 86.4, 88.7, 68.9, 82.7),
    ],
)
_EXTREME = _rows(
    ["cola", "mrpc", "rte", "sst2", "qqp", "qnli", "mnli"],
    [
        ("KD", 12, 264, 52.2, 86.8, 59.0, 90.9, 89.4, 86.8, 79.3, 77.8),
        ("MiniLM", 12, 264, 45.8, 87.8, 64.3, 90.6, 90.1, 89.7, 81.6, 78.5),
        ("MiniLM v2", 12, 264, 48.7, 88.0, 65.7, 90.9, 90.0, 89.7, 82.2, 79.0),
        ("Tutor-KD", 12, 264, 54.3, 88.0, 68.3, 91.3, 90.0, 88.6, 82.3, 80.3),
        ("KD", 6, 264, 40.5, 85.5, 60.0, 89.0, 89.0, 85.2, 78.3, 75.4),
        ("MiniLM", 6, 264, 33.8, 85.9, 63.9, 89.2, 89.2, 87.9, 79.5, 75.6),
        ("MiniLM v2", 6, 264, 35.3, 87.1, 65.7, 88.2, 88.9, 87.9, 79.8, 76.1),
        ("Tutor-KD", 6, 264, 44.5, 87.4, 68.9, 89.3, 89.2, 88.4, 79.9, 78.7),
        ("KD", 2, 264, 12.2, 75.0, 58.0, 86.1, 86.1, 81.3, 70.7, 67.8),
        ("MiniLM", 2, 264, 17.4, 75.5, 58.2, 84.6, 85.4, 78.9, 70.1, 68.0),
        ("MiniLM v2", 2, 264, 13.2, 81.1, 58.2, 85.4, 86.0, 82.1, 71.1, 69.2),
        ("Tutor-KD", 2, 264, 22.0, 82.5, 62.0, 87.0, 86.5, 82.5, 70.9, 70.5),
    ],
)


def same_size(layers: int | None, hidden_size: int | None) -> list[PublishedRow]:
    """Published models of as many layers and hidden units; there may be none."""
    return [row for row in (TEACHER, *_SMALL, *_EXTREME) if (row.layers, row.hidden_size) == (layers, hidden_size)]
