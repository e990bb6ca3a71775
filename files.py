"""Files that survive a crash: replaced whole or not at all, read with care, locked while in use."""

from __future__ import annotations

import csv
import errno
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import UserError, warn

with (
    warnings.catch_warnings()
):  # filelock's about falling back to soft locks where there is no fcntl: none is used here
    warnings.simplefilter("ignore")
    import filelock

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of file systems without locks


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one line that names the path."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {e.filename or path}: {e.strerror or e}; what was committed is safe") from e


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by its new content or, if anything fails, leave the old one as it was.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str | None:
    """A file's text, undecodable bytes as surrogates; None where there is no file.

    Raises:
        UserError: the file exists and cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from e


# CSV


@dataclass(frozen=True)
class Table:
    """A CSV file as text: its columns in order and its rows, each as long as the header."""

    columns: tuple[str, ...]
    rows: list[list[str]]

    def records(self) -> Iterator[dict[str, str]]:
        """The rows as cells by column name."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def extended(self, columns: Sequence[str], records: Iterable[Mapping[str, str]]) -> Table:
        """A table with more rows. Columns that it lacks are appended; a cell that is not given is empty."""
        new = [c for c in columns if c not in self.columns]
        every = (*self.columns, *new)
        rows = [[*row, *("" for _ in new)] for row in self.rows]
        return Table(every, rows + [[record.get(c, "") for c in every] for record in records])

    def text(self) -> str:
        """The content of the file."""
        return to_csv(self.columns, self.rows)


def to_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Comma-separated lines with a header, each ended by a newline."""

    class Echo:
        def write(self, line: str) -> str:
            return line

    # The writer quotes a cell that holds a character of the line's end: with "\r\n" it quotes both of them.
    writer = csv.writer(Echo(), lineterminator="\r\n")
    return "".join(writer.writerow(row)[:-2] + "\n" for row in (header, *rows))


def read_csv(path: Path, required: Sequence[str]) -> Table:
    """Read a CSV file, without a torn last line. A missing file, or one without a whole header, is an empty table.

    Args:
        path: the file.
        required: columns that it must have, wherever they stand; it may have others.

    Raises:
        UserError: a required column is missing, a column occurs twice, or a line other than the last is damaged.
    """
    text = read_text(path)
    if not text:
        return Table((), [])
    torn = not text.endswith("\n") or text.count('"') % 2 == 1  # an open quote: torn within a name of two lines
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=not torn))
    except csv.Error as e:
        raise UserError(f"{path} is damaged ({e}); repair it or move its folder away to start over") from e
    lines = lines[:-1] if torn else lines
    if not lines:
        return Table((), [])
    header, *rows = lines
    if missing := [name for name in required if name not in header]:
        raise UserError(f"{path} begins with {','.join(header)!r}, which lacks {', '.join(missing)}")
    if len(set(header)) < len(header):
        raise UserError(f"{path} begins with {','.join(header)!r}, in which a column occurs twice")
    if rows and len(rows[-1]) != len(header):
        rows.pop()
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise UserError(f"{path} is damaged in line {i + 2}; repair it or move its folder away to start over")
    return Table(tuple(header), rows)


# Locks


class Lock:
    """A path that this process holds locked, until it closes the lock or dies, however it dies.

    A forked child does not inherit the lock, and the file stays: removing it would let two processes lock two files
    of one name.
    """

    def __init__(self, held: filelock.BaseFileLock | None) -> None:
        self._held = held

    def close(self) -> None:
        """Let another process lock the path."""
        if self._held is not None:
            self._held.release()
            self._held = None


def lock_file(path: Path, wait: bool) -> Lock | None:
    """Lock a path against all other holders, in this process and others. A note says where that is impossible.

    Returns:
        The lock, or None when another one holds the path and `wait` is false.

    Raises:
        UserError: the file cannot be written.
    """
    kind = filelock.WindowsFileLock if os.name == "nt" else filelock.UnixFileLock  # held by the system, no marker files
    lock = kind(path, blocking=wait, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    except OSError as e:
        if e.errno in NO_LOCKS:
            return _without_locks(path)
        with writing(path):
            raise
    return Lock(lock)


def _without_locks(path: Path) -> Lock:
    """Stands in for a lock where there are none."""
    warn(f"the file system of {path.parent} has no locks; do not start the same run there twice at once")
    return Lock(None)


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Hold a lock; print a note and wait while another process holds it.

    Args:
        path: what to lock.
        work: what the holder of the lock does, for the note.
    """
    lock = lock_file(path, wait=False)
    if lock is None:
        warn(f"another process is {work}; waiting for it")
        lock = lock_file(path, wait=True)
    try:
        yield
    finally:
        if lock:
            lock.close()
