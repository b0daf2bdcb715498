"""Pieces of work in processes that don't outlive the one which they work for."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread

_work: Callable[[int], None]


def in_order(work: Callable[[int], None], numbers: range, processes: int) -> Iterator[int]:
    """Do a piece of work for each number, and yield the numbers in their order, each as soon as its piece is done.

    Args:
        work: is called with a number, in one of the processes.
        processes: how many work at once; with one, it is this process.

    Raises:
        BrokenProcessPool: one of the processes was killed.
        Exception: what the piece with the lowest number raised; the others end at once.
    """
    if processes < 2:
        for number in numbers:
            work(number)
            yield number
        return
    ours, theirs = Pipe(duplex=False)
    with ours, theirs, ProcessPoolExecutor(processes, initializer=_begin, initargs=(work, ours, theirs)) as pool:
        try:
            for number, _ in zip(numbers, pool.map(_do, numbers), strict=True):
                yield number
        except BaseException:
            theirs.close()  # as happens when this process is killed
            raise


def _begin(work: Callable[[int], None], reader: Connection, writer: Connection) -> None:
    global _work
    _work = work
    writer.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; it is for the first to end the others
    Thread(target=_leave_with, args=(reader,), daemon=True).start()


def _leave_with(reader: Connection) -> None:
    """End this process, in the midst of its work, once nobody is left who could write to it."""
    reader.poll(None)
    os._exit(1)


def _do(number: int) -> None:
    _work(number)
