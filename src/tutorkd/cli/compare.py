"""``tutorkd compare``: a matrix of methods, students and seeds at an equal budget."""

import time
from collections.abc import Sequence

from tutorkd.cli.report import tell_page
from tutorkd.comparison.arguments import parser
from tutorkd.errors import UserError


def run(argv: Sequence[str]) -> int:
    recipe, flags = _recipe_and_flags(argv)
    (args,) = parser().read(flags)
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {args.jobs}")
    began = time.perf_counter()
    from tutorkd.comparison.command import compare  # which loads what trains

    code = compare(recipe, flags, args, time.perf_counter() - began)
    if not args.dry_run and args.cell is None:
        tell_page(args.output_dir)
    return code


def _recipe_and_flags(argv: Sequence[str]) -> tuple[str, list[str]]:
    _, loose = parser().parse_known_args(list(argv))
    words = [word for word in loose if not word.startswith("-")]
    if len(words) != len(loose):
        parser().read([flag for flag in argv if flag not in words])  # tells the unknown option
    if len(words) != 1:
        raise UserError(f"tutorkd compare takes one recipe, a path or a name, ahead of its options, not {len(words)}")
    flags = list(argv)
    flags.remove(words[0])
    return words[0], flags
