"""``tutorkd COMMAND``: finds the command, and tells a user's mistake in one line."""

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from tutorkd import __version__
from tutorkd.errors import Interrupted, UnknownKey, UserError

COMMANDS = {
    "adapt": "train an encoder's MLM head and body on your text, which makes it a teacher",
    "distill": "distil a teacher into a small student with Tutor-KD",
    "evaluate": "compare encoders on labelled text, embeddings on pairs, causal models on text: quality, size, speed",
    "glue": "fine-tune encoders on GLUE's tasks: official metrics over seeds, beside the published rows",
    "distill-task": "a fine-tuned classifier into a small one: student, int8 file and a table",
    "predict": "a classifier's answers to a file of texts",
    "export": "a checkpoint as ONNX files for devices, float32 and int8, checked against PyTorch",
    "compare": "methods or ablations x students x seeds at an equal budget: table and plots",
    "report": "one HTML page about what a command left in its folder: settings, curves, tables",
    "inspect": "what the tutor of a run does to sentences, checkpoint by checkpoint: a page, in a file or served here",
    "demo": "all of it, on data that come with two packages, in at most 15 minutes on two cores",
    "env": "versions and machine, for a report",
}

USAGE = "\n".join(
    [
        "usage: tutorkd COMMAND [options]      (tutorkd COMMAND --help lists its options)",
        "",
        *(f"  {name:<12} {sentence}" for name, sentence in COMMANDS.items()),
        "",
        "A small language encoder out of a large one: pre-training distillation with a tutor network (Tutor-KD).",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a user's mistake, 130 or 143 after Ctrl-C or SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"tutorkd {__version__}")
        return 0
    command, *rest = argv
    # Tokenizing is spread over processes; threads within them can deadlock after a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What of the libraries' notices matters, we say ourselves.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):  # the first of which transformers loads wherever it is installed
        logging.getLogger(name).setLevel(logging.ERROR)
    first = os.environ.get("RANK", "0") == "0"  # of several processes this one speaks, and each tells its mistakes
    if not first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        with _terminable():
            return _run(command, rest)
    except UnknownKey as error:
        from tutorkd.cli.belonging import told  # which reads the options of all commands

        print(f"tutorkd: error: {told(error, command)}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"tutorkd: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if first:
            print(f"tutorkd: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt as stop:
        if first:
            print("tutorkd: stopped", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _run(command: str, argv: Sequence[str]) -> int:
    if command not in COMMANDS:
        raise UserError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
    try:
        return import_module(f"tutorkd.cli.{command.replace('-', '_')}").run(argv)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError(f"a name is longer than the system allows: {str(error.filename)[:60]}...") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Within, SIGTERM ends the command as Ctrl-C does, so that locks and half-written files are tidied up."""
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return

    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a worker that was forked here is ended by it at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
