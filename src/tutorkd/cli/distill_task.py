"""``tutorkd distill-task``: a fine-tuned classifier into a small one that is ready for a device."""

from collections.abc import Sequence
from importlib.util import find_spec

from tutorkd.cli.report import tell_page
from tutorkd.errors import UserError
from tutorkd.evaluation.task_arguments import parser
from tutorkd.options.recipes import FIRST_STAGE_SECTION


def run(argv: Sequence[str]) -> int:
    options = parser()
    args, weights = options.read(argv)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"the student is exported, which needs {', '.join(missing)}: pip install 'tutorkd[export]'")
    from tutorkd.evaluation.task_command import distill_task  # which loads what trains

    distill_task(args, weights, options.told_sections.get(FIRST_STAGE_SECTION))
    if not args.dry_run:
        tell_page(args.output_dir)
    return 0
