"""The sentences of a report: verdicts with their numbers, counts, rankings, how to read it."""

from __future__ import annotations

import numpy as np

from report.comparison import BETTER, SAME, UNDECIDED, WORSE, Row
from report.numbers import (
    difference_text,
    difference_unit,
    p_value,
    plural,
    size_text,
    unit_of,
    value_text,
    with_interval,
)
from report.power import MOST_SEEDS
from report.statistics import LEVEL, Ranking
from runs.metrics import Metric
from runs.settings import BASELINE

BEATS = (
    "Row beats column: the share of the rounds after the first in which the row's strategy is significantly better "
    "than the column's (two-sided paired t-test, 5 %, not adjusted). The last line is the mean of each column, how "
    "often that strategy lost: lower is better."
)


def subject(metric: Metric) -> str:
    """What is compared, in words."""
    return f"{metric.name} on the test set{'' if metric.higher_is_better else ' (lower is better)'}"


def reading(metric: Metric) -> list[str]:
    """How to read the numbers of a report, a line each."""
    unit = "percentage points" if metric.share else metric.unit or "the unit of the metric"
    difference = f"AUBC minus that of {BASELINE} with the same seed"
    if not metric.higher_is_better:
        difference = f"AUBC of {BASELINE} minus that of the strategy with the same seed, so that positive is better"
    return [
        "AUBC (area under the budget curve): mean of the metric over the number of labels (trapezoid rule), averaged "
        "over all seeds.",
        f"Gain: {difference}, in {unit}: mean over the seeds that both have, with the 95 % confidence interval of that "
        "mean (Student's t).",
        "p (Holm): p-value of a two-sided paired t-test of the gain, adjusted by Holm's method for the number of "
        "strategies in the table. The verdict is 'better' or 'worse' when it is below 0.05. The interval is not "
        "adjusted, so it may exclude 0 where the verdict is 'not distinguishable'.",
        "Win/tie/loss: number of rounds after the first in which a two-sided paired t-test (5 %, not adjusted) finds "
        f"the strategy better than {BASELINE}, finds no difference, finds it worse.",
        f"Labels saved: labels that {BASELINE} needs to first reach the worse of the two final values of "
        f"{metric.name}, minus labels that the strategy needs, both on the mean curve and interpolated between rounds. "
        "Above 0 the strategy saves labels, below 0 it costs labels. In brackets the 95 % confidence interval: the "
        "numbers that a paired t-test over the seeds does not rule out.",
        f"Detectable: the true gain, in {unit}, that the test finds with 80 % probability, given this number of seeds "
        "and the spread of their gains, at the strictest level that Holm's method uses (0.05 divided by the number of "
        "strategies). The spread is itself estimated, the more roughly the fewer seeds there are.",
        "Not distinguishable does not mean equal: these runs cannot tell the difference. A true gain below the "
        "detectable one is likely to be missed.",
        *_about_steps(metric),
    ]


def _about_steps(metric: Metric) -> list[str]:
    if not metric.share:
        return []
    return [
        "Resolution: the standard deviation of differences counts as at least 0.71 test images, that of two runs which "
        "each classify one image by chance, because differences that are equal in all seeds may be chance."
    ]


def labels_text(n: float) -> str:
    """A signed number of labels."""
    return f"{round(n):+,d}" if np.isfinite(n) else "-"


def _seeds_text(n: float) -> str:
    return f"{n:,.0f}" if np.isfinite(n) else f"more than {MOST_SEEDS:,d}"


def _detectable(row: Row, metric: Metric) -> str:
    return f"{size_text(row.detectable, metric)} {difference_unit(metric)}".rstrip()


def power_text(rows: list[Row], metric: Metric) -> str:
    """What gain the tests of a table would find, and how many seeds it takes to find a small one; may be empty."""
    known = sorted((r for r in rows if np.isfinite(r.detectable)), key=lambda r: r.detectable)
    if not known:
        return ""
    low, high = (_detectable(r, metric) for r in (known[0], known[-1]))
    gains = low if low == high else f"{low} ({known[0].label}) to {high} ({known[-1].label})"
    few, many = (_seeds_text(f(r.seeds_needed for r in known)) for f in (min, max))
    adjusted = f", after Holm's method for {len(known)} strategies" if len(known) > 1 else ""
    return (
        f"What these seeds can find: a true gain of {gains}, with 80 % probability{adjusted}. To find "
        f"{'half a point' if metric.share else 'the gains shown'} takes "
        f"{few if few == many else f'{few} to {many}'} seeds."
    )


def evidence(row: Row, metric: Metric) -> str:
    """The numbers that a verdict rests on, in one line."""

    def seeds(n: int) -> str:
        return plural(n, "seed", "seeds")

    def value(v: float) -> str:
        return value_text(v, metric)

    def difference(v: float) -> str:
        return difference_text(v, metric)

    if not np.isfinite(row.gain.mean):
        return f"AUBC {with_interval(row.aubc, value)} {unit_of(metric)}".rstrip() + f", {seeds(len(row.seeds))}"
    quantity = "AUBC" if metric.higher_is_better else "gain in AUBC"
    parts = [f"{quantity} {with_interval(row.gain, difference)} {difference_unit(metric)}".rstrip()]
    if np.isfinite(row.p_holm):
        parts.append(f"p {p_value(row.p_holm)}")
    parts.append(seeds(row.n_pairs))
    parts.append(f"labels saved {with_interval(row.saved, labels_text)}")
    if row.verdict == SAME and np.isfinite(row.detectable):
        parts.append(f"could have found {_detectable(row, metric)}")
    return ", ".join(parts)


def verdict_counts(rows: list[Row]) -> str:
    """How many strategies are better, worse, not distinguishable, undecided."""
    verdicts = [r.verdict for r in rows if r.label != BASELINE]
    counts = [f"{verdicts.count(v)} {v}" for v in (BETTER, WORSE, SAME, UNDECIDED) if v in verdicts]
    if not counts:
        return "Nothing to compare"
    return f"Of {plural(len(verdicts), 'strategy', 'strategies')}: " + "; ".join(counts)


def ranking_notes(ranking: Ranking) -> list[str]:
    """What the ranking over datasets shows, and how far it can be trusted."""
    notes = [
        f"Mean rank of AUBC over {ranking.n_datasets} datasets, 1 is best. Friedman's test that all strategies are "
        f"equal: p {p_value(ranking.p)}. Two strategies differ significantly when their mean ranks are more than "
        f"{ranking.critical_difference:.2f} apart (Nemenyi, 5 %)."
    ]
    if ranking.p >= LEVEL:
        notes.append("Friedman's test finds no difference, so the ranks below may be chance.")
    if ranking.n_datasets < 5:
        notes.append(f"{ranking.n_datasets} datasets are few for this test, which counts datasets, not seeds.")
    return notes
