"""One run that a sweep has to do: what it is, whether it is finished, who does it, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from files import Lock, lock_file, read_bytes, writing
from runs.format import LOCK, QUERIES, ROUNDS, read_environment, read_rounds
from runs.outputs import read_last_round
from utils import UserError


@dataclass(frozen=True)
class Job:
    """One experiment: its flags for demo.py, its folder, the rows that rounds.csv has at its end, and --n_round."""

    flags: tuple[str, ...]
    folder: Path
    n_rows: int
    n_round: int

    @property
    def name(self) -> str:
        """Dataset, strategy, seed and hash, for a reader."""
        return "/".join(self.folder.parts[-3:])


class Ended(NamedTuple):
    """A job that ended: exit code of demo.py and the last lines that it wrote on stderr."""

    job: Job
    code: int
    last_lines: str


def n_committed(job: Job) -> int:
    """How many of the requested rounds are committed; 0 in a damaged folder, about which demo.py prints an error."""
    return min(_n_all_committed(job), job.n_rows)


def _n_all_committed(job: Job) -> int:
    try:
        rounds = read_rounds(job.folder / ROUNDS)
        n_picks = read_bytes(job.folder / QUERIES).count(b"\n") - 1 if rounds else 0
    except (UserError, OSError):
        return 0
    while rounds and rounds[-1].n_labeled > n_picks:
        rounds.pop()
    return len(rounds)


def is_finished(job: Job) -> bool:
    """Whether all rounds are committed and, as far as last_round.json says, shown by the output files.

    demo.py then finds nothing to do, unless these files were damaged or deleted: it alone looks at them. Much faster
    than starting it.
    """
    n = _n_all_committed(job)
    environment = read_environment(job.folder, report=lambda _: None)
    if n < job.n_rows or environment.get("n_round", n - 1) != job.n_round:
        return False
    try:
        last = read_last_round(job.folder)
    except UserError:
        return False
    return last is None or last.round in (job.n_rows - 1, n - 1)


def claim(job: Job) -> Lock | None:
    """Reserve a job for this sweep until the returned lock is closed; None while another process works on it.

    A sweep holds .claim from before demo.py starts until it ends; demo.py itself, whoever starts it, holds .lock.
    """
    with writing(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    ours = lock_file(job.folder / ".claim", wait=False)
    if ours is None:
        return None
    lock = lock_file(job.folder / LOCK, wait=False)
    if lock is None:
        ours.close()
        return None
    lock.close()
    return ours
