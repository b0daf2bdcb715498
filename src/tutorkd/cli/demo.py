"""``tutorkd demo``: all of it, on data that come with two packages."""

from collections.abc import Sequence

from tutorkd.cli.demo_arguments import parser
from tutorkd.cli.report import tell_page


def run(argv: Sequence[str]) -> int:
    (args,) = parser().read(argv)
    from tutorkd.cli.encoder_demo import demo  # which loads what trains

    demo(args)
    tell_page(args.output_dir, "All of it on one page:")
    return 0
