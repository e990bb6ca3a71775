"""The sentences of a report: verdicts with their numbers, counts, rankings, how to read it."""

from __future__ import annotations

import numpy as np

from report.comparison import BETTER, SAME, UNDECIDED, WORSE, Row
from report.numbers import difference_text, difference_unit, p_value, plural, unit_of, value_text, with_interval
from report.statistics import LEVEL, Ranking
from runs.metrics import Metric
from runs.settings import BASELINE

BEATS = (
    "Row beats column: the share of the rounds after the first in which the row's strategy is significantly better "
    "than the column's (two-sided paired t-test, 5 %, not adjusted). The last line is the mean of each column, how "
    "often that strategy lost: lower is better."
)
NEVER_REACHED = "never reached"


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
        f"Labels saved: labels that {BASELINE} needs to reach its final {metric.name}, minus labels that the strategy "
        "needs to reach the same value, both on the mean curve and interpolated between rounds.",
        "Not distinguishable does not mean equal: these runs cannot tell the difference.",
    ]


def labels_saved(row: Row) -> str:
    """The labels saved, or that RandomSampling's final value was never reached."""
    if np.isneginf(row.saved):
        return NEVER_REACHED
    return f"{row.saved:,.0f}" if np.isfinite(row.saved) else "-"


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
    saved = labels_saved(row)
    never = f"random's final {metric.name} never reached"
    parts.append(never if saved == NEVER_REACHED else f"{saved} labels saved")
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
