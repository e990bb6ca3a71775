"""The files that show the last round of a run: which round that is, and whether they are whole.

They are written after their round is committed, and last_round.json after them. A kill in between leaves files that
last_round.json does not describe, which resuming the run repairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from files import read_bytes
from runs.format import (
    CONFUSION,
    LAST_ROUND,
    MODEL,
    PREDICTIONS,
    QUERIES,
    ROUNDS,
    Query,
    Round,
    json_text,
    read_json,
)
from utils import UserError

OUTPUTS = (PREDICTIONS, CONFUSION, MODEL)


@dataclass(frozen=True)
class LastRound:
    """What last_round.json says.

    Attributes:
        round: the round that the files show; -1 before the first.
        files: SHA-256 of each, by name.
        row: what `row_digest` gives for the round; empty where not recorded.
        picks: what `picks_digest` gives for the picks up to the round; empty where not recorded.
    """

    round: int
    files: dict[str, str]
    row: str = ""
    picks: str = ""

    def text(self) -> str:
        """The content of last_round.json."""
        recorded = {"row": self.row, "picks": self.picks}
        return json_text({"round": self.round, "files": self.files, **{k: v for k, v in recorded.items() if v}})

    def check_row(self, folder: Path, rounds: Sequence[Round]) -> None:
        """Raise a UserError where rounds.csv is not the one that this was written with, such as another run's."""
        if self.row and 0 <= self.round < len(rounds) and row_digest(rounds[self.round]) != self.row:
            raise self._foreign(folder / ROUNDS, f"round {self.round} is not the one")

    def check_picks(self, folder: Path, queries: Sequence[Query]) -> None:
        """Raise a UserError where queries.csv is not the one that this was written with."""
        if self.picks and picks_digest(queries, self.round) != self.picks:
            raise self._foreign(folder / QUERIES, f"picks up to round {self.round} are not those")

    def _foreign(self, path: Path, what: str) -> UserError:
        way_on = f"restore the file, or delete {LAST_ROUND} to accept it as it is"
        return UserError(f"{path} was changed or is another run's: its {what} of {LAST_ROUND}; {way_on}")


def row_digest(round: Round) -> str:
    """Identifies a round by its labels and metrics, whatever the columns of the table. 16 hexadecimal digits."""
    metrics = sorted((name, cell) for name, cell in round.cells().items() if name in round.metrics and cell != "nan")
    return digest(json.dumps([round.round, round.n_labeled, metrics]).encode())[:16]


def picks_digest(queries: Sequence[Query], round: int) -> str:
    """Identifies the picks up to a round, in their order. 16 hexadecimal digits."""
    picks = [[q.round, q.index, q.path, q.label] for q in queries if q.round <= round]
    return digest(json.dumps(picks).encode())[:16]


def digest(content: bytes) -> str:
    """SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_last_round(folder: Path) -> LastRound | None:
    """Read a run's last_round.json; None where there is none, as in runs of versions that did not write it.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    content = read_json(folder / LAST_ROUND, "the run's command repairs it")
    if content is None:
        return None
    round, files = content.get("round"), content.get("files")
    if type(round) is not int or not isinstance(files, dict):
        raise UserError(f"{folder / LAST_ROUND} is damaged; the run's command repairs it")
    return LastRound(round, files, str(content.get("row", "")), str(content.get("picks", "")))


def known_last_round(folder: Path) -> LastRound | None:
    """What last_round.json says; None where there is none, or a damaged one, which the run's command repairs."""
    try:
        return read_last_round(folder)
    except UserError:
        return None


def defect(folder: Path, rounds: Collection[int]) -> str:
    """What is wrong with a run's output files; empty if they are whole and show one of some rounds.

    Args:
        folder: the run's folder. Without a last_round.json, the files only have to be there.
        rounds: which they may show.
    """
    try:
        last = read_last_round(folder)
    except UserError as e:
        return str(e)
    if missing := [name for name in OUTPUTS if not (folder / name).exists()]:
        return f"{', '.join(missing)} missing"
    if last is None:
        return ""
    if last.round not in rounds:
        return f"{', '.join(OUTPUTS)} of round {last.round}"
    damaged = [name for name in OUTPUTS if _digest_of(folder / name) != last.files.get(name)]
    return f"{', '.join(damaged)} damaged or of another round" if damaged else ""


def _digest_of(path: Path) -> str | None:
    try:
        return digest(read_bytes(path))
    except OSError:
        return None
