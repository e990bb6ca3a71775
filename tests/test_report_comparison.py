"""Rows, verdicts, the penalty matrix and rankings, with numbers worked out by hand."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from in_memory import MARGIN, RANDOM, compared, p_of, row_of, run_of
from scipy import stats
from test_report_statistics import T2

from report.comparison import (
    BETTER,
    LEAST_SPREAD,
    NOTHING,
    SAME,
    UNDECIDED,
    WORSE,
    compare_strategies,
    penalty_matrix,
    rank_datasets,
)
from report.power import detectable_gain, seeds_needed
from report.tables import beats_table, ranking_table, strategies_table
from report.wording import evidence
from runs.metrics import METRICS
from runs.settings import group


def test_a_row_has_the_numbers_worked_out_by_hand():
    c = compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN})
    random, margin = row_of(c, "RandomSampling"), row_of(c, "MarginSampling")
    assert random.aubc.mean == pytest.approx(0.6)
    assert random.aubc.high - 0.6 == pytest.approx(4.302653 * 0.015 / math.sqrt(3), rel=1e-6)
    assert 0.6 - random.aubc.low == pytest.approx(random.aubc.high - 0.6)
    assert (random.final.mean, random.final_sd) == (pytest.approx(0.7), pytest.approx(0.02))
    gains = [0.03, 0.035, 0.0225]
    assert margin.gain.mean == pytest.approx(0.0875 / 3)
    assert margin.gain.high - margin.gain.mean == pytest.approx(T2 * statistics.stdev(gains) / math.sqrt(3))
    assert margin.p == pytest.approx(p_of(gains))
    assert margin.p == pytest.approx(0.015158, abs=1e-6)
    assert margin.p_holm == margin.p
    assert margin.final_gain.mean == pytest.approx((0.04 + 0.04 + 0.03) / 3)
    assert (margin.n_pairs, margin.query_seconds, margin.verdict) == (3, 2.0, BETTER)
    # Margin's mean curve passes random's .7 between .64 at 200 and .736667 at 300 labels
    assert margin.saved.mean == pytest.approx(300 - (200 + 100 * 0.06 / (0.736666667 - 0.64)))
    assert margin.saved.low < margin.saved.mean < margin.saved.high
    assert (margin.label, margin.strategy_name, margin.strategy_args) == ("MarginSampling", "MarginSampling", "{}")
    assert [r.label for r in c.rows] == ["MarginSampling", "RandomSampling"]


def test_wins_and_losses_count_the_rounds_after_the_first_by_their_own_paired_test():
    # gains by round: .04, .05, .03 (p .0198) and .04, .04, .03 (p .0082)
    assert p_of([0.04, 0.05, 0.03]) < 0.05
    assert p_of([0.04, 0.04, 0.03]) < 0.05
    row = row_of(compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN}), "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (2, 0, 0)
    spoilt = {**MARGIN, 3: (0.5, 0.57, 0.71)}  # round 1: .04, .05, -.01
    row = row_of(compared({"RandomSampling": RANDOM, "MarginSampling": spoilt}), "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (1, 1, 0)
    mirrored = compared({"RandomSampling": MARGIN, "MarginSampling": RANDOM})
    row = row_of(mirrored, "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (0, 0, 2)
    assert row.verdict == WORSE


def test_the_penalty_matrix_says_which_row_beats_which_column():
    curves = {"RandomSampling": RANDOM, "MarginSampling": MARGIN, "Half": {**MARGIN, 3: (0.5, 0.57, 0.71)}}
    c = compared(curves)
    at = {r.label: i for i, r in enumerate(c.rows)}
    assert c.beats[at["MarginSampling"], at["RandomSampling"]] == 1.0
    assert c.beats[at["RandomSampling"], at["MarginSampling"]] == 0.0
    assert c.beats[at["Half"], at["RandomSampling"]] == 0.5
    assert c.beats[at["MarginSampling"], at["Half"]] == 0.0
    assert np.isnan(np.diag(c.beats)).all()
    table = beats_table(c)
    assert table.header[0] == "row beats column"
    column = 1 + at["RandomSampling"]
    assert [line[column] for line in table.rows if "Margin" in line[0]] == ["1.00"]
    assert table.rows[-1][column] == "0.75"  # random lost all rounds to one and half of them to the other


def test_gains_are_paired_by_seed_whatever_the_order_of_the_runs():
    shifted = {seed: tuple(v + 0.1 * seed for v in c) for seed, c in RANDOM.items()}
    better = {seed: tuple(v + 0.01 + 0.0001 * seed for v in c) for seed, c in reversed(shifted.items())}
    row = row_of(compared({"RandomSampling": shifted, "MarginSampling": better}, n_test=100_000), "MarginSampling")
    assert row.gain.mean == pytest.approx(0.0102)
    assert row.p == pytest.approx(p_of([0.0101, 0.0102, 0.0103]))
    assert row.verdict == BETTER


def test_pairs_are_matched_by_seed_and_round_0_does_not_count():
    ours = {s: np.array([0.9, *MARGIN[s][1:]]) + s / 10 for s in (1, 2, 3)}
    theirs = {s: np.array(RANDOM[s]) + s / 10 for s in (3, 1, 2)}
    beats = penalty_matrix([ours, theirs])
    assert (beats[0, 1], beats[1, 0]) == (1.0, 0.0)
    only_first = {s: np.array([0.9, *RANDOM[s][1:]]) + s / 10 for s in (2, 3, 1)}
    assert np.nansum(penalty_matrix([only_first, theirs])) == 0
    row = row_of(compared({"RandomSampling": RANDOM, "A": {s: (0.9 + s / 99, *c[1:]) for s, c in RANDOM.items()}}), "A")
    assert (row.wins, row.ties, row.losses) == (0, 2, 0)


def test_seeds_that_random_lacks_count_for_the_mean_but_not_for_the_gain():
    c = compared({"RandomSampling": RANDOM, "MarginSampling": {**MARGIN, 9: (0.5, 0.1, 0.1)}})
    row = row_of(c, "MarginSampling")
    assert (row.seeds, row.n_pairs) == ([1, 2, 3, 9], 3)
    assert row.gain.mean == pytest.approx(0.0875 / 3)
    assert row.aubc.mean < 0.6


def test_labels_saved_are_negative_where_the_strategy_needs_more():
    slow = {s: (0.5, 0.5, c[2]) for s, c in RANDOM.items()}
    low = {s: (0.5, *(v - 0.05 for v in c[1:])) for s, c in RANDOM.items()}
    c = compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN, "Slow": slow, "Low": low})
    assert row_of(c, "MarginSampling").saved.mean > 0
    assert row_of(c, "Slow").saved.mean == pytest.approx(0)
    assert row_of(c, "Low").saved.mean == pytest.approx(250 - 300)  # random's mean is .65 at 250 labels
    assert "labels saved -50 [" in evidence(row_of(c, "Low"), METRICS["accuracy"])
    peak = {s: (0.5, 0.75, 0.7) for s in RANDOM}  # random itself is there before its end
    c = compared({"RandomSampling": peak, "Late": {s: (0.5, 0.6, 0.7) for s in RANDOM}})
    assert row_of(c, "Late").saved.mean == pytest.approx(180 - 300)


def test_power_counts_the_seeds_the_spread_and_the_strategies():
    c = compared({"RandomSampling": RANDOM, "A": MARGIN, "B": {s: MARGIN[s] for s in (1, 2)}, "C": {1: MARGIN[1]}})
    a, b, single = (row_of(c, k) for k in "ABC")
    assert a.sd == pytest.approx(statistics.stdev([0.03, 0.035, 0.0225]))
    assert a.detectable == detectable_gain(a.sd, 3, 2)  # two are tested: C has one seed
    assert b.detectable == detectable_gain(statistics.stdev([0.03, 0.035]), 2, 2)
    assert a.seeds_needed == seeds_needed(0.005, a.sd, 2)
    assert all(math.isnan(v) for v in (single.sd, single.detectable, single.seeds_needed))
    nll = row_of(compared({"RandomSampling": RANDOM, "A": MARGIN}, "nll"), "A")
    assert nll.seeds_needed == seeds_needed(0.0875 / 3, nll.sd, 1)  # of the gain that was measured


def test_three_equal_gains_of_one_test_image_decide_nothing():
    one = {s: (0.5, *(v + 0.002 for v in c[1:])) for s, c in RANDOM.items()}  # of 500
    row = row_of(compared({"RandomSampling": RANDOM, "A": one}), "A")
    assert row.sd == pytest.approx(LEAST_SPREAD / 500)
    assert (row.verdict, row.wins) == (SAME, 0)
    assert row.p > 0.1
    assert row.gain.low < 0 < row.gain.high
    assert "could have found" in evidence(row, METRICS["accuracy"])
    three = row_of(compared({"RandomSampling": RANDOM, "A": one}, n_test=5000), "A")  # ten images
    assert (three.verdict, three.wins) == (BETTER, 2)
    unknown = row_of(compared({"RandomSampling": RANDOM, "A": one}, n_test=None), "A")
    assert (unknown.p, unknown.verdict) == (0.25, SAME)
    assert math.isnan(unknown.detectable)


def test_holm_counts_the_strategies_of_the_table_and_not_random():
    c = compared({"RandomSampling": RANDOM, "A": MARGIN, "B": MARGIN, "C": MARGIN})
    assert [row_of(c, k).p_holm for k in "ABC"] == pytest.approx([3 * 0.015158] * 3, abs=1e-5)
    assert np.isnan(row_of(c, "RandomSampling").p_holm)
    d = compared({"RandomSampling": RANDOM, **dict.fromkeys("ABCD", MARGIN)})
    assert row_of(d, "A").p < 0.05
    assert row_of(d, "A").verdict == SAME  # 4 x .015 is above 5 %


def test_datasets_are_ranked_once_each_and_the_winner_is_named():
    tables = []
    for d in range(6):
        for step in (100, 50) if d == 0 else (100,):
            curves = {n: {1: [0.5, 0.6 + k / 20]} for k, n in enumerate(("D", "C", "B", "RandomSampling", "A"))}
            tables.append(compared(curves, step=step, dataset_name=f"data{d}"))
    tables.append(compared({"A": {1: [0.5, 0.6]}}, dataset_name="lonely"))
    ranking = rank_datasets(tables)
    assert (ranking.n_datasets, ranking.labels) == (6, ["A", "B", "C", "D", "RandomSampling"])
    assert ranking.ranks.tolist() == [1, 3, 4, 5, 2]
    assert ranking_table(ranking).rows[0] == ["A", "1.00", "C, D"]  # 2.49 apart or more
    assert rank_datasets(tables[:2]) is None


def test_the_tables_of_one_dataset_count_as_one_mean_rank():
    names = ("A", "B", "RandomSampling")
    orders = {"x": [(0.9, 0.8, 0.7), (0.7, 0.9, 0.8)], "y": [(0.9, 0.8, 0.7)], "z": [(0.9, 0.8, 0.7)]}
    tables = [
        compared({n: {1: [0.5, v]} for n, v in zip(names, ends, strict=True)}, dataset_name=d, lr=float(i))
        for d, of in orders.items()
        for i, ends in enumerate(of)
    ]
    ranking = rank_datasets(tables)
    # x: the means of ranks 1 and 3, 2 and 1, 3 and 2 are 2, 1.5 and 2.5, which rank 2, 1 and 3
    assert ranking.ranks == pytest.approx([4 / 3, 5 / 3, 3.0])
    assert ranking.labels == list(names)


def test_on_noise_the_verdict_is_not_distinguishable_at_the_rate_it_should_be():
    rng = np.random.default_rng(5)
    names, p, alarms = ("RandomSampling", "A", "B", "C"), [], 0
    for _ in range(200):
        seed_effect = rng.normal(0, 0.03, (5, 1))
        curves = {n: dict(enumerate(0.6 + seed_effect + rng.normal(0, 0.01, (5, 3)))) for n in names}
        c = compared(curves)
        others = [r for r in c.rows if r.label != "RandomSampling"]
        p += [r.p for r in others]
        alarms += any(r.verdict != SAME for r in others)
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07
    assert alarms / 200 < 0.08
    assert stats.kstest(p[::3], "uniform").pvalue > 0.01


def test_one_seed_and_one_round_are_shown_but_decide_nothing():
    c = compared({"RandomSampling": {1: RANDOM[1]}, "MarginSampling": {1: MARGIN[1]}})
    row = row_of(c, "MarginSampling")
    assert (row.verdict, row.gain.mean) == (UNDECIDED, pytest.approx(0.03))
    assert np.isnan(row.gain.low)
    assert np.isnan(c.beats).all()
    assert beats_table(c) is None
    assert next(line for line in strategies_table(c).rows if line[0] == "MarginSampling")[5:8] == ["+3.00", "-", "-"]
    c = compared({"RandomSampling": {s: (0.5,) for s in RANDOM}, "MarginSampling": {s: (0.5,) for s in RANDOM}})
    row = row_of(c, "MarginSampling")
    assert (row.aubc.mean, row.gain.mean, row.verdict, row.ties) == (0.5, 0.0, SAME, 0)


def test_without_random_or_a_common_seed_nothing_is_claimed():
    c = compared({"A": RANDOM, "B": MARGIN})
    assert {r.verdict for r in c.rows} == {NOTHING}
    assert np.isfinite(c.beats[0, 1])  # what can be shown is shown
    c = compared({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}})
    assert row_of(c, "A").verdict == UNDECIDED


# Metrics of which less is better, and runs that did not measure one


@pytest.mark.parametrize("metric", [m.name for m in METRICS.values() if not m.higher_is_better])
def test_where_lower_is_better_everything_but_the_shown_values_is_mirrored(metric):
    curves = {"RandomSampling": RANDOM, "A": MARGIN, "B": {s: tuple(v - 0.02 for v in c) for s, c in RANDOM.items()}}
    mirrored = {name: {s: tuple(1 - v for v in c) for s, c in of.items()} for name, of in curves.items()}
    up, down = compared(curves, "accuracy", n_test=None), compared(mirrored, metric, n_test=None)
    assert [r.label for r in up.rows] == [r.label for r in down.rows] == ["A", "RandomSampling", "B"]
    assert np.array_equal(up.beats, down.beats, equal_nan=True)
    for high, low in zip(up.rows, down.rows, strict=True):
        for field in ("gain", "final_gain", "p", "p_holm", "wins", "ties", "losses", "saved", "n_pairs"):
            assert getattr(high, field) == pytest.approx(getattr(low, field), nan_ok=True), field
        assert high.detectable == pytest.approx(low.detectable, nan_ok=True)
        assert high.verdict == low.verdict
        assert low.aubc == pytest.approx((1 - high.aubc.mean, 1 - high.aubc.high, 1 - high.aubc.low))
        assert low.final.mean == pytest.approx(1 - high.final.mean)
    assert row_of(down, "A").verdict == BETTER
    assert rank_datasets([down]) is None


def test_where_lower_is_better_the_lowest_aubc_has_rank_1():
    curves = {n: {1: [0.5, 0.6 + k / 20]} for k, n in enumerate(("A", "RandomSampling", "B"))}
    ranking = rank_datasets([compared(curves, "nll", dataset_name=d) for d in ("x", "y", "z")])
    assert dict(zip(ranking.labels, ranking.ranks.tolist(), strict=True)) == {"A": 1, "RandomSampling": 2, "B": 3}


def without(run, metric, rounds=None):
    """The same run as if it had not measured a metric, in some rounds or in all."""
    gone = {m: float("nan") if m == metric else v for m, v in run.committed[0].metrics.items()}
    return replace(
        run,
        committed=[
            replace(r, metrics={**r.metrics, metric: gone[metric]}) if rounds is None or r.round in rounds else r
            for r in run.committed
        ],
    )


@pytest.mark.parametrize("rounds", [None, [1]])
def test_runs_that_did_not_measure_the_metric_are_left_out(rounds):
    found = [run_of("RandomSampling", s, c) for s, c in RANDOM.items()]
    found += [run_of("MarginSampling", s, c) for s, c in MARGIN.items()]
    found[4] = without(found[4], "nll", rounds)
    (setting,), _ = group(found)
    c = compare_strategies(setting, METRICS["nll"])
    assert row_of(c, "MarginSampling").seeds == [1, 3]
    assert [(label, run.seed) for label, run in c.unmeasured] == [("MarginSampling", 2)]
    assert [run.seed for run in c.runs["MarginSampling"]] == [1, 3]
    (setting,), _ = group([without(r, "nll", rounds) for r in found])
    c = compare_strategies(setting, METRICS["nll"])
    assert (c.rows, len(c.unmeasured)) == ([], 6)
    whole = compare_strategies(setting, METRICS["accuracy"])
    assert (len(whole.rows), whole.unmeasured) == (2, [])
