"""``tutorkd demo``: all of it, on data that come with two packages."""

from collections.abc import Sequence

from tutorkd.cli.demo_arguments import parser


def run(argv: Sequence[str]) -> int:
    (args,) = parser().read(argv)
    from tutorkd.cli.encoder_demo import demo  # which loads what trains

    demo(args)
    return 0
