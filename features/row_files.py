"""Files of features in a cache folder, which grow while features are computed and outlive a kill at any moment.

    <stem>-<key>.f16       features, row after row
    <stem>-<key>.sha256    the hash of each row's image, 32 bytes a row
    <stem>.json            the manifest: the key, and how much of the two files is valid

The two files are flushed before the manifest is replaced.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from features.embedding import Block
from files import read_bytes, sweep_temporaries, write_atomic

COMMIT_SECONDS = 1.0  # of work that a kill may cost
HASH_BYTES = 32
CHUNK = 1 << 22  # bytes read at a time


class Rows(NamedTuple):
    """Complete features.

    Attributes:
        x: of the readable images: a memory map. Shape (R, D), float16.
        hashes: SHA-256 of the content of each, one after the other.
        unreadable: the reason by position of each image that has no row.
    """

    x: Tensor
    hashes: bytes
    unreadable: dict[int, str]


@dataclass
class _State:
    """What the manifest says: how much of the two files is valid.

    Attributes:
        key: of the files.
        n_done: images read so far.
        unreadable: position and reason of those that have no row.
        sha256, hashes_sha256: of the valid part of each file.
        mtime_ns: of the file of features; another one means that it was copied, or written to since.
    """

    key: str
    n_done: int = 0
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    sha256: str = hashlib.sha256().hexdigest()
    hashes_sha256: str = hashlib.sha256().hexdigest()
    mtime_ns: int = 0

    @property
    def n_rows(self) -> int:
        """Rows in the valid part of both files."""
        return self.n_done - len(self.unreadable)


@dataclass(frozen=True)
class RowFiles:
    """The files of one data set, backbone and size in one folder.

    Attributes:
        folder: of the cache.
        stem: how their names begin.
        key: 16 hex digits for all that the rows depend on.
        n: images, N.
        n_features: D.
    """

    folder: Path
    stem: str
    key: str
    n: int
    n_features: int

    @property
    def _features(self) -> Path:
        return self.folder / f"{self.stem}-{self.key}.f16"

    @property
    def _hashes(self) -> Path:
        return self.folder / f"{self.stem}-{self.key}.sha256"

    @property
    def _manifest(self) -> Path:
        return self.folder / f"{self.stem}.json"

    def open(self) -> Rows | None:
        """The rows; None where they are missing, incomplete or damaged."""
        state = self._state()
        if state is None or state.n_done < self.n:
            return None
        shape = state.n_rows, self.n_features
        try:
            hashes = read_bytes(self._hashes)
            stat = self._features.stat()
            if len(hashes) != HASH_BYTES * shape[0] or hashlib.sha256(hashes).hexdigest() != state.hashes_sha256:
                return None
            if stat.st_size != 2 * shape[0] * shape[1]:
                return None
            if stat.st_mtime_ns != state.mtime_ns:
                with open(self._features, "rb") as f:
                    if _hashed(f, stat.st_size).hexdigest() != state.sha256:
                        return None
            # Copy-on-write, as torch warns about arrays that cannot be written.
            x = np.memmap(self._features, np.float16, "c", shape=shape) if shape[0] else np.empty(shape, np.float16)
        except OSError:
            return None
        return Rows(torch.from_numpy(x), hashes, dict(state.unreadable))

    def discard(self) -> None:
        """Compute all rows again."""
        self._manifest.unlink(missing_ok=True)

    @contextmanager
    def growing(self) -> Iterator[GrowingRows]:
        """The files to append to, after what is valid of them. Files of other keys are removed.

        The caller is the only process that writes. Raises OSError.
        """
        sweep_temporaries(self._manifest)
        for old in self.folder.glob(f"{glob.escape(self.stem)}-{'[0-9a-f]' * len(self.key)}.*"):
            if old not in (self._features, self._hashes):
                old.unlink(missing_ok=True)
        with (
            open(self._features, "r+b", opener=_create) as features,
            open(self._hashes, "r+b", opener=_create) as hashes,
        ):
            yield GrowingRows(self._manifest, features, hashes, self._state() or _State(self.key), 2 * self.n_features)

    def _state(self) -> _State | None:
        """The manifest; None where it is missing, damaged or about other files."""
        try:
            state = _State(**json.loads(read_bytes(self._manifest)))
            state.unreadable = [(int(i), str(reason)) for i, reason in state.unreadable]
            bad = [i for i, _ in state.unreadable]
            valid = state.key == self.key and 0 <= state.n_done <= self.n and bad == sorted({*bad})
            return state if valid and (not bad or 0 <= bad[0] <= bad[-1] < state.n_done) else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None


class GrowingRows:
    """Two open files of rows, and the manifest that says how much of them is valid.

    Args:
        manifest: its path.
        features, hashes: open for reading and writing.
        state: from the manifest.
        row_bytes: of features.
    """

    def __init__(self, manifest: Path, features: BinaryIO, hashes: BinaryIO, state: _State, row_bytes: int) -> None:
        self._manifest = manifest
        self._files = features, hashes
        self._sums = _hashed(features, state.n_rows * row_bytes), _hashed(hashes, state.n_rows * HASH_BYTES)
        if [s.hexdigest() for s in self._sums] != [state.sha256, state.hashes_sha256]:  # damaged: start over
            state = _State(state.key)
            self._sums = hashlib.sha256(), hashlib.sha256()
        self._state = state
        for f, size in zip(self._files, (row_bytes, HASH_BYTES), strict=True):
            f.truncate(state.n_rows * size)
            f.seek(0, os.SEEK_END)
        self._committed = time.monotonic()

    @property
    def n_done(self) -> int:
        """Images read so far."""
        return self._state.n_done

    def add(self, block: Block) -> None:
        """Append the features of the next images."""
        for f, total, data in zip(self._files, self._sums, (block.rows.tobytes(), b"".join(block.hashes)), strict=True):
            f.write(data)
            total.update(data)
        self._state.n_done = block.stop
        self._state.unreadable += sorted(block.unreadable.items())
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush the files, then say so in the manifest."""
        for f in self._files:
            f.flush()
            os.fsync(f.fileno())
        self._state.sha256, self._state.hashes_sha256 = (total.hexdigest() for total in self._sums)
        self._state.mtime_ns = os.fstat(self._files[0].fileno()).st_mtime_ns
        write_atomic(self._manifest, json.dumps(asdict(self._state)))
        self._committed = time.monotonic()


def _create(path: str, flags: int) -> int:
    """Open a file, created where there is none; never through a link, which could lead anywhere."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _hashed(f: BinaryIO, n_bytes: int) -> Any:
    """The SHA-256 of the first bytes of a file, to be continued."""
    total = hashlib.sha256()
    f.seek(0)
    while n_bytes > 0 and (data := f.read(min(n_bytes, CHUNK))):
        total.update(data)
        n_bytes -= len(data)
    return total
