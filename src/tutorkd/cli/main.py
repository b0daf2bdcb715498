"""``tutorkd COMMAND``: finds the command, and tells a user's mistake in one line."""

import errno
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from tutorkd import __version__
from tutorkd.errors import Interrupted, UnknownKey, UserError, nearest

COMMANDS = {
    "trim": "take the tokens out of a model that your text doesn't use, without training",
    "adapt": "train a model on your text, so that it can be a teacher",
    "distill": "distil a teacher into a small student, with Tutor-KD or another method",
    "evaluate": "compare encoders on labelled text, embeddings on pairs, causal models on text: quality, size, speed",
    "glue": "fine-tune encoders on GLUE's tasks with several seeds, and show the paper's scores beside them",
    "distill-task": "turn a fine-tuned classifier into a small one, and export it in int8",
    "predict": "write a classifier's labels and probabilities for a file of texts",
    "export": "write a checkpoint as ONNX files for devices, float32 and int8, and check them against PyTorch",
    "compare": "compare methods or ablations over students and seeds at an equal budget: table and plots",
    "report": "write one HTML page about the results in a command's folder: settings, curves, tables",
    "inspect": "show what the tutor of a run does to sentences, in your browser or in a file",
    "demo": "run adapt, distill and evaluate on data that come with two packages, in about 15 minutes on two cores",
    "env": "print versions and machine, for a bug report",
}

USAGE = "\n".join(
    [
        "usage: tutorkd COMMAND [options]      (tutorkd COMMAND --help lists its options)",
        "",
        *(f"  {name:<12} {sentence}" for name, sentence in COMMANDS.items()),
        "",
        "Makes a small language model out of a large one: encoders, decoders and embedding models.",
    ]
)

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a user's mistake, 130 or 143 after Ctrl-C or SIGTERM, 141 if
    whoever read the output has gone, as ``head`` does.
    """
    try:
        try:
            return _main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _unread(stream)]
        if not gone:  # it was another pipe
            raise
        return 128 + signal.SIGPIPE


def _unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads; then what is still to be written to it, also at the end of Python,
    is dropped.
    """
    try:
        descriptor = stream.fileno()
    except OSError:  # it isn't a file, as in a notebook
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def _main(argv: Sequence[str] | None) -> int:
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
    if isinstance(sys.stdout, io.TextIOWrapper):  # where neither ± nor any name is a reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
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
    except (Interrupted, KeyboardInterrupt) as stop:
        stopped = Interrupted.by(stop, "stopped") if isinstance(stop, KeyboardInterrupt) else stop
        if first:
            print(f"tutorkd: {stopped}", file=sys.stderr)
        return 128 + stopped.signal_number


def _run(command: str, argv: Sequence[str]) -> int:
    if command not in COMMANDS:
        there_are = f"there are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {command!r}{nearest(command, COMMANDS, then=there_are)}")
    try:
        return import_module(f"tutorkd.cli.{command.replace('-', '_')}").run(argv)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"a name is longer than the system allows: {str(error.filename)[:60]}...") from error
        if error.errno not in _REFUSALS or error.filename is None:
            raise
        raise UserError(f"{error.filename} can't be opened: {error.strerror}") from error


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
