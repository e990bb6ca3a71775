"""The runs below a folder: read, told apart, put together and tested; nothing is drawn or printed here."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from utils import METRICS, Round, UserError, read_rounds

BASELINE = "RandomSampling"
MOST_ROUNDS = 1_000_000  # that are still to come; more were never meant
SHARES = ("accuracy", "precision", "recall", "f1", "ece")  # metrics between 0 and 1, shown to people in %

LEVEL = 0.05  # of every test, and 1 - LEVEL of every interval
TIE = 1e-9  # rounds.csv has six digits, so a smaller difference is rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run's folder as it was read.

    Attributes:
        config: config.json, every setting that defines the experiment.
        environment: environment.json; empty when there is none.
        committed: the committed rounds, 0 first; empty for a run that was only started.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    committed: list[Round]

    @property
    def n_round(self) -> int:
        """The rounds of querying that the last start asked for; without an environment.json, those that stand."""
        return self.environment.get("n_round", len(self.committed) - 1)

    @cached_property
    def rounds(self) -> list[Round]:
        """The committed rounds that were asked for, 0 first."""
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
        """Labels of each committed round."""
        return np.array([r.n_labeled for r in self.rounds], np.int64)

    @property
    def complete(self) -> bool:
        """Whether every round that was asked for stands."""
        if not self.rounds:
            return False
        last = self.rounds[-1]
        return last.round >= self.n_round or last.n_labeled >= self.config.get("n_train", float("inf"))

    @cached_property
    def budget(self) -> tuple[int, ...]:
        """Labels of each round, those still to come included."""
        labels = [r.n_labeled for r in self.rounds] or [self.config.get("n_init_labeled", 0)]
        step, limit = self.config.get("n_query", 0), self.config.get("n_train", float("inf"))
        n_round = min(self.n_round, MOST_ROUNDS)
        while step > 0 and len(labels) <= n_round and labels[-1] < limit:
            labels.append(min(labels[-1] + step, limit))
        return tuple(labels)

    def values(self, column: str) -> Floats:
        """One column of rounds.csv; seconds of a query are NaN where no query followed."""
        if column in METRICS:
            return np.array([r.metrics[column] for r in self.rounds])
        values = np.array([getattr(r, column) for r in self.rounds], np.float64)
        if column == "query_seconds" and self.complete:
            values[-1] = np.nan
        return values


@dataclass(frozen=True)
class Setting:
    """The runs that may stand in one table: everything equal but strategy and seed.

    Attributes:
        config: what all its runs share, with n_round and n_labeled (labels of each round).
        runs: by strategy label, RandomSampling first, then by name; seeds ascending, none twice.
        differs: the part of `config` in which the settings of this dataset differ.
    """

    config: dict[str, Any]
    runs: dict[str, list[Run]]
    differs: dict[str, Any]

    @property
    def title(self) -> str:
        """Dataset, budget and network in one line, then what tells this setting from its neighbours."""
        c = self.config
        labels = c["n_labeled"]
        budget = f"{labels[0]:,} labels, trained once"
        if len(labels) > 1:
            budget = f"{labels[0]:,} + {len(labels) - 1} x {labels[1] - labels[0]:,} labels"
        said = ("n_init_labeled", "n_query", "n_round", "n_labeled", "net_name", "dataset_name")
        parts = [c["dataset_name"], budget, *([str(c["net_name"])] if "net_name" in c else [])]
        return ", ".join(parts + [f"{k} {v}" for k, v in self.differs.items() if k not in said])

    def complete(self) -> dict[str, list[Run]]:
        """The finished runs by strategy label; strategies without any are absent."""
        done = {label: [r for r in runs if r.complete] for label, runs in self.runs.items()}
        return {label: runs for label, runs in done.items() if runs}

    def incomplete(self) -> list[tuple[str, Run]]:
        """The unfinished runs with their labels."""
        return [(label, r) for label, runs in self.runs.items() for r in runs if not r.complete]


@dataclass(frozen=True)
class Curve:
    """The mean over seeds of one column.

    Attributes:
        sd: sample standard deviation over the seeds, NaN for one seed. Shape (R,), like n_labeled and mean.
        complete: False when only unfinished runs were there; it then ends where the first of them ends.
    """

    label: str
    n_labeled: NDArray[np.int64]
    mean: Floats
    sd: Floats
    n_seeds: int
    complete: bool


# Reading


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged: {e}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no settings")
    return content


def _check_types(path: Path, content: dict[str, Any], keys: Iterable[str], kind: type) -> None:
    for key in keys:
        if key in content and (not isinstance(content[key], kind) or isinstance(content[key], bool)):
            raise UserError(f"{path} is damaged: {key} is {content[key]!r}")


def read_run(folder: Path) -> Run:
    """Read one run's settings and rounds.

    Raises:
        UserError: a file is damaged, or the settings that tell one run from another are missing.
    """
    path = folder / "config.json"
    config, environment = _read_json(path), _read_json(folder / "environment.json")
    missing = [k for k in ("dataset_name", "strategy_name", "seed") if k not in config]
    if missing:
        raise UserError(f"{path} {'lacks ' + ', '.join(missing) if path.exists() else 'is missing'}: not a run of ours")
    _check_types(path, config, ("dataset_name", "strategy_name"), str)
    _check_types(path, config, ("seed", "n_init_labeled", "n_query", "n_train", "img_size"), int)
    _check_types(path, config, ("strategy_args",), dict)
    _check_types(folder / "environment.json", environment, ("n_round",), int)
    rounds_path = folder / "rounds.csv"
    try:
        rounds = read_rounds(rounds_path)
    except OSError as e:
        raise UserError(f"cannot read {rounds_path}: {e.strerror}") from e
    if not all(0 < r.n_labeled < 2**31 for r in rounds):
        raise UserError(f"{rounds_path} is damaged: n_labeled must be from 1 to 2**31 - 1")
    if any(a.n_labeled >= b.n_labeled for a, b in itertools.pairwise(rounds)):
        raise UserError(f"{rounds_path} is damaged: n_labeled does not grow")
    if not all(np.isfinite(r.metrics[m]) for r in rounds for m in SHARES):
        raise UserError(f"{rounds_path} is damaged: {', '.join(SHARES)} must be numbers")
    return Run(folder, config, environment, rounds)


def is_run(folder: Path) -> bool:
    """Whether a folder holds the files of a run."""
    return any((folder / name).is_file() for name in ("config.json", "rounds.csv"))


def find_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Read every run below a folder, hidden folders left out, in the order of their paths.

    Returns:
        The runs, and one line about each folder that could not be read as a run.

    Raises:
        UserError: the folder is missing, or nothing below it could be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of results, such as results/CIFAR10")
    folders, seen = [], set()
    for here, below, _ in os.walk(root, followlinks=True):
        below[:] = sorted(b for b in below if not b.startswith("."))
        real = os.path.realpath(here)
        if real in seen:  # a link back up would go on for ever
            below.clear()
        elif is_run(Path(here)):
            folders.append(Path(here))
        seen.add(real)
    runs, problems = [], []
    for folder in sorted(folders):
        try:
            runs.append(read_run(folder))
        except UserError as e:
            problems.append(f"{e}; left out")
    if not runs:
        raise UserError(problems[0] if problems else f"{root}: no run below it (no config.json, no rounds.csv)")
    return runs, problems


def read_confusion(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Class names and counts of a confusion_matrix.csv, row = true class, column = predicted class. Shape (C, C).

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as f:
            (_, *classes), *rows = [row for row in csv.reader(f) if row]
        counts = np.array([[int(v) for v in row[1:]] for row in rows], np.int64)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a run writes it when a round is done") from None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, OverflowError, csv.Error) as e:
        raise UserError(f"{path} is damaged: {e}") from e
    if not classes or [row[0] for row in rows] != classes or counts.shape != (len(classes), len(classes)):
        raise UserError(f"{path} is damaged: its rows and columns are not the same classes")
    return classes, counts


# Putting together


def strategy_labels(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """A name for each strategy with its arguments; arguments are said only where they tell two apart."""
    labels = {}
    for name in sorted({r.strategy[0] for r in runs}):
        variants = sorted({r.strategy[1] for r in runs if r.strategy[0] == name})
        parsed = [json.loads(v) for v in variants]
        keys = [k for k in sorted({k for p in parsed for k in p}) if any(p.get(k) != parsed[0].get(k) for p in parsed)]
        for variant, args in zip(variants, parsed, strict=True):
            told = ", ".join(f"{k}={args[k]}" for k in keys if k in args)
            labels[name, variant] = f"{name}({told})" if keys else name
    return labels


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(k for c in configs for k in c)
    return [k for k in keys if any(c.get(k) != configs[0].get(k) for c in configs)]


def group(runs: Sequence[Run]) -> tuple[list[Setting], list[str]]:
    """Sort runs into settings: no two runs of one setting differ in anything but strategy and seed.

    Returns:
        The settings by dataset, and one line about each run that is there twice.
    """
    labels, problems = strategy_labels(runs), []
    by_key: dict[str, dict[tuple[str, int], Run]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: (not r.complete, r.folder)):
        own = {k: v for k, v in run.config.items() if k not in ("strategy_name", "strategy_args", "seed")}
        config = {**own, "n_round": len(run.budget) - 1, "n_labeled": run.budget}
        key = json.dumps(config, sort_keys=True)
        configs[key] = config
        first = by_key.setdefault(key, {}).setdefault((labels[run.strategy], run.seed), run)
        if first is not run:
            problems.append(f"{run.folder} is the same experiment as {first.folder}; left out")
    settings = []
    for key in sorted(by_key, key=lambda k: (configs[k]["dataset_name"], configs[k]["n_labeled"], k)):
        config = configs[key]
        neighbours = [c for c in configs.values() if c["dataset_name"] == config["dataset_name"]]
        by_label: dict[str, list[Run]] = {}
        for label, seed in sorted(by_key[key], key=lambda k: (k[0] != BASELINE, k)):
            by_label.setdefault(label, []).append(by_key[key][label, seed])
        settings.append(Setting(config, by_label, {k: config.get(k) for k in _differing(neighbours)}))
    return settings, problems


def differences(settings: Sequence[Setting]) -> list[str]:
    """One line for each way in which settings of one dataset differ, with the numbers of the settings, from 1."""
    lines = []
    for dataset in dict.fromkeys(s.config["dataset_name"] for s in settings):
        numbered = [(i, s) for i, s in enumerate(settings, 1) if s.config["dataset_name"] == dataset]
        for key in numbered[0][1].differs:
            if key == "n_labeled" and numbered[0][1].differs.keys() & {"n_init_labeled", "n_query", "n_round"}:
                continue  # it follows from these
            values: dict[str, list[str]] = {}
            for i, s in numbered:
                values.setdefault(str(s.differs[key]), []).append(str(i))
            lines.append(f"{dataset}: {key} is " + ", ".join(f"{v} in {' and '.join(n)}" for v, n in values.items()))
    return lines


def curve(label: str, runs: Sequence[Run], column: str) -> Curve | None:
    """The mean of a column over the finished runs; if none is finished, over the rounds that all started ones have."""
    done = [r for r in runs if r.complete]
    used = done or [r for r in runs if r.rounds]
    if not used:
        return None
    length = min(len(r.rounds) for r in used)
    values = np.stack([r.values(column)[:length] for r in used])
    sd = values.std(axis=0, ddof=1) if len(used) > 1 else np.full(length, np.nan)
    return Curve(label, used[0].n_labeled[:length], values.mean(axis=0), sd, len(used), bool(done))


def aubc(n_labeled: NDArray[np.int64], values: Floats) -> float:
    """Area under the budget curve: mean height by the trapezoid rule over the labels, in the unit of `values`.

    A single round has no width: its height is the answer. Rounds without a value are passed over.
    """
    known = np.isfinite(values)
    if known.sum() < 2:
        return float(values[known][0]) if known.any() else float("nan")
    x = n_labeled[known]
    return float(np.trapezoid(values[known], x) / (x[-1] - x[0]))


# Statistics


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % interval, which are NaN for a single value."""

    mean: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def interval(values: Floats) -> Estimate:
    """Mean of independent values with its interval from Student's t."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    sem = float(stats.sem(values))
    if sem < TIE:
        return Estimate(mean, mean, mean)
    low, high = stats.t.interval(1 - LEVEL, len(values) - 1, mean, sem)
    return Estimate(mean, float(low), float(high))


def paired_p(a: Floats, b: Floats) -> Floats:
    """Two-sided p-values of paired t-tests, one a column; NaN for a single pair.

    Where all differences are equal there is no spread to test against: p is then 1 if they are 0 or only two, else 0.

    Args:
        a: values of one strategy. Shape (S, R), a row a seed.
        b: values of the other, the same seeds in the same order. Shape (S, R).
    """
    difference = a - b
    p = np.full(a.shape[1], np.nan)
    if len(a) < 2:
        return p
    flat = np.ptp(difference, axis=0) < TIE
    apart = (np.abs(difference.mean(axis=0)) > TIE) & (len(a) > 2)
    p[flat] = np.where(apart, 0.0, 1.0)[flat]
    if not flat.all():
        p[~flat] = stats.ttest_rel(a[:, ~flat], b[:, ~flat], axis=0).pvalue
    return p


def holm(p: Floats) -> Floats:
    """p-values adjusted for the number of comparisons, so that any false alarm at all has the level's probability.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    NaN is no comparison and stays NaN.
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def labels_to_reach(n_labeled: NDArray[np.int64], values: Floats, target: float) -> float:
    """Labels at which a curve first comes up to a height, interpolated between rounds; infinite when it never does."""
    above = np.flatnonzero(values >= target - TIE)
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(n_labeled[0])
    return float(np.interp(target, values[i - 1 : i + 1], n_labeled[i - 1 : i + 1]))


