"""``tutorkd trim``: a model with the tokens that a text uses."""

from collections.abc import Sequence

from tutorkd.tables import fitted
from tutorkd.vocabulary.arguments import parser


def run(argv: Sequence[str]) -> int:
    args, text = parser().read(argv)
    from tutorkd.vocabulary.trimming import trim  # which loads models

    print(fitted(trim(args, text)))
    if not args.dry_run:
        print(f"\nwritten to {args.output_dir}")
    return 0
