"""The folder of one run while it is being written: held by one process, committed round by round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from files import Table, lock_file, read_csv, write_atomic, writing
from runs.format import (
    CHECK,
    CONFIG,
    ENVIRONMENT,
    KEY_COLUMNS,
    LAST_ROUND,
    LOCK,
    QUERIES,
    QUERY_COLUMNS,
    ROUNDS,
    Query,
    Round,
    json_text,
    queries_of,
    read_config,
    read_environment,
    round_columns,
    round_of,
    rounds_of,
    run_path,
    seconds_text,
    validation_columns,
)
from runs.outputs import LastRound, defect, digest, known_last_round, picks_digest, row_digest
from utils import UserError, warn


class RunFolder:
    """The files of one run, `root/<dataset>/<strategy>/seed<seed>-<hash8>/`, held by this process alone.

    Opening it drops picks that a killed process left without a row; `commit` adds a round permanently. What is
    committed is never dropped or reformatted, and columns that this version does not know are kept.

    Args:
        root: folder of all results.
        config: every setting that defines the experiment, resolved. Must hold dataset_name, strategy_name, seed,
            n_query and n_train (images in the pool).

    Raises:
        UserError: the folder holds another configuration, is in use by another process, is damaged, or cannot be
            written.
    """

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = run_path(root, config)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(self.folder / LOCK, wait=False)
        if self._lock is None:
            raise UserError(f"{self.folder} is in use: another process is running this experiment now")
        try:
            with writing(self.folder):
                for left in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                    left.unlink()
            self._check_config()
            self._rounds_table = read_csv(self.folder / ROUNDS, KEY_COLUMNS)
            self._queries_table = read_csv(self.folder / QUERIES, QUERY_COLUMNS)
            self._rounds = rounds_of(self._rounds_table, self.folder / ROUNDS)
            self._queries = queries_of(self._queries_table, self.folder / QUERIES)
            self._check_committed()
            self._drop_uncommitted()
        except UserError:
            self.close()
            raise

    def _check_config(self) -> None:
        old = read_config(self.folder)
        if old is None:
            if any(self.folder.glob("*.csv")):
                raise UserError(f"{self.folder} has results but no {CONFIG}; move the folder away to start over")
            write_atomic(self.folder / CONFIG, json_text(self.config))
        elif old != self.config:
            differ = sorted(k for k in {*old, *self.config} if old.get(k) != self.config.get(k))
            what = ", ".join(f"{k}: {old.get(k)!r} there, {self.config.get(k)!r} asked for" for k in differ)
            raise UserError(f"{self.folder} holds another configuration ({what}); give another --results_dir")

    def _check_committed(self) -> None:
        """Refuse to go on where rows or picks of committed rounds were lost.

        A killed process leaves the picks of at most one round more than committed rows ask for.
        """
        n_done, last = len(self._rounds), self._queries[-1].round if self._queries else -1
        if not self._rounds_table.columns and (last > 1 or self._shown_round() >= 0):
            way_on = "restore it or move the folder away to start over"
            raise UserError(f"{self.folder}: {ROUNDS} is missing, though rounds were committed; {way_on}")
        n_picked = Counter(q.round for q in self._queries)
        n_labeled = 0
        for r in self._rounds:
            n_labeled += n_picked[r.round]
            if n_labeled != r.n_labeled:
                n = f"n_labeled is {r.n_labeled}, but {QUERIES} has {n_labeled} picks up to round {r.round}"
                raise self._lost(r.round, r.round, f"{ROUNDS} line {self._rounds_table.line(r.round)}: {n}")
        if last > n_done + 1:
            raise self._lost(n_done, n_done + 1, f"{QUERIES} has picks up to round {last}, but {ROUNDS} {n_done} rows")
        if shown := known_last_round(self.folder):
            shown.check_row(self.folder, self._rounds)
            if shown.round < n_done:  # else its rounds were dropped by hand, to be trained again
                shown.check_picks(self.folder, self._queries)

    def _lost(self, round: int, first_pick: int, what: str) -> UserError:
        """The error that says which lines to delete to train again from a round on, picks of another one included."""
        ends = {ROUNDS: self._rounds_table.line(round)} if round < len(self._rounds) else {}
        i = sum(q.round < first_pick for q in self._queries)
        if i < len(self._queries):
            ends[QUERIES] = self._queries_table.line(i)
        lines = " and ".join(f"line {line} of {name} and any below it" for name, line in ends.items())
        return UserError(
            f"{self.folder}: {what}; restore the files, or delete {lines} to train again from round {round} on"
        )

    def _shown_round(self) -> int:
        """The round that the output files show as far as is known, -1 for none."""
        last = known_last_round(self.folder)
        return last.round if last else -1

    def _drop_uncommitted(self) -> None:
        """Keep the picks of committed rounds, and those that followed the last of them if they are complete."""
        n_done, n_read = len(self._rounds), len(self._queries)
        n_left = self.config["n_train"] - (self._rounds[-1].n_labeled if n_done else 0)
        n_next = sum(q.round == n_done for q in self._queries)
        complete = n_done > 0 and n_next == min(self.config["n_query"], n_left)
        self._queries = [q for q in self._queries if n_done > 0 and q.round < n_done + complete]
        if n_picks := n_read - len(self._queries):
            warn(f"{self.folder}: dropped what was not committed whole ({n_picks} picks)")
        self._queries_table = _head(self._queries_table, len(self._queries))

    def rounds(self) -> list[Round]:
        """The committed rounds, 0 first."""
        return list(self._rounds)

    def queries(self) -> list[Query]:
        """The picks of the committed rounds, in order; the last round's may be missing if no query followed it."""
        return list(self._queries)

    def commit(self, round: Round, queries: Sequence[Query]) -> None:
        """Add a round and the picks that followed it, picks first; the round counts once its row is written.

        A round that is committed already keeps its metrics and gains its picks, as when a finished run is continued.

        Raises:
            UserError: the disk is full or the folder cannot be written. The round does not count then.
        """
        cells = round.cells()
        if round.round < len(self._rounds):
            round = replace(self._rounds[round.round], query_seconds=round.query_seconds)
            *_, old = _head(self._rounds_table, round.round + 1).records()
            cells = {**old, "query_seconds": seconds_text(round.query_seconds)}
        try:
            round_of(cells)
        except ValueError as e:
            raise UserError(f"round {round.round} is not committed: {e}") from e
        queries_table = self._queries_table.extended(QUERY_COLUMNS, (q.cells() for q in queries))
        rounds_table = _head(self._rounds_table, round.round).extended(_columns(round), [cells])
        self._restore()
        if self._shown_round() >= round.round:  # the row that it records is replaced
            self.write(LAST_ROUND, LastRound(round.round - 1, {}).text())
        self.write(QUERIES, queries_table.text())
        self.write(ROUNDS, rounds_table.text())
        self._queries_table, self._queries = queries_table, [*self._queries, *queries]
        self._rounds_table, self._rounds = rounds_table, [*self._rounds[: round.round], round]

    def _restore(self) -> None:
        """Write again what a run cannot do without and somebody deleted while it was running."""
        if self.folder.is_dir() and not (self.folder / CONFIG).exists():
            warn(f"{self.folder / CONFIG} was deleted while the run was going on and is written again")
            self.write(CONFIG, json_text(self.config))
        if not (self.folder / LAST_ROUND).exists():  # files of an older version show the last row
            self.write(LAST_ROUND, LastRound(len(self._rounds) - 1, {}).text())

    def write_outputs(self, round: int, contents: Mapping[str, str | bytes]) -> None:
        """Replace the files that show the last round, by name, and last_round.json after them.

        Args:
            round: the round that they show; it is committed.
            contents: of each of OUTPUTS.
        """
        digests = {}
        for name, content in contents.items():
            data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
            digests[name] = digest(data)
            self.write(name, data)
        row, picks = row_digest(self._rounds[round]), picks_digest(self._queries, round)
        self.write(LAST_ROUND, LastRound(round, digests, row, picks).text())

    def outputs_defect(self, rounds: Collection[int]) -> str:
        """What is wrong with these files; empty if they are whole and show one of some rounds."""
        return defect(self.folder, rounds)

    def write(self, name: str, content: str | bytes) -> None:
        """Replace one file of the folder, atomically.

        Raises:
            UserError: the disk is full, or the folder cannot be written or is gone.
        """
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} was deleted or moved while the run was going on; start it again")
        write_atomic(self.folder / name, content)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Record this start in environment.json; earlier starts are kept under "earlier"."""
        path = self.folder / ENVIRONMENT
        last = read_environment(self.folder, lambda _: warn(f"{path} was damaged and is rewritten"))
        earlier = last.pop("earlier", [])
        self.write(ENVIRONMENT, json_text({**environment, "earlier": [*earlier, *([last] if last else [])]}))

    def write_n_round(self, n_round: int) -> None:
        """Record in environment.json how many rounds were requested last: reports use so many of a longer run."""
        last = read_environment(self.folder)
        if last.get("n_round", len(self._rounds) - 1) != n_round:
            self.write(ENVIRONMENT, json_text({**last, "n_round": n_round}))

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.close()


def _columns(round: Round) -> list[str]:
    """The columns that a new row fills."""
    return [*round_columns(), *(c for c in validation_columns() if c in round.metrics), CHECK]


def _head(table: Table, n: int) -> Table:
    """The first `n` rows."""
    return Table(table.columns, table.rows[:n])
