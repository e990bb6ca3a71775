"""Many image files decoded into one file of rows, by one process per core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from images.decoding import try_decode
from images.listing import File
from images.memory import memory_for_decoding
from utils import UserError, n_cores, printable

T = TypeVar("T")
TASK_SIZE = 64  # files that a process decodes at a time
FEW_FILES, FEW_BYTES = 1000, 20e6  # below both, one process is done before others have started


def decode_files(
    root: Path, files: Sequence[File], img_size: int, out: Path, crop: bool = False
) -> list[tuple[int, str]]:
    """Decode every file into its row of `out`, row after row of img_size x img_size x 3 bytes.

    Processes share the memory that there is for decoding. What they cannot read is tried again afterwards, alone.

    Returns:
        Position and reason of the files that cannot be read, sorted. Their rows are zero.

    Raises:
        UserError: a process was killed from outside.
    """
    with open(out, "wb") as f:
        f.truncate(len(files) * img_size * img_size * 3)
    starts = range(0, len(files), TASK_SIZE)
    memory = memory_for_decoding()
    tasks = [(start, root, files[start : start + TASK_SIZE], img_size, out, crop) for start in starts]
    unreadable: list[tuple[int, str]] = []
    with tqdm(total=len(files), desc=f"reading {printable(root.name)}", unit="image", disable=None) as bar:
        if len(files) < FEW_FILES and sum(f.size for f in files) < FEW_BYTES:
            for task in tasks:
                unreadable += _decode_rows(*task, memory)
                bar.update(len(task[2]))
            return unreadable
        try:
            with workers() as executor:
                futures = {executor.submit(_decode_rows, *task, memory // n_cores()): len(task[2]) for task in tasks}
                for future in as_completed(futures):
                    unreadable += future.result()
                    bar.update(futures[future])
        except BrokenProcessPool as e:
            raise UserError(f"a process that read images of {root} was killed; is the memory full? Start again") from e
    again = (_decode_rows(i, root, [files[i]], img_size, out, crop, memory) for i, _ in sorted(unreadable))
    return [bad for result in again for bad in result]


def _decode_rows(
    start: int, root: Path, files: Sequence[File], img_size: int, out: Path, crop: bool, memory: int
) -> list[tuple[int, str]]:
    """Decode some files into rows start, start + 1, ... of `out`. Returns the unreadable ones, with the reason."""
    rows = np.zeros((len(files), img_size, img_size, 3), np.uint8)
    unreadable = []
    for i, file in enumerate(files):
        image = try_decode(root / file.path, img_size, memory, crop)
        if isinstance(image, str):
            unreadable.append((start + i, image))
        else:
            rows[i] = image
    with open(out, "r+b") as f:
        f.seek(start * rows[0].nbytes)
        f.write(rows.tobytes())
    return unreadable


class _Processes(ProcessPoolExecutor):
    """Processes that are forked with the first task."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a task over; Ctrl-C meanwhile counts afterwards."""
        with _interrupt_after():
            return super().submit(*args, **kwargs)


@contextmanager
def workers() -> Iterator[Executor]:
    """One forked process per core; threads where forking is missing or unsafe.

    Forked processes start at once. They run nothing but Pillow and numpy's copies, which need no thread of the parent.
    """
    executor: Executor
    with warnings.catch_warnings():
        if sys.platform == "linux" and hasattr(os, "fork"):
            warnings.filterwarnings("ignore", "This process.*is multi-threaded, use of fork", DeprecationWarning)
            executor = _Processes(n_cores(), multiprocessing.get_context("fork"), initializer=_start_worker)
        else:
            warnings.simplefilter("ignore")  # decode's own filter is not safe among threads
            executor = ThreadPoolExecutor(n_cores())
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def in_order(submit: Callable[[int], Future[T]], starts: Iterable[int], ahead: int) -> Iterator[T]:
    """The results of submit(start) for each of `starts`, in order; so many are on their way ahead of what is used."""
    waiting: deque[Future[T]] = deque()
    for start in starts:
        waiting.append(submit(start))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _interrupt_after() -> Iterator[None]:
    """Delay Ctrl-C to the end of this block, in which a process forks: there, Python would lose the exception."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received and callable(before):
        before(signal.SIGINT, None)


def _start_worker() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def exit_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
