"""Image files decoded batch by batch, in order, on all cores: for folders that do not fit into the memory."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from images.decoding import try_decode
from images.listing import File
from images.memory import memory_for_decoding
from images.workers import in_order, workers
from utils import UserError, n_cores

TASK_FILES, TASK_BYTES = 64, 2**24  # that a process decodes at a time; the smaller of the two
BATCH_FILES, BATCH_BYTES = 1024, 2**26  # of what is given out at a time; likewise


class Batch(NamedTuple):
    """Some consecutive files.

    Attributes:
        start, stop: their positions.
        pixels: of the readable ones. Shape (R, S, S, 3).
        unreadable: the reason by position.
    """

    start: int
    stop: int
    pixels: NDArray[np.uint8]
    unreadable: dict[int, str]


def decoded_batches(root: Path, files: Sequence[File], img_size: int, crop: bool = False) -> Generator[Batch]:
    """All files, decoded to squares as `images.decoding.decode` does it.

    Processes share the memory that there is for decoding. What they cannot read is tried again with all of it.

    Raises:
        UserError: a process was killed from outside.
    """
    memory = memory_for_decoding()
    for batch in _decoded_by_processes(root, files, img_size, crop, memory // n_cores()):
        readable = [i for i in range(batch.start, batch.stop) if i not in batch.unreadable]
        rows = dict(zip(readable, batch.pixels, strict=True))
        unreadable = {}
        for i in batch.unreadable:
            image = try_decode(root / files[i].path, img_size, memory, crop)
            if isinstance(image, str):
                unreadable[i] = image
            else:
                rows[i] = image
        pixels = np.stack([rows[i] for i in sorted(rows)]) if len(rows) > len(readable) else batch.pixels
        yield Batch(batch.start, batch.stop, pixels, unreadable)


def _decoded_by_processes(root: Path, files: Sequence[File], img_size: int, crop: bool, memory: int) -> Iterator[Batch]:
    """Batches of a few tasks each; tasks are done a few ahead of what is used."""
    n_bytes = 3 * img_size**2
    step = max(1, min(TASK_FILES, TASK_BYTES // n_bytes))
    n_joined = max(1, min(BATCH_FILES, BATCH_BYTES // n_bytes) // step)
    starts = range(0, len(files), step)
    if len(starts) <= 1:
        yield from (_decode(root, files, start, img_size, crop, memory) for start in starts)
        return
    try:
        with workers() as executor:

            def submit(start: int) -> Future[Batch]:
                return executor.submit(_decode, root, files[start : start + step], start, img_size, crop, memory)

            parts = in_order(submit, starts, n_joined + 2 * n_cores())
            while joined := list(itertools.islice(parts, n_joined)):
                yield _joined(joined)
    except BrokenProcessPool as e:
        raise UserError(f"a process that read images of {root} was killed; is the memory full? Start again") from e


def _decode(root: Path, files: Sequence[File], start: int, img_size: int, crop: bool, memory: int) -> Batch:
    """Some files, the first of them at position `start`."""
    rows, unreadable = [], {}
    for i, file in enumerate(files, start):
        image = try_decode(root / file.path, img_size, memory, crop)
        if isinstance(image, str):
            unreadable[i] = image
        else:
            rows.append(image)
    pixels = np.stack(rows) if rows else np.empty((0, img_size, img_size, 3), np.uint8)
    return Batch(start, start + len(files), pixels, unreadable)


def _joined(batches: Sequence[Batch]) -> Batch:
    unreadable = {i: why for b in batches for i, why in b.unreadable.items()}
    return Batch(batches[0].start, batches[-1].stop, np.concatenate([b.pixels for b in batches]), unreadable)
