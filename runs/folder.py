"""The folder of one run while it is being written: held by one process, committed round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from files import Table, lock_file, read_csv, write_atomic, writing
from runs.format import (
    CONFIG,
    ENVIRONMENT,
    KEY_COLUMNS,
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
    rounds_of,
    run_path,
    seconds_text,
)
from utils import UserError, warn


class RunFolder:
    """The files of one run, `root/<dataset>/<strategy>/seed<seed>-<hash8>/`, held by this process alone.

    Opening it drops what a killed process left half written; `commit` adds a round permanently. Text that is committed
    is never reformatted, and columns that this version does not know are kept.

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

    def _drop_uncommitted(self) -> None:
        """Keep the longest run of rounds whose picks are complete, and the picks of these rounds."""
        read = len(self._rounds), len(self._queries)
        n_picked = [0] * (len(self._rounds) + 2)
        for q in self._queries:
            if q.round < len(n_picked):
                n_picked[q.round] += 1
        n_labeled = 0
        for r in self._rounds:
            n_labeled += n_picked[r.round]
            if n_labeled != r.n_labeled:
                self._rounds = self._rounds[: r.round]
                break
        n_done = len(self._rounds)
        n_left = self.config["n_train"] - (self._rounds[-1].n_labeled if n_done else 0)
        complete = n_done > 0 and n_picked[n_done] == min(self.config["n_query"], n_left)
        self._queries = [q for q in self._queries if n_done > 0 and q.round < n_done + complete]
        if (len(self._rounds), len(self._queries)) != read:
            n_rounds, n_picks = read[0] - n_done, read[1] - len(self._queries)
            warn(f"{self.folder}: dropped what was not committed whole ({n_rounds} rounds, {n_picks} picks)")
        self._rounds_table = _head(self._rounds_table, n_done)
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
        queries_table = self._queries_table.extended(QUERY_COLUMNS, (q.cells() for q in queries))
        rounds_table = _head(self._rounds_table, round.round).extended(round_columns(), [cells])
        self.write(QUERIES, queries_table.text())
        self.write(ROUNDS, rounds_table.text())
        self._queries_table, self._queries = queries_table, [*self._queries, *queries]
        self._rounds_table, self._rounds = rounds_table, [*self._rounds[: round.round], round]

    def write(self, name: str, content: str | bytes) -> None:
        """Replace one file of the folder, atomically."""
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


def _head(table: Table, n: int) -> Table:
    """The first `n` rows."""
    return Table(table.columns, table.rows[:n])
