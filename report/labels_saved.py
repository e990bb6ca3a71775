"""How many labels a strategy saves against RandomSampling: a signed estimate and its confidence interval.

The interval inverts a test, after Fieller, "Some problems in interval estimation", Journal of the Royal Statistical
Society B, 1954: it holds every number of labels that a paired t-test over the seeds does not rule out. A bootstrap over
so few seeds is too narrow: see docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from report.statistics import TIE, Estimate, critical_t
from runs.reading import Floats


def labels_to_reach(n_labeled: NDArray[np.int64], values: Floats, target: float) -> float:
    """Labels at which a curve first reaches a value, interpolated between rounds; infinite when it never does."""
    above = np.flatnonzero(values >= target - TIE)
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(n_labeled[0])
    return float(np.interp(target, values[i - 1 : i + 1], n_labeled[i - 1 : i + 1]))


def labels_saved(n_labeled: NDArray[np.int64], a: Floats, b: Floats, resolution: float = 0.0) -> Estimate:
    """Labels that `b` needs to first reach the lower of the two final means, minus those that `a` needs.

    Both are read off the mean curves. Negative when `a` needs more labels. Exchanging `a` and `b` changes the sign and
    nothing else, so with no true difference it is as often below 0 as above.

    The interval holds the estimate and every x for which a paired t-test does not tell `a` with x labels less than in
    the last round from `b` in the last round (for x < 0: `b` with -x labels less from `a`). Where the true curves rise
    it covers the true value with 95 %, and with more where noise hides their rise. A single seed gives no interval.

    Args:
        n_labeled: labels of each round. Shape (R,).
        a: curves of the strategy, higher is better. Shape (S, R), a row a seed.
        b: curves of RandomSampling, the same seeds in the same order. Shape (S, R).
        resolution: the smallest standard deviation to believe of paired differences.
    """
    means = a.mean(axis=0), b.mean(axis=0)
    target = min(float(mean[-1]) for mean in means)
    needed = [labels_to_reach(n_labeled, mean, target) for mean in means]
    saved = needed[1] - needed[0]
    if len(a) < 2:
        return Estimate(saved, float("nan"), float("nan"))
    less = (n_labeled[-1] - n_labeled).astype(np.float64)
    x = np.concatenate([-less[:-1], less[::-1]])
    difference = np.concatenate([(a[:, -1:] - b)[:, :-1], (a - b[:, -1:])[:, ::-1]], axis=1)
    possible = np.append(_not_rejected(x, difference, resolution), saved)
    return Estimate(saved, float(possible.min()), float(possible.max()))


def _not_rejected(x: Floats, difference: Floats, resolution: float) -> Floats:
    """The ends of all ranges of x in which the mean difference is within its critical number of standard errors of 0.

    Between two columns the differences are interpolated, so mean**2 - factor * variance is a quadratic of the position.

    Args:
        x: ascending. Shape (K,).
        difference: at each x. Shape (S, K).
        resolution: the smallest standard deviation to believe.
    """
    factor = critical_t(len(difference)) ** 2 / len(difference)
    mean = difference.mean(axis=0)
    apart = difference - mean
    ends = []
    for variance, covariance in (
        ((apart**2).sum(axis=0) / (len(apart) - 1), (apart[:, :-1] * apart[:, 1:]).sum(axis=0) / (len(apart) - 1)),
        (np.full(len(x), resolution**2), np.full(len(x) - 1, resolution**2)),
    ):
        excess = mean**2 - factor * variance
        ends.append(x[excess <= 0])
        middle = mean[:-1] * mean[1:] - factor * covariance
        for share in _roots(excess[:-1] - 2 * middle + excess[1:], middle - excess[:-1], excess[:-1]):
            inside = (share >= 0) & (share <= 1)
            ends.append(x[:-1][inside] + share[inside] * np.diff(x)[inside])
    return np.concatenate(ends)


def _roots(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats]:
    """The two roots of a t² + 2 b t + c, NaN or infinite where there is none. Shapes as `a`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -(b + np.copysign(np.sqrt(b * b - a * c), b))
        return q / a, c / q
