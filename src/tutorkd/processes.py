"""Work in processes of their own: some at once, none able to take the others with it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm.auto import tqdm

from tutorkd.errors import Interrupted
from tutorkd.files import writing
from tutorkd.runtime import visible_gpus
from tutorkd.words import duration

LOG_FILE = "log.txt"
_POLL = 0.1  # seconds
_LOOK = 1  # seconds between two looks at what the processes say
_TAIL = 4096  # bytes of a log that its last line lies in
_ERROR = "tutorkd: error: "


class Work(Protocol):
    """What a process can be given to do: a cell of a comparison, a model's runs on a task."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...


class Stopped(Interrupted):
    """A signal stopped the processes.

    Attributes:
        failed: of each piece that failed before, by name, why.
    """

    def __init__(self, message: str, signal_number: int, failed: dict[str, str]):
        super().__init__(message, signal_number)
        self.failed = failed


Piece = TypeVar("Piece", bound=Work)


def run_processes(
    pieces: Sequence[Piece],
    command: Callable[[Piece], list[str]],
    jobs: int | None,
    tell: Callable[[Piece], str] = lambda piece: "",
) -> dict[str, str]:
    """Run the command of each piece of work, ``jobs`` at a time, its output in the folder of the piece.

    Each process sees one GPU, where there are any: the one that fewest processes are on.

    Ctrl-C or SIGTERM stops the processes, which save a checkpoint where they train; a second one ends them at once.

    Args:
        jobs: by default one for each GPU, and one where there is none.
        tell: what to say of a piece that has ended, beside its name and time.

    Returns:
        Of each piece that failed, by name, why.

    Raises:
        Stopped: once all processes have stopped after a signal.
    """
    gpus = visible_gpus()
    jobs = jobs or max(len(gpus), 1)
    if pieces and jobs > len(gpus) > 0:
        shared = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}"
        _tell(f"jobs     {jobs} at once on {shared}, which they share: each is slower than alone")
    waiting = list(pieces)
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    gpu_of: dict[str, str] = {}
    failed: dict[str, str] = {}
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        for process, _ in running.values():
            (process.terminate if len(received) == 1 else process.kill)()

    # In a terminal, what each process last said: its progress bar.
    shown = range(jobs) if sys.stderr.isatty() else ()
    lines = [tqdm(total=0, bar_format="{desc}", position=line, leave=False) for line in shown]
    looked = 0.0
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while running or (waiting and not received):
            if waiting and len(running) < jobs and not received:
                piece = waiting.pop(0)
                in_use = [gpu_of[name] for name in running if name in gpu_of]
                if gpus:
                    gpu_of[piece.name] = min(gpus, key=in_use.count)
                running[piece.name] = (_start(piece, command(piece), jobs, gpu_of.get(piece.name)), time.perf_counter())
                _tell(f"started  {piece.name}")
                continue
            time.sleep(_POLL)
            if lines and time.perf_counter() - looked > _LOOK:
                looked = time.perf_counter()
                at_work = [piece for piece in pieces if piece.name in running]
                for line, at in zip_longest(lines, at_work):
                    line.set_description_str(_last_said(at) if at else "")
            for piece in [piece for piece in pieces if piece.name in running]:
                process, started = running[piece.name]
                if process.poll() is None:
                    continue
                del running[piece.name]
                if received:
                    continue
                took = duration(time.perf_counter() - started)
                done = len(pieces) - len(waiting) - len(running)
                if process.returncode:
                    failed[piece.name] = _reason(piece, process.returncode)
                    note = f"failed   {piece.name} after {took}: {failed[piece.name]} ({piece.folder / LOG_FILE})"
                else:
                    note = f"finished {piece.name} in {took}"
                _tell(f"{note}{tell(piece)}; {done} of {len(pieces)}")
    finally:
        for line in lines:
            line.close()
        for process, _ in running.values():
            process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Stopped("stopped; the same command goes on where it was", received[0], failed)
    return failed


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _last_said(piece: Work) -> str:
    """The last line of a log, such as its progress bar, as wide as the terminal."""
    with (piece.folder / LOG_FILE).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
        text = log.read().decode("utf-8", errors="replace")
    said = _lines(text)
    return said[-1][: shutil.get_terminal_size().columns - 1] if said else f"{piece.name}: starting"


def _start(piece: Work, command: list[str], jobs: int, gpu: str | None) -> subprocess.Popen:
    environment = {
        # Processes that each use all cores slow one another down.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
        # A log wants no bar that moves, but where somebody looks on.
        "TQDM_MININTERVAL": "2" if sys.stderr.isatty() else "60",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with writing(piece.folder):
        piece.folder.mkdir(parents=True, exist_ok=True)
        opened = (piece.folder / LOG_FILE).open("wb")
    with opened as log:
        # A session of its own: Ctrl-C comes from us, once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _reason(piece: Work, code: int) -> str:
    """Why a piece failed: our own message, or the last that its log says."""
    if code < 0:
        return f"ended by signal {-code} ({signal.strsignal(-code)})"
    text = (piece.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    lines = _lines(text) or [f"exit code {code}"]
    told = [line for line in lines if line.startswith(_ERROR)]
    return (told or lines)[-1].removeprefix(_ERROR)


def _lines(log: str) -> list[str]:
    """What a log says; a progress bar that moved is a line each time."""
    return [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
