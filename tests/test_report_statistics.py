"""Means, intervals and tests agree with textbooks, closed forms and scipy.stats."""

import math
import statistics

import numpy as np
import pytest
from in_memory import p_of
from scipy import stats

from report.statistics import (
    LEVEL,
    aubc,
    chance_overlap,
    critical_t,
    holm,
    interval,
    labels_to_reach,
    nemenyi,
    overlap,
    paired_p,
    rank_over_datasets,
    ranks_of,
    significant,
)

T2 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # closed form of Student's quantile with 2 degrees of freedom: 4.3027


def test_aubc_is_the_mean_height_by_the_trapezoid_rule():
    assert aubc(np.array([100, 200, 300]), np.array([0.5, 0.6, 0.7])) == pytest.approx(0.6)
    assert aubc(np.array([0, 10, 100]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.95)
    assert aubc(np.array([100]), np.array([0.5])) == 0.5
    assert aubc(np.array([0, 5, 10]), np.array([0.2, np.nan, 0.4])) == pytest.approx(0.3)
    assert np.isnan(aubc(np.array([0, 5]), np.full(2, np.nan)))


def test_intervals_agree_with_the_definition():
    x = np.array([1.0, 2.0, 4.0])
    found = interval(x)
    half = T2 * statistics.stdev(x) / math.sqrt(3)
    assert found == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert np.isnan(interval(x[:1])[1:]).all()
    assert interval(np.full(3, 0.7)) == (pytest.approx(0.7),) * 3


def test_intervals_and_paired_tests_agree_with_scipy_to_the_last_digits():
    rng = np.random.default_rng(0)
    for n in range(2, 30):
        a = rng.normal(0.6, 0.03, (n, 5))
        b = a + rng.normal(0.002, 0.01, (n, 5))
        assert paired_p(a, b) == pytest.approx(stats.ttest_rel(a, b, axis=0).pvalue, rel=1e-12)
        sem = stats.sem(a[:, 0])
        assert interval(a[:, 0])[1:] == pytest.approx(stats.t.interval(0.95, n - 1, a[:, 0].mean(), sem), rel=1e-12)
        assert critical_t(n) == pytest.approx(stats.t.ppf(1 - LEVEL / 2, n - 1), rel=1e-12)


def test_paired_tests_do_not_fail_where_there_is_no_spread():
    a = np.array([[0.5, 0.6, 0.1], [0.5, 0.7, 0.3], [0.5, 0.8, 0.2]])
    b = a - np.array([0.0, 0.1, 0.0]) + np.array([[0, 0, 0.1], [0, 0, -0.2], [0, 0, 0.1]])
    p = paired_p(a, b)
    assert p[:2].tolist() == [1.0, 0.0]
    assert p[2] == pytest.approx(p_of(a[:, 2] - b[:, 2]))
    assert paired_p(a[:2], b[:2])[1] == 1.0  # two equal differences say nothing
    assert np.isnan(paired_p(a[:1], b[:1])).all()
    assert paired_p(a[:, :0], b[:, :0]).shape == (0,)


def test_significant_counts_both_sides_after_the_first_round():
    a = np.array([[0.9, 0.60, 0.50, 0.7], [0.9, 0.61, 0.52, 0.2], [0.9, 0.62, 0.51, 0.5]])
    b = np.array([[0.1, 0.50, 0.60, 0.5], [0.1, 0.52, 0.61, 0.6], [0.1, 0.51, 0.62, 0.2]])
    assert significant(a, b) == (1, 1)
    assert significant(b, a) == (1, 1)
    assert significant(a[:, :1], b[:, :1]) == (0, 0)


def test_holm_gives_the_textbook_values():
    p = np.array([0.01, 0.04, 0.03, 0.005, np.nan])
    assert holm(p)[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm(p)[4])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(0, 0.1, rng.integers(1, 9))
        for level in (0.01, 0.05, 0.1):
            rejected, order = set(), np.argsort(p)
            for k, i in enumerate(order):
                if p[i] > level / (len(p) - k):
                    break
                rejected.add(i)
            assert set(np.flatnonzero(holm(p) <= level)) == rejected


@pytest.mark.parametrize(
    ("values", "target", "labels"),
    [
        ((0.5, 0.6, 0.7), 0.65, 250.0),
        ((0.5, 0.6, 0.7), 0.5, 100.0),
        ((0.5, 0.6, 0.7), 0.7, 300.0),
        ((0.5, 0.8, 0.7), 0.65, 150.0),
        ((0.5, 0.6, 0.7), 0.71, math.inf),
    ],
)
def test_labels_to_reach_a_value_are_interpolated_where_the_curve_first_passes_it(values, target, labels):
    assert labels_to_reach(np.array([100, 200, 300]), np.array(values), target) == pytest.approx(labels)


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_use_the_published_constants(k, q):
    # Demsar, JMLR 2006, table 5(a)
    assert nemenyi(k, 14) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=3e-4)


def test_ranks_begin_with_the_highest_and_equal_scores_share_theirs():
    assert ranks_of(np.array([0.5, 0.9, 0.7, 0.7])).tolist() == [4.0, 1.0, 2.5, 2.5]


def test_ranks_over_datasets_agree_with_friedmans_formula():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.7, 0.8, 0.6], [0.8, 0.9, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    found = rank_over_datasets(list("ABCD"), scores)
    assert found.ranks == pytest.approx([1.25, 2.0, 2.75, 4.0])
    chi2 = 12 * 4 / (4 * 5) * (sum(r * r for r in (1.25, 2.0, 2.75, 4.0)) - 4 * 25 / 4)
    assert found.p == pytest.approx(stats.chi2.sf(chi2, 3))
    assert rank_over_datasets(list("ABC"), np.full((3, 3), 0.5)).p == 1.0


def test_overlap_is_the_jaccard_index_and_chance_is_what_random_draws_share():
    assert overlap({1, 2, 3}, {2, 3, 4}) == 0.5
    rng = np.random.default_rng(0)
    shares = [overlap(*(set(rng.permutation(400)[:100].tolist()) for _ in range(2))) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(chance_overlap(100, 400), rel=0.02)
