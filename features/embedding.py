"""Images embedded by a backbone, batch by batch, on all cores or on a GPU."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.backbones import Backbone
from features.sources import Source
from images.workers import in_order, workers
from utils import UserError, has_fast_bf16, n_cores

TASK_SIZE = 32  # images that a core reads at a time
TASK_PIXELS = 16 * 224**2  # fewer of large images, or their activations leave the cache of a core (12 ms against 21)
TASKS_A_BATCH = 8  # where a GPU embeds what the cores read
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt, from its malloc.h


class Block(NamedTuple):
    """Some consecutive images.

    Attributes:
        start, stop: their positions in the source.
        rows: pixels, uint8 (B, S, S, 3), zero where unreadable; or features of the readable ones, float16 (R, D).
        hashes: SHA-256 of the content of each readable image.
        unreadable: the reason by position.
    """

    start: int
    stop: int
    rows: NDArray[Any]
    hashes: list[bytes]
    unreadable: dict[int, str]


Pass = Callable[[NDArray[np.uint8]], Tensor]  # pixels (B, S, S, 3) to features (B, D) on the device


def embed(source: Source, backbone: Backbone, device: torch.device, start: int = 0) -> Generator[Block]:
    """Features of the images from position `start` on, in blocks, in order.

    On the CPU, each core reads and embeds batches of its own, in a process with one thread: nothing waits, and the
    rows do not depend on the number of cores. Elsewhere, the cores read while the device embeds. To stop after any
    block and to go on there changes no batch, and so no row.

    Raises:
        UserError: a process was killed from outside, the device's memory is too small, or a feature is not finite.
    """
    forward = network_pass(backbone, device)
    try:
        with workers() as executor:
            if device.type == "cpu" and isinstance(executor, ProcessPoolExecutor):
                size = max(1, min(TASK_SIZE, TASK_PIXELS // backbone.size**2))
                yield from _in_order(
                    executor, partial(_read_and_embed, source, forward, size), start, len(source), size
                )
            else:
                blocks = _in_order(executor, partial(_read, source, TASK_SIZE), start, len(source), TASK_SIZE)
                yield from _embed_batches(blocks, forward, device)
    except BrokenProcessPool as e:
        raise UserError("a process that embedded images was killed; is the memory full? Start again") from e


def network_pass(backbone: Backbone, device: torch.device) -> Pass:
    """A function that embeds pixels on a device, in bfloat16 where that is fast."""
    network, bf16 = backbone.network.to(device), has_fast_bf16(device)
    mean, std = (torch.tensor(v, device=device) * 255 for v in (backbone.transform.mean, backbone.transform.std))

    @torch.no_grad()
    def forward(pixels: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(pixels)
        x = (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
        x = ((x - mean) / std).permute(0, 3, 1, 2)  # channels last in memory
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network(x).float()

    return forward


def _in_order(executor: Executor, f: Callable[[int], Block], start: int, stop: int, step: int) -> Iterator[Block]:
    """f(start), f(start + step), ... from the workers, a few ahead of what is used."""
    _jobs[id(f)] = f
    try:
        ahead = 2 * TASKS_A_BATCH + 2 * n_cores()
        yield from in_order(lambda i: executor.submit(_do, id(f), i), range(start, stop, step), ahead)
    finally:
        del _jobs[id(f)]


_jobs: dict[int, Callable[[int], Block]] = {}  # of this process and, as they are forked, of its workers


def _do(job: int, start: int) -> Block:
    return _jobs[job](start)


def _read(source: Source, size: int, start: int) -> Block:
    """Pixels of `size` images."""
    stop = min(start + size, len(source))
    rows = np.zeros((stop - start, source.transform.size, source.transform.size, 3), np.uint8)
    hashes, unreadable = [], {}
    for i in range(start, stop):
        pixels, content_hash = source.read(i)
        if isinstance(pixels, str):
            unreadable[i] = pixels
        else:
            rows[i - start] = pixels
            hashes.append(content_hash)
    return Block(start, stop, rows, hashes, unreadable)


def _read_and_embed(source: Source, forward: Pass, size: int, start: int) -> Block:
    """Features of `size` images, computed in a process of their own."""
    torch.set_num_threads(1)
    _keep_freed_memory()
    block = _read(source, size, start)
    return _with_features(block, forward(block.rows))


@cache
def _keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for the activations of the next batch.

    By default glibc returns it to the system, and the pages of each batch, filled with zeros anew, take a fifth of the
    time. Other C libraries are left alone.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes: blocks from here on are returned
            mallopt(M_TRIM_THRESHOLD, 2**30)


def _embed_batches(blocks: Iterator[Block], forward: Pass, device: torch.device) -> Iterator[Block]:
    """Blocks of pixels, embedded by the device while the next ones are read."""
    queued: tuple[Block, Tensor] | None = None
    while batch := list(itertools.islice(blocks, TASKS_A_BATCH)):
        block = _joined(batch)
        features = _in_parts(forward, block.rows, device)  # a GPU computes on while the next batch is read
        if queued:
            yield _with_features(*queued)
        queued = block, features
    if queued:
        yield _with_features(*queued)


def _in_parts(forward: Pass, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Features of a batch, in as many parts as the memory needs."""
    n_parts = 1
    while True:
        try:
            return torch.cat([forward(part) for part in np.array_split(pixels, n_parts)])
        except torch.OutOfMemoryError as e:
            if n_parts >= len(pixels):
                raise UserError(f"the memory of {device} does not hold one image and the backbone") from e
            n_parts *= 2
            torch.cuda.empty_cache()


def _joined(blocks: list[Block]) -> Block:
    """Consecutive blocks as one."""
    return Block(
        blocks[0].start,
        blocks[-1].stop,
        np.concatenate([b.rows for b in blocks]),
        [h for b in blocks for h in b.hashes],
        {i: why for b in blocks for i, why in b.unreadable.items()},
    )


def _with_features(block: Block, features: Tensor) -> Block:
    """A block with the features (B, D) of its readable images in place of pixels.

    Raises:
        UserError: one is not finite.
    """
    readable = [i not in block.unreadable for i in range(block.start, block.stop)]
    rows = features.cpu().half()[torch.tensor(readable)]
    if not rows.isfinite().all():
        raise UserError("features are NaN or above 65,504, the limit of float16: these weights do not fit")
    return block._replace(rows=rows.numpy())
