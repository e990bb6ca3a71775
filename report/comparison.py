"""What the finished runs of one setting show: a row of numbers a strategy, its verdict, who beats whom."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from report.labels_saved import labels_saved
from report.power import detectable_gain, seeds_needed
from report.statistics import (
    LEVEL,
    TIE,
    UNKNOWN,
    Estimate,
    Ranking,
    aubc,
    holm,
    interval,
    mean_heights,
    paired_p,
    rank_over_datasets,
    ranks_of,
    significant,
    spread,
)
from runs.metrics import Metric
from runs.reading import Floats, Run
from runs.settings import BASELINE, Setting

BETTER, WORSE, SAME = "better than random", "worse than random", "not distinguishable from random"
LEAST_SPREAD = 0.5**0.5  # test images: sd of the difference of two runs that each get one image right by chance
UNDECIDED, NOTHING, IS_BASELINE = "undecided: too few seeds", "no RandomSampling to compare with", "the baseline"


@dataclass(frozen=True)
class Row:
    """One strategy of a table in numbers; what cannot be known is NaN.

    A gain is positive where the strategy is better than RandomSampling, also for a metric of which less is better.

    Attributes:
        label: the strategy's name, with the arguments that tell it from others of this name.
        strategy_name: its name alone.
        strategy_args: its arguments as JSON.
        seeds: of its finished runs, ascending.
        n_pairs: seeds that RandomSampling has too; gain, p and saved rest on these alone.
        n_unfinished: runs that were started and are left out.
        aubc: mean of the metric over the labels, over all seeds.
        final: the metric in the last round, over all seeds.
        gain: how much better AUBC is than that of RandomSampling, paired by seed.
        final_gain: the same of the last round.
        p: of the gain, two-sided.
        p_holm: the same adjusted for the number of strategies in the table.
        wins: rounds after the first in which the strategy is significantly better than RandomSampling.
        ties: those in which neither is.
        losses: those in which it is significantly worse.
        saved: labels that RandomSampling needs to reach the lower of the two last mean values, minus those that this
            strategy needs; negative where it needs more.
        sd: standard deviation of the gain over the seeds, at least LEAST_SPREAD test images.
        detectable: the true gain that would be found with 80 % probability.
        seeds_needed: seeds to find `gain_of_interest` with 80 % probability; infinite where 10,000 are too few.
        query_seconds: mean over queries.
    """

    label: str
    strategy_name: str
    strategy_args: str
    seeds: list[int]
    n_pairs: int
    n_unfinished: int
    aubc: Estimate
    final: Estimate
    final_sd: float
    query_seconds: float
    gain: Estimate = UNKNOWN
    final_gain: Estimate = UNKNOWN
    p: float = float("nan")
    p_holm: float = float("nan")
    wins: int = 0
    ties: int = 0
    losses: int = 0
    saved: Estimate = UNKNOWN
    sd: float = float("nan")
    detectable: float = float("nan")
    seeds_needed: float = float("nan")
    verdict: str = NOTHING


@dataclass(frozen=True)
class Comparison:
    """The strategies of one setting, the best AUBC first.

    Attributes:
        setting: the runs that measured the metric.
        metric: what is compared.
        rows: a row a strategy.
        beats: share of rounds after the first in which row beats column; NaN without two common seeds. Shape (K, K).
        unmeasured: runs left out because they did not measure the metric, with their labels.
    """

    setting: Setting
    metric: Metric
    rows: list[Row]
    beats: Floats
    unmeasured: list[tuple[str, Run]]

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """The finished runs of each row by its label, seeds ascending."""
        done = self.setting.complete()
        return {row.label: done[row.label] for row in self.rows}


def measures(run: Run, metric: Metric) -> bool:
    """Whether a run has the metric in each of its rounds."""
    return bool(np.isfinite(run.values(metric.name)).all())


def _upward(values: Floats, metric: Metric) -> Floats:
    """The values with the sign that makes higher better."""
    return values if metric.higher_is_better else -values


def values_of(runs: Sequence[Run], metric: Metric) -> dict[int, Floats]:
    """The metric by seed, a value a round, with the sign that makes higher better."""
    return {r.seed: _upward(r.values(metric.name), metric) for r in runs}


def _common(a: dict[int, Floats], b: dict[int, Floats]) -> tuple[Floats, Floats]:
    """The values of the seeds that both have, in the same order. Shapes (S, R)."""
    seeds = sorted(a.keys() & b.keys())
    n_rounds = len(next(iter(a.values())))
    first, second = (np.array([of[s] for s in seeds]).reshape(len(seeds), n_rounds) for of in (a, b))
    return first, second


def _query_seconds(runs: Sequence[Run]) -> float:
    seconds = np.concatenate([r.values("query_seconds") for r in runs])
    return float(np.nanmean(seconds)) if np.isfinite(seconds).any() else float("nan")


def _alone(label: str, runs: Sequence[Run], metric: Metric, n_unfinished: int) -> Row:
    """What a strategy is by itself."""
    final = np.array([r.values(metric.name)[-1] for r in runs])
    return Row(
        label,
        *runs[0].strategy,
        seeds=[r.seed for r in runs],
        n_pairs=0,
        n_unfinished=n_unfinished,
        aubc=interval(np.array([aubc(r.n_labeled, r.values(metric.name)) for r in runs])),
        final=interval(final),
        final_sd=float(final.std(ddof=1)) if len(final) > 1 else float("nan"),
        query_seconds=_query_seconds(runs),
    )


def one_image(config: dict[str, Any], metric: Metric) -> float:
    """What one test image changes in a share; 0 where the number of test images is unknown, or the metric no share."""
    n_test = config.get("n_test")
    return 1 / n_test if metric.share and isinstance(n_test, int) and n_test > 0 else 0.0


def _paired(
    row: Row, own: dict[int, Floats], random: dict[int, Floats], n_labeled: NDArray[np.int64], resolution: float
) -> Row:
    """The same row with what pairs it with RandomSampling; p is not adjusted yet."""
    a, b = _common(own, random)
    if not len(a):
        return row
    areas = mean_heights(n_labeled, a)[:, None], mean_heights(n_labeled, b)[:, None]
    gains = areas[0] - areas[1]
    sd = float(spread(gains, resolution)[0]) if len(a) > 1 else 0.0
    wins, losses = significant(a, b, resolution)
    return replace(
        row,
        n_pairs=len(a),
        gain=interval(gains[:, 0], resolution),
        final_gain=interval(a[:, -1] - b[:, -1], resolution),
        p=float(paired_p(*areas, resolution)[0]),
        wins=wins,
        losses=losses,
        ties=a.shape[1] - 1 - wins - losses if len(a) > 1 else 0,
        saved=labels_saved(n_labeled, a, b, resolution),
        sd=sd if sd >= TIE else float("nan"),
    )


def gain_of_interest(row: Row, metric: Metric) -> float:
    """The gain whose seeds are counted: half a percentage point of a share, else the gain that was measured."""
    return 0.005 if metric.share else abs(row.gain.mean)


def _with_power(row: Row, metric: Metric, n_tests: int) -> Row:
    """The same row with what the test of its gain could find."""
    return replace(
        row,
        detectable=detectable_gain(row.sd, row.n_pairs, n_tests),
        seeds_needed=seeds_needed(gain_of_interest(row, metric), row.sd, n_tests),
    )


def penalty_matrix(values: Sequence[dict[int, Floats]], resolution: float = 0.0) -> Floats:
    """Share of the rounds after the first in which row beats column, by two-sided paired t-tests. Shape (K, K).

    Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR 2020, section 4.
    The mean of a column says how often its strategy lost: lower is better. Deviation: round 0, which all strategies
    share, is not counted.

    Args:
        values: of each strategy by seed, a value a round; higher is better.
        resolution: the smallest standard deviation to believe of differences.
    """
    k = len(values)
    beats = np.full((k, k), np.nan)
    for i, j in itertools.combinations(range(k), 2):
        a, b = _common(values[i], values[j])
        if len(a) > 1 and a.shape[1] > 1:
            wins, losses = significant(a, b, resolution)
            beats[i, j], beats[j, i] = wins / (a.shape[1] - 1), losses / (a.shape[1] - 1)
    return beats


def verdict(row: Row) -> str:
    """The verdict that a gain and its p-value allow."""
    if not np.isfinite(row.p_holm):
        return UNDECIDED
    if row.p_holm >= LEVEL:
        return SAME
    return BETTER if row.gain.mean > 0 else WORSE


def compare_strategies(setting: Setting, metric: Metric) -> Comparison:
    """Compare the finished runs of one setting; runs that did not measure the metric are left out."""
    unmeasured = [(label, r) for label, of in setting.runs.items() for r in of if not measures(r, metric)]
    measured = {label: [r for r in of if measures(r, metric)] for label, of in setting.runs.items()}
    setting = replace(setting, runs={label: of for label, of in measured.items() if of})
    done = setting.complete()
    started = Counter(label for label, _ in setting.incomplete())
    values = {label: values_of(of, metric) for label, of in done.items()}
    rows = [_alone(label, of, metric, started[label]) for label, of in done.items()]
    resolution = LEAST_SPREAD * one_image(setting.config, metric)
    if BASELINE in done:
        n_labeled = done[BASELINE][0].n_labeled
        rows = [
            r if r.label == BASELINE else _paired(r, values[r.label], values[BASELINE], n_labeled, resolution)
            for r in rows
        ]
        adjusted = holm(np.array([r.p for r in rows]))
        n_tests = int(np.isfinite(adjusted).sum())
        rows = [_with_power(r, metric, n_tests) if np.isfinite(r.p) else r for r in rows]
        rows = [replace(r, p_holm=float(p)) for r, p in zip(rows, adjusted, strict=True)]
        rows = [replace(r, verdict=IS_BASELINE if r.label == BASELINE else verdict(r)) for r in rows]
    rows.sort(key=lambda r: -r.aubc.mean if metric.higher_is_better else r.aubc.mean)
    beats = penalty_matrix([values[r.label] for r in rows], resolution)
    return Comparison(setting, metric, rows, beats, unmeasured)


def rank_datasets(comparisons: Sequence[Comparison]) -> Ranking | None:
    """Mean ranks of AUBC over datasets, or None without two datasets that share three strategies.

    Only tables with RandomSampling count. The tables of one dataset are not independent: their ranks are averaged.
    """
    tables = [c for c in comparisons if any(r.label == BASELINE for r in c.rows)]
    labels = sorted(set.intersection(*({r.label for r in c.rows} for c in tables))) if tables else []
    by_dataset: dict[str, list[Comparison]] = {}
    for c in tables:
        by_dataset.setdefault(c.setting.config["dataset_name"], []).append(c)
    if len(by_dataset) < 2 or len(labels) < 3:
        return None
    ranks = [np.mean([_ranks(c, labels) for c in of], axis=0) for of in by_dataset.values()]
    return rank_over_datasets(labels, -np.array(ranks))


def _ranks(c: Comparison, labels: Sequence[str]) -> Floats:
    """Rank of the AUBC of each strategy in one table, 1 the best. Shape (K,)."""
    means = {r.label: r.aubc.mean for r in c.rows}
    return ranks_of(_upward(np.array([means[label] for label in labels]), c.metric))
