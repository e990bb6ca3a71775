"""The label log: an append-only CSV file, one row a decision. What stands is the fold of its rows.

So undo and crash safety come for free, and the logs of several annotators merge by concatenation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from files import Table, damaged_row, read_text, to_csv, whole_rows, write_atomic, writing
from utils import UserError, warn

COLUMNS = ("time", "annotator", "path", "action", "label", "seconds", "suggestion", "probability")
LABEL, SKIP, UNSURE, UNDO, REVIEW = "label", "skip", "unsure", "undo", "review"
ACTIONS = (LABEL, SKIP, UNSURE, UNDO, REVIEW)
NAMES_CLASS = (LABEL, REVIEW)
DISPUTED = "disputed"


class Decision(NamedTuple):
    """One row of the log.

    Attributes:
        time: UTC, ISO 8601.
        annotator: who decided.
        path: of the image, relative to the data set's folder.
        action: label, skip, unsure; review, a label that replaces all decisions before it; or undo: the annotator's
            last decision on this image is taken back.
        label: name of the class; empty for other actions.
        seconds: that the image was shown; empty where unknown.
        suggestion: the class that was suggested; empty where none was shown.
        probability: of the suggestion.
    """

    time: str
    annotator: str
    path: str
    action: str
    label: str = ""
    seconds: str = ""
    suggestion: str = ""
    probability: str = ""


def now() -> str:
    """This moment in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Standing:
    """What stands after some decisions.

    Attributes:
        votes: by path, the decision of each annotator that stands.
        history: by annotator, what can be undone: decisions that stand, the last one last.
        verdicts: what the annotators decided together, by path: an action and a label. The label that most of them
            gave counts; skips and doubts count where nobody gave one. ("label", class), ("skip", ""),
            ("unsure", ""), or ("disputed", "") where two labels have equally many votes.
    """

    votes: dict[str, dict[str, Decision]] = field(default_factory=dict)
    history: dict[str, list[Decision]] = field(default_factory=dict)
    verdicts: dict[str, tuple[str, str]] = field(default_factory=dict)
    _stand: dict[str, list[Decision]] = field(default_factory=dict)  # what was not undone, by path, in order

    def add(self, decision: Decision) -> None:
        """Take one more row into account. An undo of what does not stand changes nothing."""
        annotator, path = decision.annotator, decision.path
        past = self.history.setdefault(annotator, [])
        stand = self._stand.setdefault(path, [])
        if decision.action != UNDO:
            past.append(decision)
            stand.append(decision)
        elif mine := [i for i, d in enumerate(stand) if d.annotator == annotator]:
            undone = stand.pop(mine[-1])
            del past[next(i for i in range(len(past) - 1, -1, -1) if past[i] is undone)]
        if stand:
            self.votes[path] = {d.annotator: d for d in stand}
            self.verdicts[path] = _verdict(stand)
        else:
            self._stand.pop(path)
            self.votes.pop(path, None)
            self.verdicts.pop(path, None)

    def verdict(self, path: str) -> tuple[str, str]:
        """What the annotators decided on an image together; ("", "") where nobody decided."""
        return self.verdicts.get(path, ("", ""))


def _verdict(stand: Sequence[Decision]) -> tuple[str, str]:
    """The verdict of what was decided on one image and not undone, in order; the last of each annotator counts."""
    reviewed = next((i for i in range(len(stand) - 1, -1, -1) if stand[i].action == REVIEW), 0)
    votes = {d.annotator: d for d in stand[reviewed:]}.values()
    labels = Counter(d.label for d in votes if d.action in NAMES_CLASS).most_common(2)
    if len(labels) == 2 and labels[0][1] == labels[1][1]:
        return DISPUTED, ""
    if labels:
        return LABEL, labels[0][0]
    return (UNSURE if UNSURE in {d.action for d in votes} else SKIP), ""


def standing(decisions: Iterable[Decision]) -> Standing:
    """The fold of some decisions, in order."""
    state = Standing()
    for decision in decisions:
        state.add(decision)
    return state


def read_log(path: Path) -> list[Decision]:
    """The rows of a log, or of several that were concatenated. A missing file has none.

    A last row that a crash tore is left out with a note: it was never acknowledged.

    Raises:
        UserError: the file is damaged elsewhere.
    """
    text = read_text(path)
    if not text:
        return []
    whole, torn = text.rstrip("\0"), text.endswith("\0")
    rows, why = whole_rows(whole)
    if whole and to_csv(COLUMNS, []).startswith(whole):  # the header itself may be torn
        return []
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(f"{path} is no label log: it does not begin with {','.join(COLUMNS)}; restore it")
    table = Table(COLUMNS, rows[1:])
    decisions = []
    for i, row in enumerate(table.rows):
        if tuple(row) == COLUMNS:  # the logs of two annotators, one after the other
            continue
        if len(row) != len(COLUMNS):
            raise _damaged(path, table, i, f"{len(row)} cells under {len(COLUMNS)} columns")
        if row[3] not in ACTIONS or (row[3] in NAMES_CLASS) != bool(row[4]):
            raise _damaged(path, table, i, f"the action is {row[3][:40]!r} and the label {row[4][:40]!r}")
        decisions.append(Decision(*row))
    if why:
        if not _is_last_line(whole, table):
            raise _damaged(path, table, len(table.rows), why)
        torn = True
    if torn:
        warn(f"{path}: its last row was torn by a crash and is left out; it was not acknowledged")
    return decisions


def _damaged(path: Path, table: Table, i: int, why: str) -> UserError:
    return damaged_row(path, table, i, why, "restore the file, or delete line {line}")


def _is_last_line(text: str, table: Table) -> bool:
    """Whether what is wrong stands in the last line of the text."""
    return table.line(len(table.rows)) >= text.count("\n") + 1


class LabelLog:
    """A log that this process appends to; the caller holds the lock of its folder.

    Args:
        path: of the file; created with the first row.

    Raises:
        UserError: the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decisions = read_log(path)
        self.standing = standing(self.decisions)
        text = to_csv(COLUMNS, self.decisions)
        if read_text(path) != text:  # torn, concatenated or missing
            write_atomic(path, text)
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = os.path.getsize(path)

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write decisions permanently: they are on the disk when this returns. All of them, or none.

        Raises:
            UserError: the disk is full or the file was replaced; nothing is added then.
        """
        if not decisions:
            return
        data = to_csv(decisions[0], decisions[1:]).encode("utf-8", "surrogateescape")
        with writing(self.path):
            try:
                if os.fstat(self._file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(2, "it was deleted while it was in use; start again", str(self.path))
                written = self._file.write(data)
                if written != len(data):
                    raise OSError(28, "no space left on the disk", str(self.path))
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._size)  # nothing that was not acknowledged is read at the next start
                raise
        self._size += len(data)
        for decision in decisions:
            self.decisions.append(decision)
            self.standing.add(decision)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
