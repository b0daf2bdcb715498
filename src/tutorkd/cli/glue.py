"""``tutorkd glue``: how good encoders are on GLUE, beside the published rows."""

from collections.abc import Sequence

from tutorkd.cli.report import tell_page
from tutorkd.errors import UserError
from tutorkd.glue.arguments import parser


def run(argv: Sequence[str]) -> int:
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    models, flags = list(argv[:count]), list(argv[count:])
    args, soft = parser().read(flags)
    if not models:
        raise UserError("tutorkd glue takes one or more models, paths or Hub names, ahead of its options")
    from tutorkd.glue.command import glue  # which loads what trains

    code = glue(models, flags, args, soft)
    if not args.dry_run and args.unit is None:
        tell_page(args.output_dir)
    return code
