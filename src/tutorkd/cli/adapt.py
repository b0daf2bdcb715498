"""``tutorkd adapt``: an encoder into a teacher, by masked-language-model training on the user's text."""

from collections.abc import Sequence

from tutorkd.pretraining.adaptation import adapt, read_adaptation


def run(argv: Sequence[str]) -> int:
    adapt(read_adaptation(argv))
    return 0
