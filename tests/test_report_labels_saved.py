"""Labels saved have a sign, favour nobody, and come with an interval that covers the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from report.labels_saved import labels_saved, labels_to_reach

LABELS = np.arange(100, 1101, 100)


def rising(gain=0.0):
    t = (LABELS - 100) / 1000
    return 0.4 + 0.4 * (1 - np.exp(-3 * t)) / (1 - np.exp(-3)) + gain * np.sin(0.75 * np.pi * t)


def noisy_pair(rng, n_seeds, gain=0.0, sd=0.004):
    """Curves of a strategy and of random, with a common effect of the seed."""
    noise = rng.normal(0, sd / math.sqrt(2), (2, n_seeds, len(LABELS))) + rng.normal(0, 0.01, (n_seeds, 1))
    return rising(gain) + noise[0], rising() + noise[1]


def reference(a, b, n_steps=4000):
    """The hull of all numbers of labels that a t-test does not reject, tried one by one."""
    width, found = LABELS[-1] - LABELS[0], []
    for x in np.linspace(-width, width, 2 * n_steps + 1):
        at, of = LABELS[-1] - max(x, 0), LABELS[-1] + min(x, 0)
        differences = [np.interp(at, LABELS, u) - np.interp(of, LABELS, v) for u, v in zip(a, b, strict=True)]
        if stats.ttest_1samp(differences, 0).pvalue >= 0.05:
            found.append(x)
    return min(found), max(found)


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


@pytest.mark.parametrize(("n_seeds", "gain"), [(2, 0.01), (3, 0.0), (5, 0.02), (5, -0.01)])
def test_the_interval_is_that_of_a_search_over_all_numbers(n_seeds, gain):
    a, b = noisy_pair(np.random.default_rng(n_seeds), n_seeds, gain)
    found = labels_saved(LABELS, a, b)
    low, high = reference(a, b, 500)
    assert low - 2 <= found.low <= low + 1e-6  # a step of the search is 2 labels
    assert high - 1e-6 <= found.high <= high + 2
    assert found.low <= found.mean <= found.high


def test_the_estimate_goes_to_the_lower_of_the_two_ends():
    a, b = np.array([[0.5, 0.6, 0.7]]), np.array([[0.5, 0.6, 0.65]])
    n = np.array([100, 200, 300])
    assert labels_saved(n, a, b).mean == pytest.approx(50)
    assert labels_saved(n, b, a).mean == pytest.approx(-50)
    assert np.isnan(labels_saved(n, a, b)[1:]).all()  # one seed


def test_exchanging_the_strategies_changes_the_sign_alone():
    rng = np.random.default_rng(0)
    for n_seeds in (2, 3, 5, 10):
        a, b = noisy_pair(rng, n_seeds, 0.005, sd=0.02)
        found, other = labels_saved(LABELS, a, b, 0.01), labels_saved(LABELS, b, a, 0.01)
        assert (found.mean, found.low, found.high) == pytest.approx((-other.mean, -other.high, -other.low))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_with_no_difference_labels_are_saved_as_often_as_lost(n_seeds):
    rng = np.random.default_rng(1)
    saved = np.array([labels_saved(LABELS, *noisy_pair(rng, n_seeds)).mean for _ in range(1000)])
    assert 450 < (saved < 0).sum() < 550  # 3 standard deviations are 47
    assert (saved != 0).all()
    assert abs(saved.mean()) < 3 * saved.std() / math.sqrt(1000)


@pytest.mark.parametrize("gain", [0.0, 0.02])
@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_intervals_cover_the_true_value(n_seeds, gain):
    rng, truth = np.random.default_rng(2), labels_saved(LABELS, rising(gain)[None], rising()[None]).mean
    found = [labels_saved(LABELS, *noisy_pair(rng, n_seeds, gain)) for _ in range(1000)]
    held = sum(f.low <= truth <= f.high for f in found)
    assert 930 <= held <= 980  # 95 % and up to 1 more, and 2.5 standard deviations


def test_a_spread_of_0_is_bounded_by_the_resolution():
    a, b = np.repeat(rising(0.01)[None], 3, axis=0), np.repeat(rising()[None], 3, axis=0)
    found = labels_saved(LABELS, a, b)
    assert found.low == pytest.approx(found.mean) == pytest.approx(found.high)
    wide, wider = labels_saved(LABELS, a, b, 0.002), labels_saved(LABELS, a, b, 0.02)
    assert wider.low < wide.low < found.mean < wide.high < wider.high
    # the interval ends where the difference is critical: 4.30 standard errors of .002
    at = np.interp(LABELS[-1] - wide.high, LABELS, rising(0.01))
    assert rising()[-1] - at == pytest.approx(stats.t.ppf(0.975, 2) * 0.002 / math.sqrt(3))


def test_curves_of_one_round_and_curves_that_fall_are_no_error():
    one = np.full((3, 1), 0.5)
    assert labels_saved(LABELS[:1], one, one) == (0.0, 0.0, 0.0)
    falling = np.array([0.9, 0.8, 0.7]) + np.random.default_rng(0).normal(0, 0.01, (2, 4, 3))
    found = labels_saved(LABELS[:3], *falling)
    assert -200 <= found.low <= found.mean <= found.high <= 200
