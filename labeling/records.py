"""rounds.csv and queries.csv of a labeling project, in the format of the experiments, with some columns more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from files import Table, damaged_row, read_csv, write_atomic
from runs.format import (
    CHECK,
    KEY_COLUMNS,
    QUERIES,
    QUERY_COLUMNS,
    ROUNDS,
    WHOLE_NUMBER,
    Round,
    checksum,
    round_columns,
    rounds_of,
    validation_columns,
)
from utils import UserError

ROUND_EXTRAS = ("n_val", "val_correct", "agreement")
PICK_EXTRAS = ("score", "suggestion", "probability")


@dataclass(frozen=True)
class Ranked:
    """An image that was picked to be labeled.

    Attributes:
        rank: 0 is the first to be labeled.
        index: a position in the training set.
        path: relative to the data set's folder, with forward slashes.
        score: the strategy's, higher is labeled sooner; None where it has none.
        suggestion: name of the most probable class; empty where there is no model yet.
        probability: of the suggestion.
    """

    rank: int
    index: int
    path: str
    score: float | None = None
    suggestion: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Chosen(Ranked):
    """An image that a query chose: a row of queries.csv.

    Attributes:
        round: 0 is the first draw, r the query after training r - 1; ranks begin at 0 in each.
    """

    round: int = 0

    def cells(self) -> dict[str, str]:
        """Its text by column; the label is in labels.csv, once there is one."""
        numbers = {"score": self.score, "probability": self.probability}
        return {
            **{c: str(getattr(self, c)) for c in QUERY_COLUMNS if c != "label"},
            "suggestion": self.suggestion,
            **{c: "" if v is None else f"{v:.6g}" for c, v in numbers.items()},
        }


@dataclass(frozen=True)
class Measured:
    """One training: a row of rounds.csv.

    Attributes:
        row: round, number of labels, metrics and seconds, as of an experiment.
        n_val: validation images that were labeled at the time.
        n_correct: how many of them the network classified correctly.
        agreement: Cohen's kappa with the network before, on images drawn at random; None for the first.
    """

    row: Round
    n_val: int
    n_correct: int
    agreement: float | None

    def cells(self) -> dict[str, str]:
        """Its text by column."""
        agreement = "" if self.agreement is None else f"{self.agreement:.6f}"
        cells = {k: v for k, v in self.row.cells().items() if k != CHECK}
        cells |= {"n_val": str(self.n_val), "val_correct": str(self.n_correct), "agreement": agreement}
        return {**cells, CHECK: checksum(cells)}


class Records:
    """The trainings and queries of a project so far.

    Args:
        folder: of the project's state.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rounds_table = read_csv(folder / ROUNDS, KEY_COLUMNS)
        self._picks_table = read_csv(folder / QUERIES, QUERY_COLUMNS)
        self.rounds = self._read_rounds()
        n_done = len(self.rounds)
        picks = self._read_picks()
        self.picks = [p for p in picks if p.round <= n_done]  # a kill leaves those of a round without a row
        self._picks_table = Table(self._picks_table.columns, self._picks_table.rows[: len(self.picks)])

    @property
    def latest(self) -> list[Chosen]:
        """The picks of the last query."""
        return [p for p in self.picks if p.round == self.picks[-1].round] if self.picks else []

    @property
    def n_trained(self) -> int:
        """Labels that the last training used."""
        return self.rounds[-1].row.n_labeled if self.rounds else 0

    def commit(self, measured: Measured | None, picks: Sequence[Chosen]) -> None:
        """Record a query and, after it, the training that it followed; None for a draw before any training.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        queries = self._picks_table.extended((*QUERY_COLUMNS, *PICK_EXTRAS), [p.cells() for p in picks])
        write_atomic(self._folder / QUERIES, queries.text())
        self._picks_table = queries
        if measured:
            columns = (*round_columns(), *validation_columns(), *ROUND_EXTRAS, CHECK)
            rounds = self._rounds_table.extended(columns, [measured.cells()])
            write_atomic(self._folder / ROUNDS, rounds.text())
            self._rounds_table = rounds
            self.rounds.append(measured)
        self.picks += picks

    def _read_rounds(self) -> list[Measured]:
        path, table = self._folder / ROUNDS, self._rounds_table
        rounds = rounds_of(table, path)
        found = []
        for i, (row, cells) in enumerate(zip(rounds, table.records(), strict=True)):
            try:
                n_val, n_correct = int(cells.get("n_val") or 0), int(cells.get("val_correct") or 0)
                agreement = float(cells["agreement"]) if cells.get("agreement") else None
                if not 0 <= n_correct <= n_val or not (agreement is None or -1 <= agreement <= 1):
                    raise ValueError(f"{n_correct} of {n_val} correct, an agreement of {agreement}")
            except ValueError as e:
                raise damaged_row(path, table, i, str(e)) from None
            found.append(Measured(row, n_val, n_correct, agreement))
        return found

    def _read_picks(self) -> list[Chosen]:
        path, table = self._folder / QUERIES, self._picks_table
        picks: list[Chosen] = []
        for i, row in enumerate(table.records()):
            numbers = [row[c] for c in ("round", "rank", "index")]
            if not all(WHOLE_NUMBER.fullmatch(cell) for cell in numbers):
                raise damaged_row(path, table, i, f"{','.join(numbers)[:60]!r} are no whole numbers")
            try:
                score, probability = (float(row[c]) if row.get(c) else None for c in ("score", "probability"))
            except ValueError as e:
                raise damaged_row(path, table, i, str(e)) from None
            of_round, rank, index = map(int, numbers)
            last = picks[-1] if picks else Chosen(-1, -1, "")
            if (of_round, rank) != (last.round, last.rank + 1) and (of_round <= last.round or rank != 0):
                raise damaged_row(path, table, i, f"{','.join(numbers)!r} does not follow the line above")
            picks.append(Chosen(rank, index, row["path"], score, row.get("suggestion", ""), probability, of_round))
        return picks


def lost(folder: Path, what: str) -> UserError:
    """The error that a file of a project is missing or was emptied."""
    return UserError(f"{folder}: {what}; restore it, or move the folder away to start over")
