"""``tutorkd evaluate``: how good, how small and how fast models are."""

from collections.abc import Sequence

from tutorkd.evaluation.arguments import parser


def run(argv: Sequence[str]) -> int:
    options = parser().read(argv)
    from tutorkd.evaluation.command import evaluate  # which loads what trains

    evaluate(*options)
    return 0
