"""What can happen to the process of a run: it is asked to stop, or it hangs."""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar


Item = TypeVar("Item")

SIGNALS = signal.SIGINT, signal.SIGTERM
# Seconds by which the second watch is behind the first.
_LATER = 60.0


class Stopped(Exception):
    """What was going on is given up, for the run was asked to stop."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields what tells whether Ctrl-C or SIGTERM came.

    The second one does what it does elsewhere: it ends the process, or raises. Signals
    reach the main thread alone; in another, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def hear(number, _frame):
        heard.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)
        _say("stopping as soon as all is saved; once more stops at once")

    for number in SIGNALS:
        signal.signal(number, hear)
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until(asked: Callable[[], bool], items: Iterable[Item]) -> Iterator[Item]:
    """The items, for as long as nobody asks to stop.

    Raises:
        Stopped: somebody did.
    """
    for item in items:
        if asked():
            raise Stopped
        yield item


@contextmanager
def hang_watch(seconds: float | None, path: Path) -> Iterator[Callable[[], None]]:
    """Yields what is to be called again and again: if it is not for so long, the stacks
    of all threads are written to a file, and the process ends with status 1.

    Args:
        seconds: above 0; `None` to watch nothing.
        path: of the file.
    """
    if seconds is None:
        yield lambda: None
        return
    last, over = time.monotonic(), threading.Event()

    def alive() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        while True:
            # A device that hangs leaves Python's lock to others. Where even that is
            # held, a thread that needs none does the same, later; it may crash at it.
            faulthandler.dump_traceback_later(seconds + _LATER, file=2, exit=True)
            if over.wait(max(0.0, last + seconds - time.monotonic())):
                return
            if time.monotonic() - last >= seconds:
                with path.open("w", encoding="utf-8") as file:
                    faulthandler.dump_traceback(file)
                _say(f"error: no step within {seconds:g} s; the stacks are in {path}")
                os._exit(1)

    thread = threading.Thread(target=watch, name="hang watch", daemon=True)
    thread.start()
    try:
        yield alive
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def _say(line: str) -> None:
    # What is interrupted may be a `print`, inside which there is no other.
    os.write(2, f"\n{line}\n".encode())
