"""``tutorkd distill``: a teacher into a student, with a tutor."""

from collections.abc import Sequence

from tutorkd.pretraining.distill_arguments import read_distillation


def run(argv: Sequence[str]) -> int:
    options = read_distillation(argv)
    from tutorkd.pretraining.distillation import distill  # which takes seconds, behind what help and mistakes need

    distill(options)
    return 0
