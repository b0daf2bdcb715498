"""``tutorkd inspect``: what a run's tutor does to sentences, on a page."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tutorkd.errors import UserError
from tutorkd.files import write_text
from tutorkd.inspection.arguments import parser


def run(argv: Sequence[str]) -> int:
    named = bool(argv) and not argv[0].startswith("-")
    (args,) = parser().read(["--run", *argv] if named else argv)
    if not args.run:
        raise UserError("name the run to inspect: --run FOLDER, the --output_dir of tutorkd distill --method tutor-kd")
    missing = [name for name in ("altair", "vl_convert", "jinja2", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"inspecting needs {', '.join(missing)}: pip install 'tutorkd[inspect]'")
    from tutorkd.inspection.inspecting import inspect_run  # its dependencies are an extra
    from tutorkd.inspection.server import HOST, application, listen, serve

    if args.output is not None:
        found = inspect_run(args)
        write_text(Path(args.output), found.page)
        print(f"written to {args.output}: {found.told}")
        return 0
    with listen(args.port) as listener:  # before the sentences are looked at, which takes a while
        found = inspect_run(args)
        print(f"shows    {found.told}")
        print(
            f"page     http://{HOST}:{listener.getsockname()[1]}/ (only for this machine; Ctrl-C ends it)", flush=True
        )
        try:
            serve(application(found.page, found.look), listener)
        except KeyboardInterrupt:
            print("ended    the page is no longer served; --output FILE.html writes one to keep")
    return 0
