"""``tutorkd evaluate``: how good, how small and how fast models are."""

from collections.abc import Sequence

from tutorkd.cli.report import tell_page
from tutorkd.evaluation.arguments import parser


def run(argv: Sequence[str]) -> int:
    options = parser().read(argv)
    from tutorkd.evaluation.command import evaluate  # which loads what trains

    evaluate(*options)
    if not options[0].dry_run:
        tell_page(options[0].output_dir)
    return 0