class Ranking(NamedTuple):
    """Average ranks over datasets, 1 the best, and what difference of them is more than chance.

    Attributes:
        labels: strategies that every dataset has.
        ranks: average rank of each. Shape (K,).
        p: of Friedman's test that all are alike.
        critical_difference: of two average ranks, after Nemenyi.
        n_datasets: how many datasets were ranked.
    """

    labels: list[str]
    ranks: Floats
    p: float
    critical_difference: float
    n_datasets: int


def nemenyi(k: int, n: int) -> float:
    """The difference of average ranks of `k` strategies over `n` datasets beyond which two of them differ.

    Source: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006, section 3.2.2.
    """
    q = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * n)))


def rank_over_datasets(labels: list[str], heights: Floats) -> Ranking:
    """Friedman's test and Nemenyi's critical difference.

    Args:
        labels: strategies. Shape (K,), K >= 3.
        heights: what is ranked, more is better, a row a dataset. Shape (N, K), N >= 2.
    """
    ranks = stats.rankdata(-heights, axis=1)
    p = 1.0 if (ranks == ranks[:, :1]).all() else float(stats.friedmanchisquare(*heights.T).pvalue)
    return Ranking(labels, ranks.mean(axis=0), p, nemenyi(len(labels), len(heights)), len(heights))


def significant(a: Floats, b: Floats) -> tuple[int, int]:
    """Rounds after the first in which `a` is significantly above `b`, and in which it is below."""
    different = paired_p(a[:, 1:], b[:, 1:]) < LEVEL
    above = a[:, 1:].mean(axis=0) > b[:, 1:].mean(axis=0)
    return int((different & above).sum()), int((different & ~above).sum())


# For people


def shown(value: float, column: str, digits: int = 2) -> str:
    """A value of a column for people: shares in %, others with three significant digits."""
    if not np.isfinite(value):
        return "-"
    return f"{100 * value:.{digits}f}" if column in SHARES else f"{value:.3g}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their header: those that begin with a letter to the left, numbers to the right."""
    cells = [list(header), *[list(r) for r in rows]]
    widths = [max(len(r[j]) for r in cells) for j in range(len(header))]
    words = [
        all(not r[j][:1].isdigit() for r in rows) and any(r[j][:1].isalpha() for r in rows) for j in range(len(header))
    ]
    words[0] = True
    lines = []
    for row in cells:
        sides = [c.ljust(w) if word else c.rjust(w) for c, w, word in zip(row, widths, words, strict=True)]
        lines.append("  ".join(sides).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths).rstrip())
    return "\n".join(lines)
