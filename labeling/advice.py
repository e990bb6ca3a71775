"""When to stop labeling: what the trainings so far say, and how sure that is. Pure functions of numbers.

Three signs, each of which may be "cannot tell yet":

- predictions that no longer change from one network to the next (Bloodgood and Vijay-Shanker, CoNLL 2009);
- the gain in accuracy over the last trainings. They are measured on the same images: which of them are right before and
  after gives a paired interval; where only counts are known, the one of independent samples is used, which is wider;
- a forecast of the labels that a target accuracy needs, from a power law.

The intervals hold for one look. Who looks after every training and stops at the first good sign is too optimistic:
`benchmarks/advice.py` measures by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of the intervals of accuracies and gains
WINDOW = 3  # trainings that a gain is measured over, and comparisons that must agree. Source: Bloodgood, table 1
STABLE = 0.99  # mean kappa of predictions that have stabilised. Source: the same
FLAT = 0.01  # gain in accuracy for 100 labels that is not worth them
FEWEST_ROUNDS, FEWEST_VALIDATION = 4, 30  # that a forecast is made from
RECENT = 2.5  # a forecast uses trainings with at least 1 / RECENT of the labels: curves are power laws in parts alone
MOST_ROUNDS = 24  # that it is computed from
FARTHEST = 3  # times the labels so far: what lies beyond is no forecast
TAIL = 0.05  # of the posterior on either side of the interval; a promise of 80 %, as curves are not power laws
UNLIKELY = 0.01  # posterior of reaching the target within FARTHEST, at which it is called unlikely

Verdict = Literal["stop", "go on", "cannot tell yet"]
Outlook = Literal["reached", "forecast", "unlikely", "cannot tell yet"]


class Point(NamedTuple):
    """One training and its measurement on validation images.

    Attributes:
        round: from 0.
        n_labeled: labels that it was trained on.
        n_val: validation images; may grow from training to training.
        n_correct: how many of them were right.
        kappa: agreement of its predictions with those of the training before, on other images; None for the first.
        correct: whether each validation image was right, by any key that stays the same; None where not known.
    """

    round: int
    n_labeled: int
    n_val: int
    n_correct: int
    kappa: float | None = None
    correct: Mapping[int, bool] | None = None


class Improvement(NamedTuple):
    """A change in accuracy with the ends of its interval, as shares, and the labels that it took."""

    value: float
    low: float
    high: float
    n_labels: int


class Forecast(NamedTuple):
    """Labels that a target accuracy needs in all, those that are there included.

    Attributes:
        outlook: reached, so that no more are needed; forecast; unlikely within FARTHEST times the labels so far; or
            cannot tell yet.
        low, expected, high: the interval and the median of the forecast; None with every other outlook.
    """

    outlook: Outlook
    low: int | None = None
    expected: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Attributes:
        verdict: of all signs together.
        text: the reasons, a sentence each, the verdict first.
        accuracy: of the last training on validation images, with its interval; None without validation images.
        agreement: mean kappa of the last comparisons; None while there are fewer than WINDOW.
        gain: over the last WINDOW trainings; None while there are not so many.
        forecast: of the labels for the target; None without a target.
    """

    verdict: Verdict
    text: list[str]
    accuracy: tuple[float, float, float] | None
    agreement: float | None
    gain: Improvement | None
    forecast: Forecast | None


