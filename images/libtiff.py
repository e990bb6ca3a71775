"""libtiff's messages: it prints them on stderr by itself, and Pillow offers no way to stop it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Discard what libtiff prints about a file; damage that costs the image is an error of Pillow's.

    The process's stderr is replaced meanwhile. Threads beside the main one leave it alone: they would do so at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
