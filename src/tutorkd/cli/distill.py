"""``tutorkd distill``: a teacher into a student, with a tutor."""

from collections.abc import Sequence

from tutorkd.pretraining.distillation import distill, read_distillation


def run(argv: Sequence[str]) -> int:
    distill(read_distillation(argv))
    return 0
