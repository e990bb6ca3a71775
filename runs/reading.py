"""Finding and reading the runs below a folder, whatever version of the program wrote them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runs.confusion import Confusion, read_confusion
from runs.format import (
    CONFIG,
    CONFUSION,
    LABELS,
    QUERIES,
    ROUNDS,
    Round,
    check_type,
    metric_of,
    read_config,
    read_environment,
    read_queries,
    read_rounds,
)
from runs.outputs import known_last_round, read_last_round
from utils import UserError, warn

Floats = NDArray[np.float64]

MAX_ROUNDS = 1_000_000  # upper bound on the rounds of a budget: a larger n_round is a typo
SETTING_TYPES: dict[str, type] = {
    "dataset_name": str,
    "strategy_name": str,
    "seed": int,
    "n_init_labeled": int,
    "n_query": int,
    "n_train": int,
    "img_size": int,
    "strategy_args": dict,
    "features": str,
    "features_size": int,
    "n_val": int,
    "imbalance": float,
}


@dataclass(frozen=True)
class Run:
    """One run's folder as it was read.

    Attributes:
        config: config.json, every setting that defines the experiment.
        environment: environment.json; empty when there is none, or a damaged one.
        committed: the committed rounds, 0 first; empty for a run that was only started.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    committed: list[Round]

    @property
    def n_round(self) -> int:
        """The rounds of querying that were requested last; without an environment.json, those that are committed."""
        return self.environment.get("n_round", len(self.committed) - 1)

    @cached_property
    def rounds(self) -> list[Round]:
        """The committed rounds of those requested last, 0 first."""
        return self.committed[: max(self.n_round, 0) + 1]

    @property
    def seed(self) -> int:
        """Seed of the run: runs of equal seed are paired."""
        return int(self.config["seed"])

    @property
    def strategy(self) -> tuple[str, str]:
        """Name and arguments of the strategy, the arguments as JSON."""
        return self.config["strategy_name"], json.dumps(self.config.get("strategy_args", {}), sort_keys=True)

    @cached_property
    def n_labeled(self) -> NDArray[np.int64]:
        """Labels of each of the rounds."""
        return np.array([r.n_labeled for r in self.rounds], np.int64)

    @property
    def complete(self) -> bool:
        """Whether every requested round is committed, or the pool is used up."""
        if not self.rounds:
            return False
        last = self.rounds[-1]
        return last.round >= self.n_round or last.n_labeled >= self.config.get("n_train", float("inf"))

    @cached_property
    def budget(self) -> tuple[int, ...]:
        """Labels of each round, those still to come included."""
        labels = [r.n_labeled for r in self.rounds] or [self.config.get("n_init_labeled", 0)]
        step, limit = self.config.get("n_query", 0), self.config.get("n_train", float("inf"))
        n_round = min(self.n_round, MAX_ROUNDS)
        while step > 0 and len(labels) <= n_round and labels[-1] < limit:
            labels.append(min(labels[-1] + step, limit))
        return tuple(labels)

    def values(self, column: str) -> Floats:
        """One column of rounds.csv; NaN where a metric was not measured, and for the query of a round without one."""
        if metric_of(column):
            return np.array([r.metrics.get(column, math.nan) for r in self.rounds], np.float64)
        values = np.array([getattr(r, column) for r in self.rounds], np.float64)
        if column == "query_seconds" and self.complete:
            values[-1] = np.nan
        return values


def read_run(folder: Path, report: Callable[[str], None] = warn) -> Run:
    """Read one run's settings and rounds.

    Args:
        folder: the run's folder.
        report: receives one line about a damaged environment.json, without which the run can be used.

    Raises:
        UserError: another file is damaged, or the settings that tell one run from another are missing.
    """
    path = folder / CONFIG
    config = read_config(folder) or {}
    missing = [k for k in ("dataset_name", "strategy_name", "seed") if k not in config]
    if missing:
        raise UserError(f"{path} {'lacks ' + ', '.join(missing) if path.exists() else 'is missing'}: not a run of ours")
    for key, kind in SETTING_TYPES.items():
        check_type(path, config, key, kind)
    rounds = read_rounds(folder / ROUNDS)
    if shown := known_last_round(folder):
        shown.check_row(folder, rounds)
    return Run(folder, config, read_environment(folder, report), rounds)


def is_run(folder: Path) -> bool:
    """Whether a folder holds the files of a run."""
    return any((folder / name).is_file() for name in (CONFIG, ROUNDS))


def find_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Read every run below a folder, hidden folders and projects of label.py left out, in the order of their paths.

    Returns:
        The runs, and one line about each damaged file, of a run that was left out or of an environment.json.

    Raises:
        UserError: the folder is missing, or nothing below it could be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of results, such as results/CIFAR10")
    folders, seen = [], set()
    for here, below, _ in os.walk(root, followlinks=True):
        below[:] = sorted(b for b in below if not b.startswith("."))
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above it would never end
            below.clear()
        elif is_run(Path(here)) and not (Path(here) / LABELS).is_file():
            folders.append(Path(here))
        seen.add(real)
    runs: list[Run] = []
    problems: list[str] = []
    for folder in sorted(folders):
        try:
            runs.append(read_run(folder, problems.append))
        except UserError as e:
            problems.append(f"{e}; left out")
    if not runs:
        raise UserError(problems[0] if problems else f"{root}: no run below it (no {CONFIG}, no {ROUNDS})")
    return runs, problems


def shown_confusion(run: Run) -> tuple[Confusion, Round | None]:
    """A run's confusion matrix and the committed round that it shows; of an older version's files, the last one.

    Raises:
        UserError: the file is missing, damaged, or of a round that is not committed.
    """
    path = run.folder / CONFUSION
    last = read_last_round(run.folder)
    if last is None:
        return read_confusion(path), run.committed[-1] if run.committed else None
    if not 0 <= last.round < len(run.committed):
        raise UserError(f"{path} shows no committed round; the run's command makes it again")
    return read_confusion(path, last.files.get(CONFUSION, "")), run.committed[last.round]


class Picks(NamedTuple):
    """What a run labeled, in order: round, index, path and class name of each image."""

    rounds: NDArray[np.int64]
    idxs: NDArray[np.int64]
    paths: list[str]
    labels: list[str]


def read_picks(run: Run) -> Picks:
    """Read a run's queries.csv, as far as the rounds that were requested last.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = run.folder / QUERIES
    last = run.environment.get("n_round", math.inf)
    every = read_queries(path)
    shown = known_last_round(run.folder)
    if shown and shown.round < len(run.committed):
        shown.check_picks(run.folder, every)
    queries = [q for q in every if q.round <= last]
    rounds, idxs = (np.array([getattr(q, c) for q in queries], np.int64) for c in ("round", "index"))
    if not queries or any(np.sum(rounds <= r.round) != r.n_labeled for r in run.rounds):
        raise UserError(f"{path} is missing or damaged: its picks are not as many as the labels in {ROUNDS}")
    return Picks(rounds, idxs, [q.path for q in queries], [q.label for q in queries])
