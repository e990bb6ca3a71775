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
    mean_heights,
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


def test_mean_heights_are_the_aubc_of_each_curve():
    n_labeled, curves = np.array([10, 20, 50, 60]), np.random.default_rng(0).uniform(0, 1, (3, 4, 4))
    assert mean_heights(n_labeled, curves) == pytest.approx(
        np.array([[aubc(n_labeled, c) for c in of] for of in curves]), rel=1e-14
    )
    assert mean_heights(n_labeled[:1], curves[..., :1]).tolist() == curves[..., 0].tolist()


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


def test_equal_differences_are_tested_as_signs_where_no_resolution_is_known():
    a = np.array([[0.5, 0.6, 0.1], [0.5, 0.7, 0.3], [0.5, 0.8, 0.2]])
    b = a - np.array([0.0, 0.1, 0.0]) + np.array([[0, 0, 0.1], [0, 0, -0.2], [0, 0, 0.1]])
    p = paired_p(a, b)
    assert p[:2].tolist() == [1.0, 0.25]  # three fair signs are equal in a quarter of cases
    assert p[2] == pytest.approx(p_of(a[:, 2] - b[:, 2]))
    assert paired_p(a[:2], b[:2])[1] == 0.5
    assert np.isnan(paired_p(a[:1], b[:1])).all()
    assert paired_p(a[:, :0], b[:, :0]).shape == (0,)


@pytest.mark.parametrize(("n", "images", "found"), [(3, 1, False), (3, 2, True), (5, 1, True), (5, 0.5, False)])
def test_equal_differences_count_as_spread_by_the_resolution(n, images, found):
    resolution = math.sqrt(0.5) / 50
    a, b = np.full((n, 2), 0.8), np.full((n, 2), 0.8 - images / 50)
    t = images / 50 / (resolution / math.sqrt(n))
    (p, _), (_, low, high) = paired_p(a, b, resolution), interval(a[:, 0] - b[:, 0], resolution)
    assert p == pytest.approx(2 * stats.t.sf(t, n - 1))
    assert (p < LEVEL) == (not low <= 0 <= high) == found
    assert significant(a, b, resolution) == (int(found), 0)
    assert paired_p(a, a, resolution).tolist() == [1.0, 1.0]


def test_a_spread_above_the_resolution_is_left_as_it_is():
    a = np.random.default_rng(0).normal(0, 0.1, (5, 3))
    assert paired_p(a, 0 * a, 0.01).tolist() == paired_p(a, 0 * a).tolist()
    assert interval(a[:, 0], 0.01) == interval(a[:, 0])


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
