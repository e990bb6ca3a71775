"""The files that show the last round of a run: which round that is, and whether they are whole.

They are written after their round is committed, and last_round.json after them. A kill in between leaves files that
last_round.json does not describe, which resuming the run repairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from files import read_bytes
from runs.format import CONFUSION, LAST_ROUND, MODEL, PREDICTIONS, json_text, read_json
from utils import UserError

OUTPUTS = (PREDICTIONS, CONFUSION, MODEL)


@dataclass(frozen=True)
class LastRound:
    """What last_round.json says.

    Attributes:
        round: the round that the files show; -1 before the first.
        files: SHA-256 of each, by name.
    """

    round: int
    files: dict[str, str]

    def text(self) -> str:
        """The content of last_round.json."""
        return json_text({"round": self.round, "files": self.files})


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
    return LastRound(round, files)


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
