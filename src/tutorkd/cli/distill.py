"""``tutorkd distill``: a teacher into a student, with a tutor."""

from collections.abc import Sequence

from tutorkd.cli.report import tell_page
from tutorkd.pretraining.distill_arguments import read_distillation


def run(argv: Sequence[str]) -> int:
    options = read_distillation(argv)
    from tutorkd.pretraining.distillation import distill  # which takes seconds, behind what help and mistakes need

    folder = distill(options)
    if not options.args.dry_run:
        tell_page(folder, "report  ")
    return 0
