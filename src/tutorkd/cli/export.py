"""``tutorkd export``: a checkpoint as files that run on a device."""

from collections.abc import Sequence
from importlib.util import find_spec

from tutorkd.cli.report import tell_page
from tutorkd.errors import UserError
from tutorkd.export.arguments import parser


def run(argv: Sequence[str]) -> int:
    (args,) = parser().read(argv)
    if not args.model:
        raise UserError("give the checkpoint to export: --model PATH_OR_NAME")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"exporting needs {', '.join(missing)}: pip install 'tutorkd[export]'")
    from tutorkd.export.exporter import export  # its dependencies are an extra

    print(export(args))
    print(f"written to {args.output_dir}: onnx/model.onnx, onnx/model_quantized.onnx")
    tell_page(args.output_dir)
    return 0
