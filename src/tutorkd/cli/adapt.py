"""``tutorkd adapt``: an encoder into a teacher, by masked-language-model training on the user's text."""

from collections.abc import Sequence

from tutorkd.cli.report import tell_page
from tutorkd.pretraining.adapt_arguments import read_adaptation


def run(argv: Sequence[str]) -> int:
    options = read_adaptation(argv)
    from tutorkd.pretraining.adaptation import adapt  # which takes seconds, behind what help and mistakes need

    folder = adapt(options)
    if not options.args.dry_run:
        tell_page(folder, "report  ")
    return 0
