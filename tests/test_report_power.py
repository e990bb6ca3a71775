"""What a comparison could have found agrees with the noncentral t and with simulated comparisons."""

import math

import numpy as np
import pytest
from in_memory import compared, row_of
from scipy import stats

from report.comparison import BETTER
from report.power import MOST_SEEDS, POWER, detectable_gain, seeds_needed
from report.wording import power_text
from runs.metrics import METRICS


def power(gain, sd, n, n_tests):
    critical = stats.t.ppf(1 - 0.05 / n_tests / 2, n - 1)
    return stats.nct.sf(critical, n - 1, gain * math.sqrt(n) / sd)


@pytest.mark.parametrize("n", [3, 4, 5, 10, 100])
@pytest.mark.parametrize("n_tests", [1, 3, 10])
def test_the_detectable_gain_is_found_with_80_percent(n, n_tests):
    assert power(detectable_gain(0.4, n, n_tests), 0.4, n, n_tests) == pytest.approx(POWER, abs=1e-3)


def test_two_seeds_agree_with_a_simulation():
    # of scipy's own noncentral t some values are NaN here
    x = np.random.default_rng(0).normal(detectable_gain(1, 2, 1), 1, (2, 100_000))
    found = stats.ttest_1samp(x, 0).pvalue < 0.05
    assert found.mean() == pytest.approx(POWER, abs=0.005)


def test_half_a_point_is_seldom_found_with_5_seeds():
    assert power(0.5, 0.4, 5, 10) == pytest.approx(0.123, abs=1e-3)
    assert power(0.5, 0.4, 10, 10) == pytest.approx(0.613, abs=1e-3)
    assert power(1.0, 0.4, 5, 10) == pytest.approx(0.578, abs=1e-3)
    assert detectable_gain(0.4, 5, 10) == pytest.approx(1.262, abs=1e-3)
    assert seeds_needed(0.5, 0.4, 10) == 13


@pytest.mark.parametrize("sd", [0.001, 0.3, 1.0, 4.0])
def test_the_seeds_needed_are_the_fewest(sd):
    n = int(seeds_needed(0.5, sd, 5))
    assert detectable_gain(sd, n, 5) <= 0.5
    assert n == 2 or detectable_gain(sd, n - 1, 5) > 0.5


def test_what_cannot_be_known_is_nan_and_what_cannot_be_reached_infinite():
    assert math.isnan(detectable_gain(0.4, 1, 3))
    assert math.isnan(detectable_gain(float("nan"), 5, 3))
    assert math.isnan(seeds_needed(0.5, float("nan"), 3))
    assert seeds_needed(0.5, 1000.0, 3) == seeds_needed(0.0, 0.4, 3) == math.inf
    assert detectable_gain(0.4, MOST_SEEDS, 50) < 0.02


def test_a_comparison_finds_its_detectable_gain_in_80_percent_of_cases():
    rng, n_found, sd = np.random.default_rng(3), 0, 0.004
    gain = detectable_gain(sd, 5, 1)
    for _ in range(300):
        random = 0.7 + rng.normal(0, 0.02, 5)
        ours = random + gain + rng.normal(0, sd, 5)
        curves = {"RandomSampling": random, "A": ours}
        c = compared({k: {s: (v,) for s, v in enumerate(of)} for k, of in curves.items()}, n_test=10_000)
        n_found += row_of(c, "A").verdict == BETTER
    assert n_found / 300 == pytest.approx(POWER, abs=0.07)  # 3 standard deviations


def test_the_sentence_names_the_extremes_and_counts_the_strategies():
    rng = np.random.default_rng(0)
    random = {s: (0.5, 0.6) for s in range(5)}
    a, b = ({s: (0.5, 0.6 + sd * rng.normal()) for s in range(5)} for sd in (0.01, 0.04))
    c = compared({"RandomSampling": random, "A": a, "B": b}, n_test=10_000)
    text = power_text(c.rows, METRICS["accuracy"])
    low, high = (f"{100 * row_of(c, k).detectable:.2f} points ({k})" for k in "AB")
    assert f"a true gain of {low} to {high}, with 80 % probability, after Holm's method for 2 strategies" in text
    few, many = (f"{row_of(c, k).seeds_needed:.0f}" for k in "AB")
    assert text.endswith(f"To find half a point takes {few} to {many} seeds.")
    c = compared({"RandomSampling": random, "A": a}, "nll")
    assert "nats, with 80 % probability. To find the gains shown takes" in power_text(c.rows, METRICS["nll"])
    c = compared({"RandomSampling": {1: (0.5, 0.6)}, "A": {1: (0.5, 0.7)}})
    assert power_text(c.rows, METRICS["accuracy"]) == ""
