"""What is said of exported files."""

from collections.abc import Sequence

from tutorkd.evaluation.metrics import TITLES
from tutorkd.export.check import Checked
from tutorkd.export.source import Source
from tutorkd.tables import aligned


def nearness(source: Source) -> str:
    """What ``Checked.agreement`` is."""
    if source.classified == "multi_label_classification":
        return "the share of answers, a yes or no for each class of a row, that are the same as PyTorch's"
    if source.classified:
        return "the share of answers that are the same as PyTorch's"
    if source.head:
        return "the cosine between the scores of all rows and PyTorch's"
    if source.sentence_encoder:
        return "the mean cosine between a row's vector and that of sentence-transformers"
    return "the mean cosine between a token's hidden states and PyTorch's"


def table(results: Sequence[Checked]) -> str:
    """As Markdown: each file's size, speed and nearness to PyTorch's answers; the first row is PyTorch."""
    agreement = ["same answer %"] if results[0].lowest is None else ["cosine", "lowest cosine"]
    headings = ["file", "size", "ms a row", "speed", "largest difference", *agreement]
    headings += [f"{TITLES[name]} %" for name in results[0].scores or ()]
    lines = []
    for result in results:
        line = [result.name, f"{result.bytes / 1e6:.1f} MB", f"{result.milliseconds:.2f}"]
        line.append(f"{results[0].milliseconds / result.milliseconds:.1f} x")
        if result is results[0]:
            line += ["-"] * (1 + len(agreement))
        else:
            line.append(f"{result.difference:.1e}")
            line += (
                [f"{100 * result.agreement:.1f}"]
                if result.lowest is None
                else [f"{result.agreement:.4f}", f"{result.lowest:.4f}"]
            )
        line += [f"{100 * score:.1f}" for score in (result.scores or {}).values()]
        lines.append(line)
    return aligned(headings, lines, words=1)


def notes(rows: str, threads: int, source: Source) -> str:
    """How to read the table, in Markdown."""
    text = (
        f"Compared with PyTorch in float32 on {rows}, in padded batches: the largest difference of an output, divided "
        f"by the root mean square of PyTorch's outputs, and {nearness(source)}. Time: median of one row at a time, "
        f"from token ids to the output, threads: {threads}."
    )
    if source.left_out:
        text += f"\n\nOnly the body was exported, without the head of {source.left_out}."
    return text