def wilson(n_correct: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share. Source: Wilson, "Probable inference", JASA 1927.

    Args:
        n_correct: how many of `n`.
        n: 0 or more; without any, the interval is all that is possible.
        level: chance that it covers the true share.
    """
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + level) / 2), n_correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def kappa(a: NDArray[np.int64], b: NDArray[np.int64], n_classes: int) -> float:
    """Cohen's kappa of two sets of predictions: agreement beyond chance, 1 where all agree.

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960. Where both predict one class alone it is not
    defined; it is 1 here, as they agree.

    Args:
        a: classes, 0 to C - 1. Shape (n,), n >= 1.
        b: of the same images. Shape (n,).
        n_classes: C.
    """
    observed = float((a == b).mean())
    shares = [np.bincount(x, minlength=n_classes) / len(x) for x in (a, b)]
    by_chance = float(shares[0] @ shares[1])
    return 1.0 if observed == 1 else (observed - by_chance) / (1 - by_chance)


def gain_between(before: Point, after: Point) -> Improvement:
    """The change in accuracy from one training to a later one, with its interval.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 1998, method 10, on the images that both know. Where they do not say which images were
    right, the correlation counts as 0: right answers of successive networks are positively correlated, so the interval
    is then too wide, never too narrow.
    """
    pairs = [
        (old, after.correct[i]) for i, old in (before.correct or {}).items() if after.correct and i in after.correct
    ]
    phi, n = 0.0, len(pairs)
    counts = [(before.n_correct, before.n_val), (after.n_correct, after.n_val)]
    if pairs:
        both, lost, won = (pairs.count(kind) for kind in ((True, True), (True, False), (False, True)))
        neither = n - both - lost - won
        counts = [(both + lost, n), (both + won, n)]
        phi = _phi(both, lost, won, neither)
    (p1, p2), ((l1, u1), (l2, u2)) = [k / m for k, m in counts], [wilson(k, m) for k, m in counts]
    low = math.sqrt(max(0.0, (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2))
    high = math.sqrt(max(0.0, (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2))
    return Improvement(p2 - p1, p2 - p1 - low, p2 - p1 + high, after.n_labeled - before.n_labeled)


def _phi(both: int, lost: int, won: int, neither: int) -> float:
    """The correlation of two yes-no answers, with Newcombe's correction for continuity."""
    n = both + lost + won + neither
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    excess: float = both * neither - lost * won
    excess = max(excess - n / 2, 0.0) if excess > 0 else excess
    return excess / math.sqrt(margins) if margins else 0.0


def forecast(history: Sequence[Point], target: float) -> Forecast:
    """The labels that a target accuracy needs, from a power law: error = c + (e - c) (n / n_now)^-b.

    The posterior of its parameters over a grid, with a uniform prior of e, the error now, and of c / e, and a
    log-uniform one of b from 0.1 to 4. The measurements are correlated, as they are made on the same images: the luck
    of these images moves all of them together. How much is not known, so it is averaged over, and so is how much a
    network is better or worse than its curve by chance.

    Measured on 2,400 simulated projects (benchmarks/advice.py): curves of three shapes, 5 and 12 trainings, 100 and 400
    validation images, targets up to 7 points away. A forecast was given in 15 %; its interval held the truth in 92 % of
    these, 73 % in the worst of the 12 settings. "Unlikely" was said in 2 % and wrong in 4 of 51.

    Args:
        history: the trainings.
        target: an accuracy, above 0 and below 1.
    """
    known = [p for p in history if p.n_val > 0]
    if known and wilson(known[-1].n_correct, known[-1].n_val)[0] >= target:
        return Forecast("reached")
    known = [p for p in known if p.n_val >= FEWEST_VALIDATION]
    n_recent = sum(p.n_labeled * RECENT >= known[-1].n_labeled for p in known)
    known = known[-max(n_recent, FEWEST_ROUNDS) :]
    if len(known) < FEWEST_ROUNDS or known[0].n_labeled == known[-1].n_labeled:
        return Forecast("cannot tell yet")
    needed, weights = _labels_needed(_thinned(known), target)
    n_now = known[-1].n_labeled
    earliest, low, expected, high = _quantiles(needed, weights, (UNLIKELY, TAIL, 0.5, 1 - TAIL))
    if earliest > FARTHEST * n_now:
        return Forecast("unlikely")
    if high > FARTHEST * n_now:
        return Forecast("cannot tell yet")
    return Forecast("forecast", math.floor(low), round(expected), math.ceil(high))


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most MOST_ROUNDS of them, evenly chosen, the first and the last among them."""
    if len(points) <= MOST_ROUNDS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, MOST_ROUNDS).round().astype(int)]


Floats = NDArray[np.float64]
EXPONENTS = np.geomspace(0.1, 4, 16)
FLOORS = np.arange(20) / 20  # c as a share of the error now
COMMON = (0.3, 0.6, 0.9)  # share of the variance that all measurements have in common
CHANCE = (0.0, 0.01, 0.02)  # standard deviation of a network's accuracy about its curve


def _labels_needed(points: Sequence[Point], target: float) -> tuple[Floats, Floats]:
    """Labels for the target by each curve of the grid, infinite where it stays below, and the curves' posterior."""
    n, n_val, n_correct = (np.array(column, float) for column in list(zip(*points, strict=True))[1:4])
    low, high = wilson(points[-1].n_correct, points[-1].n_val, 0.9999)
    now = 1 - np.linspace(low, high, 61)[1:-1]  # errors
    e, share, b = (x.ravel() for x in np.meshgrid(now, FLOORS, EXPONENTS, indexing="ij"))
    c = e * share
    curves = c[:, None] + (e - c)[:, None] * (n / n[-1]) ** -b[:, None]  # (G, R)
    observed = 1 - (n_correct + 0.5) / (n_val + 1)  # never 0 or 1
    deviation = np.sqrt(observed * (1 - observed) / n_val)
    overlap = np.sqrt(np.minimum.outer(n_val, n_val) / np.maximum.outer(n_val, n_val))
    residuals = (1 - n_correct / n_val - curves).T
    logs = []
    for common in COMMON:
        for chance in CHANCE:
            covariance = common * np.outer(deviation, deviation) * overlap
            covariance[np.diag_indices(len(n))] = deviation**2 + chance**2
            factor = np.linalg.cholesky(covariance)
            whitened = np.linalg.solve(factor, residuals)
            logs.append(-0.5 * (whitened**2).sum(0) - np.log(np.diag(factor)).sum())
    likelihood = np.exp(np.array(logs) - np.max(logs)).sum(0)
    error = 1 - target
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        needed = n[-1] * ((e - c) / (error - c)) ** (1 / b)
    needed = np.where(e <= error, n[-1], np.where(c < error, needed, np.inf))
    return needed, likelihood / likelihood.sum()


def _quantiles(values: Floats, weights: Floats, levels: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    cumulative = weights[order].cumsum()
    return [float(values[order[min(int(np.searchsorted(cumulative, q)), len(order) - 1)]]) for q in levels]


def advise(history: Sequence[Point], target: float | None = None) -> Advice:
    """What the trainings so far say about stopping.

    "stop": the target is reached with the confidence of LEVEL; or predictions have stabilised, and the accuracy does
    not still rise beyond doubt. "go on": the target is missed beyond doubt, or the accuracy rises beyond doubt, or
    predictions still change. Everything else cannot be told yet.

    Args:
        history: the trainings, in order.
        target: an accuracy to reach, above 0 and below 1; None where there is none.
    """
    last = history[-1] if history else None
    accuracy = None
    if last is not None and last.n_val:
        accuracy = (last.n_correct / last.n_val, *wilson(last.n_correct, last.n_val))
    kappas = [p.kappa for p in history if p.kappa is not None][-WINDOW:]
    agreement = sum(kappas) / WINDOW if len(kappas) == WINDOW else None
    measured = [p for p in history if p.n_val]
    gain = gain_between(measured[-1 - WINDOW], measured[-1]) if len(measured) > WINDOW else None
    outlook = None if target is None else forecast(history, target)
    verdict = _verdict(accuracy, agreement, gain, target)
    text = [_VERDICTS[verdict]]
    text += [] if accuracy is None else [_on_accuracy(accuracy, measured[-1], target)]
    text += [_on_agreement(agreement), _on_gain(gain)]
    text += [] if outlook is None or target is None else [_on_forecast(outlook, target, measured)]
    return Advice(verdict, text, accuracy, agreement, gain, outlook)


_VERDICTS: dict[Verdict, str] = {
    "stop": "More labels are unlikely to help much: you can stop.",
    "go on": "More labels are likely to help: go on.",
    "cannot tell yet": "Cannot tell yet whether more labels help.",
}


def _verdict(
    accuracy: tuple[float, float, float] | None, agreement: float | None, gain: Improvement | None, target: float | None
) -> Verdict:
    rises = gain is not None and gain.low > 0
    if target is not None and accuracy is not None and accuracy[1] >= target:
        return "stop"
    if agreement is not None and agreement >= STABLE and not rises:
        return "stop"
    missed = target is not None and accuracy is not None and accuracy[2] < target
    return "go on" if rises or missed or agreement is not None else "cannot tell yet"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _on_accuracy(accuracy: tuple[float, float, float], last: Point, target: float | None) -> str:
    value, low, high = map(_percent, accuracy)
    text = f"The accuracy on {last.n_val} validation images is {value}; with 95 % confidence it is {low} to {high}"
    if target is None:
        return f"{text}."
    if accuracy[1] >= target:
        return f"{text}: the target of {_percent(target)} is reached."
    if accuracy[2] < target:
        return f"{text}: the target of {_percent(target)} is not reached."
    return f"{text}: whether the target of {_percent(target)} is reached cannot be told with so few of them."


def _on_agreement(agreement: float | None) -> str:
    if agreement is None:
        return f"Whether predictions have stabilised cannot be told before {WINDOW + 1} trainings."
    start = "Predictions have stabilised" if agreement >= STABLE else "Predictions still change"
    networks = f"the last {WINDOW + 1} networks agree to {agreement:.3f}"
    return f"{start}: {networks} (Cohen's kappa; {STABLE} is enough)."


def _on_gain(gain: Improvement | None) -> str:
    if gain is None:
        return f"How fast the accuracy rises cannot be told before {WINDOW + 1} trainings with validation images."
    value, low, high = (f"{100 * v:+.1f}" for v in gain[:3])
    text = (
        f"The last {gain.n_labels} labels changed the accuracy by {value} points; with 95 % confidence {low} to {high}"
    )
    if gain.low > 0:
        return f"{text}: it rises."
    if gain.high * 100 <= FLAT * max(gain.n_labels, 1):
        return f"{text}: it hardly rises any more."
    return f"{text}: whether it still rises cannot be told."


def _on_forecast(found: Forecast, target: float, measured: Sequence[Point]) -> str:
    what = f"An accuracy of {_percent(target)}"
    if found.outlook == "reached":
        return f"{what} needs no more labels."
    if found.outlook == "unlikely":
        most = FARTHEST * measured[-1].n_labeled
        return f"{what} is unlikely to be reached with fewer than {most} labels of this kind; try another network."
    if found.low is None or found.expected is None or found.high is None:
        why = "the trainings so far allow too much"
        if len(measured) < FEWEST_ROUNDS:
            why = f"it takes {FEWEST_ROUNDS} trainings with {FEWEST_VALIDATION} validation images or more"
        return f"How many labels {what[0].lower()}{what[1:]} needs cannot be told yet: {why}."
    between = f"between {found.low} and {found.high} with about 80 % confidence"
    return f"{what} needs about {found.expected} labels in all, {between}, if the curve goes on as it did."
