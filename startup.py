"""What every script imports before anything else: it takes effect on import and costs about a millisecond.

Ctrl-C while the other imports run ends a script with one line and exit code 130. A standard stream that is closed
(`>&-`, `2>&-`) becomes /dev/null: else the next file that is opened would take its number, and its place.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FOLDER = os.path.dirname(os.path.realpath(__file__))


def open_closed_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def is_our_script() -> bool:
    """Whether this process runs a script of this folder, and not a test or a worker that imports one."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return path is not None and os.path.dirname(os.path.realpath(path)) == FOLDER


def quit_quietly(*_: object) -> None:
    """End at once: outside `interruptible` there is nothing to finish."""
    os.write(2, b"interrupted\n")
    os._exit(130)


@contextmanager
def interruptible() -> Iterator[None]:
    """In this block, the work of a script, Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is not quit_quietly:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, quit_quietly)


open_closed_streams()
if is_our_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored under nohup
    signal.signal(signal.SIGINT, quit_quietly)
