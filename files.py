"""Files that survive a crash: replaced whole or not at all, read with care, locked while in use."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from utils import UserError, warn

with (
    warnings.catch_warnings()
):  # filelock's about falling back to soft locks where there is no fcntl: none is used here
    warnings.simplefilter("ignore")
    import filelock

_SPECIAL = re.compile('[,"\r\n]').search  # what a cell must be quoted for
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
    with writing(path), replacing(path) as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new empty file beside `path` that takes its place at the end, or is removed after an error.

    Its name cannot be guessed and it is created, never opened: a link that somebody puts in its way is not followed.
    A link at `path` is itself replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as f:
            yield f
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(path: Path) -> None:
    """Remove what killed processes left of `replacing`, while no process can be writing that file."""
    temporary = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]+\.tmp")
    with writing(path.parent):
        for name in filter(temporary.fullmatch, os.listdir(path.parent)):
            path.with_name(name).unlink()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing but a file: reading a pipe or a device may never end.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    return open(path, "rb", opener=_opened_if_regular)


def _opened_if_regular(name: str, flags: int) -> int:
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # without it, opening a pipe waits for a writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # open() refuses folders
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", name)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    with open_regular(path) as f:
        return f.read()


def read_text(path: Path) -> str | None:
    """A file's text, undecodable bytes as surrogates; None where there is no file.

    Raises:
        UserError: the file exists and cannot be read.
    """
    try:
        return read_bytes(path).decode("utf-8", "surrogateescape")
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

    def line(self, i: int) -> int:
        """The line of the file at which row `i` begins, the first line being 1; a cell may hold newlines."""
        return i + 2 + sum(cell.count("\n") for row in (self.columns, *self.rows[:i]) for cell in row)

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

    class Lines(list[str]):
        write = list.append

    # The writer quotes a cell that holds a character of the line's end: with "\r\n" it quotes both of them.
    lines = Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(chain([header], rows))
    return "".join([line[:-2] + "\n" for line in lines])


def csv_cell(text: str) -> str:
    """A text as `to_csv` writes it into one of several cells, for a file of many lines whose cells mostly repeat."""
    return '"' + text.replace('"', '""') + '"' if _SPECIAL(text) else text


def read_csv(path: Path, required: Sequence[str]) -> Table:
    """Read a CSV file. A missing file is an empty table.

    Files are replaced whole, so one that is empty, ends within a line or holds zero bytes was damaged from outside.

    Args:
        path: the file.
        required: columns that it must have, wherever they stand; it may have others.

    Raises:
        UserError: the file is damaged, a required column is missing, or a column occurs twice.
    """
    text = read_text(path)
    if text is None:
        return Table((), [])
    rows, why = whole_rows(text)
    if not rows:
        raise UserError(f"{path} is damaged: {why or 'it is empty'}; restore it or move its folder away to start over")
    table = Table(tuple(rows[0]), rows[1:])
    if missing := [name for name in required if name not in table.columns]:
        raise UserError(f"{path} begins with {','.join(table.columns)!r}, which lacks {', '.join(missing)}")
    if len(set(table.columns)) < len(table.columns):
        raise UserError(f"{path} begins with {','.join(table.columns)!r}, in which a column occurs twice")
    for i, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise damaged_row(path, table, i, f"{len(row)} cells under {len(table.columns)} columns")
    if why:
        raise damaged_row(path, table, len(table.rows), why)
    return table


def whole_rows(text: str) -> tuple[list[list[str]], str]:
    """The rows of a CSV file as far as they are whole, and what is wrong with the next one; empty if nothing is."""
    text, zero, _ = text.partition("\0")
    why = "zero bytes" if zero else "" if text.endswith("\n") or not text else "a torn line"
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            rows.append(row)  # one by one, to have those above the damage
    except csv.Error as e:
        return rows, why or str(e)
    return (rows if text.endswith("\n") else rows[:-1]), why


RETRAIN = "restore the file, or delete line {line} and any below it to train again from that round on"


def damaged_row(path: Path, table: Table, i: int, why: str, way_on: str = RETRAIN) -> UserError:
    """The error that says in which line a file is damaged, why, and how to go on.

    Args:
        path: the file.
        table: what was read of it.
        i: the row; one more than there are for the text below them.
        why: what is wrong with it.
        way_on: what can be done; by default what helps with a file of rounds.
    """
    line = table.line(i)
    return UserError(f"{path} is damaged in line {line}: {why}; {way_on.format(line=line)}")


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
        UserError: the file is a link, which could lead anywhere, or cannot be written.
    """
    if path.is_symlink():  # filelock follows none either, should one appear only now
        raise UserError(f"{path} is a link and not the file of a lock; remove it")
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
