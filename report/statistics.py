"""Means, intervals and tests of learning curves: pure functions of arrays.

scipy is imported where it is needed: scipy.stats takes most of a second to import, and plot.py needs neither.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runs.reading import Floats

LEVEL = 0.05  # of every test, and 1 - LEVEL of every interval
TIE = 1e-9  # rounds.csv has six digits, so a smaller difference is rounding


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % confidence interval, which are NaN for a single value."""

    mean: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def aubc(n_labeled: NDArray[np.int64], values: Floats) -> float:
    """Area under the budget curve: the mean over the labels by the trapezoid rule, in the unit of `values`.

    A single round has no width: its value is returned. Rounds without a value are skipped.
    """
    known = np.isfinite(values)
    if known.sum() < 2:
        return float(values[known][0]) if known.any() else float("nan")
    x = n_labeled[known]
    return float(np.trapezoid(values[known], x) / (x[-1] - x[0]))


def critical_t(n: int) -> float:
    """How many standard errors a mean of `n` values must be from 0 to be significant (Student's t, two-sided)."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - LEVEL / 2))


def mean_heights(n_labeled: NDArray[np.int64], curves: Floats) -> Floats:
    """AUBC of whole curves. Shape (...), from (..., R)."""
    if len(n_labeled) < 2:
        return curves[..., 0]
    area: Floats = np.trapezoid(curves, n_labeled) / (n_labeled[-1] - n_labeled[0])
    return area


def spread(values: Floats, resolution: float = 0.0) -> Floats:
    """Sample standard deviation of each column, at least the resolution. Shapes (R,), from (S, R) with S >= 2.

    Differences of a measure that moves in steps may be equal by chance, and no spread is then no certainty: see
    docs/statistics.md.
    """
    return np.maximum(values.std(axis=0, ddof=1), resolution)


def interval(values: Floats, resolution: float = 0.0) -> Estimate:
    """Mean of independent values with its confidence interval from Student's t."""
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"), float("nan"))
    mean, error = float(values.mean()), float(spread(values, resolution)) / len(values) ** 0.5
    half = critical_t(len(values)) * error if error >= TIE else 0.0
    return Estimate(mean, mean - half, mean + half)


def paired_p(a: Floats, b: Floats, resolution: float = 0.0) -> Floats:
    """Two-sided p-values of paired t-tests, one a column; NaN for a single pair.

    Where all differences are equal and no resolution is known, there is no spread to test against: p is then 1 if they
    are 0, else 2^(1 - S), the chance that S fair signs are equal.

    Args:
        a: values of one strategy. Shape (S, R), a row a seed.
        b: values of the other, the same seeds in the same order. Shape (S, R).
        resolution: the smallest standard deviation to believe of the differences; 0 where none is known.

    Returns:
        Shape (R,).
    """
    from scipy import special

    difference, n = a - b, len(a)
    if n < 2:
        return np.full(a.shape[1], np.nan)
    mean = np.abs(difference.mean(axis=0))
    sd = np.maximum(spread(difference, resolution), TIE)
    p: Floats = 2 * special.stdtr(n - 1, -mean * np.sqrt(n) / sd)
    flat = (np.ptp(difference, axis=0) < TIE) & (resolution < TIE)
    return np.where(mean <= TIE, 1.0, np.where(flat, 0.5 ** (n - 1), p))


def holm(p: Floats) -> Floats:
    """p-values adjusted for the number of tests: the chance of one or more false alarms is at most the level.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    NaN is no test and stays NaN.
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def significant(a: Floats, b: Floats, resolution: float = 0.0) -> tuple[int, int]:
    """Rounds after the first in which `a` is significantly above `b`, and in which it is below.

    Args:
        a: values of one strategy. Shape (S, R), a row a seed.
        b: values of the other, the same seeds in the same order. Shape (S, R).
        resolution: as of `paired_p`.
    """
    different = paired_p(a[:, 1:], b[:, 1:], resolution) < LEVEL
    above = a[:, 1:].mean(axis=0) > b[:, 1:].mean(axis=0)
    return int((different & above).sum()), int((different & ~above).sum())


class Ranking(NamedTuple):
    """Mean ranks over datasets, 1 the best, and the difference of ranks that is significant.

    Attributes:
        labels: strategies that every dataset has.
        ranks: mean rank of each. Shape (K,).
        p: of Friedman's test that all strategies are equal.
        critical_difference: of two mean ranks, after Nemenyi.
        n_datasets: how many datasets were ranked.
    """

    labels: list[str]
    ranks: Floats
    p: float
    critical_difference: float
    n_datasets: int


def ranks_of(scores: Floats) -> Floats:
    """Rank of each score within its row, 1 the highest; equal scores share their mean rank. Shape as `scores`."""
    from scipy import stats

    ranks: Floats = stats.rankdata(-scores, axis=-1)
    return ranks


def nemenyi(k: int, n: int) -> float:
    """The smallest significant difference of mean ranks of `k` strategies over `n` datasets.

    Source: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006, section 3.2.2.
    """
    from scipy import stats

    q = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * n)))


def rank_over_datasets(labels: list[str], scores: Floats) -> Ranking:
    """Friedman's test and Nemenyi's critical difference.

    Args:
        labels: strategies. Shape (K,), K >= 3.
        scores: what is ranked, higher is better, a row a dataset. Shape (N, K), N >= 2.
    """
    from scipy import stats

    ranks = ranks_of(scores)
    p = 1.0 if (ranks == ranks[:, :1]).all() else float(stats.friedmanchisquare(*scores.T).pvalue)
    return Ranking(labels, ranks.mean(axis=0), p, nemenyi(len(labels), len(scores)), len(scores))


def overlap(a: set[int], b: set[int]) -> float:
    """Jaccard index of two sets of images: those in both, as a share of those in either."""
    common = len(a & b)
    return common / max(len(a) + len(b) - common, 1)


def chance_overlap(n_picked: int, n_left: int) -> float:
    """The Jaccard index to expect of two random draws of `n_picked` among `n_left`."""
    return n_picked / max(2 * n_left - n_picked, 1)
