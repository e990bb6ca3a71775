"""Stopping advice: known values of its statistics, and what it says of curves that are known."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from labeling.advice import Forecast, Point, advise, forecast, gain_between, kappa, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (81, 263), (1, 1), (4, 7), (999, 1000)])
def test_wilson_is_that_of_scipy(k, n):
    for level in (0.8, 0.95):
        expected = stats.binomtest(k, n).proportion_ci(level, "wilson")
        assert wilson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_is_known_without_validation_images():
    assert wilson(0, 0) == (0, 1)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    for n_classes in (2, 3, 10):
        a, b = rng.integers(0, n_classes, (2, 200))
        b = np.where(rng.random(200) < 0.7, a, b)
        assert kappa(a, b, n_classes + 1) == pytest.approx(cohen_kappa_score(a, b))


def test_kappa_at_its_ends():
    same, other = np.zeros(5, int), np.ones(5, int)
    assert kappa(same, same, 3) == 1
    assert kappa(same, other, 3) == 0
    assert kappa(np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), 2) == -1


def two(n, both, lost, won):
    """Two trainings on n images: how many are right in both, in the first alone, in the second alone."""
    right = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won
    right += [(False, False)] * (n - len(right))
    old, new = zip(*right, strict=True)
    return (
        Point(0, 50, n, sum(old), None, dict(enumerate(old))),
        Point(1, 80, n, sum(new), None, dict(enumerate(new))),
    )


def test_a_paired_interval_is_that_of_newcombe():
    """The first row of his table III: 36 right in both, 12 in the first alone, 2 in the second alone, 0 in neither."""
    old, new = two(50, 36, 12, 2)
    gain = gain_between(new, old)  # he subtracts the second from the first
    assert gain.value == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("p", [(0.7, 0.02, 0.08), (0.9, 0.03, 0.03), (0.5, 0.1, 0.2)])
def test_a_paired_interval_holds_the_truth_as_often_as_it_says(p):
    rng = np.random.default_rng(1)
    inside = 0
    for both, lost, won, _ in rng.multinomial(80, [*p, 1 - sum(p)], 400):
        gain = gain_between(*two(80, int(both), int(lost), int(won)))
        inside += gain.low <= p[2] - p[1] <= gain.high
    assert 0.93 < inside / 400 <= 0.99


def test_a_paired_gain_is_surer_than_one_of_counts():
    old, new = two(100, 78, 3, 12)
    paired = gain_between(old, new)
    counted = gain_between(old._replace(correct=None), new)
    assert paired.value == counted.value == pytest.approx(0.09)
    assert counted.low < paired.low < 0.09 < paired.high < counted.high
    assert paired.low > 0 > counted.low
    assert paired.n_labels == 30


def test_a_small_correlation_counts_as_none():
    """Newcombe's correction for continuity: 14 x 1 - 2 x 3 is at most half of 20."""
    old, new = two(20, 14, 2, 3)
    assert gain_between(old, new) == gain_between(old._replace(correct=None), new)


def test_a_gain_is_measured_on_images_that_both_know():
    old, new = two(100, 80, 2, 12)
    more = {**new.correct, **{i: True for i in range(100, 200)}}
    grown = new._replace(n_val=200, n_correct=sum(more.values()), correct=more)
    assert gain_between(old, grown)._replace(n_labels=0) == gain_between(old, new)._replace(n_labels=0)


def test_no_change_between_perfect_networks():
    old, new = two(40, 40, 0, 0)
    gain = gain_between(old, new)
    assert gain.value == 0
    assert -0.1 < gain.low <= 0 <= gain.high < 0.1


def history(accuracies, n_val=200, step=50, kappas=None):
    kappas = kappas or [None] * len(accuracies)
    pairs = enumerate(zip(accuracies, kappas, strict=True))
    return [Point(i, step * (i + 1), n_val, round(a * n_val), k) for i, (a, k) in pairs]


def power(n_rounds, floor=0.02, exponent=0.6):
    return [1 - floor - 0.4 * (i + 1) ** -exponent for i in range(n_rounds)]


# Forecasts


def test_a_forecast_holds_the_truth_of_an_exact_power_law():
    curve = power(12)
    target = 1 - 0.02 - 0.4 * 16**-0.6  # reached with 800 labels
    found = forecast(history(curve, n_val=5000), target)
    assert found.outlook == "forecast"
    assert 600 <= found.low <= 800 <= found.high <= 1300
    assert found.low <= found.expected <= found.high
    assert forecast(history(curve, n_val=50_000), target).expected == pytest.approx(800, rel=0.05)


def test_more_validation_images_make_a_forecast_narrower():
    target = power(14)[-1]
    few, many = (forecast(history(power(12), n_val=n), target) for n in (2000, 20000))
    assert few.outlook == many.outlook == "forecast"
    assert many.high - many.low < few.high - few.low


def test_what_cannot_be_forecast_is_not():
    target = 0.9
    unknown = Forecast("cannot tell yet")
    assert forecast([], target) == unknown
    assert forecast(history(power(3)), target) == unknown  # too few trainings
    assert forecast(history(power(8), n_val=20), target) == unknown  # too few images
    assert forecast(history(power(8), n_val=0), target) == unknown
    assert forecast(history(power(8), step=0), target) == unknown  # labels do not grow
    assert forecast(history(power(5), n_val=60), 0.9) == unknown  # too uncertain


def test_a_target_above_the_curve_is_unlikely():
    flat = [0.7, 0.79, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert forecast(history(flat, n_val=5000), 0.95).outlook == "unlikely"


def test_few_validation_images_are_no_ground_for_a_forecast():
    flat = [0.5] * 10
    assert forecast(history(flat, n_val=30), 0.999).outlook == "unlikely"
    assert forecast(history(flat, n_val=28), 0.999).outlook == "cannot tell yet"


def test_a_target_below_the_interval_is_reached():
    assert forecast(history([0.95] * 2), 0.9).outlook == "reached"
    assert forecast(history([0.95] * 8), 0.94).outlook != "reached"


def test_a_forecast_survives_perfect_and_hopeless_networks():
    for accuracies in ([1.0] * 6, [0.0] * 6, [0.0, 1.0] * 3):
        for target in (0.001, 0.5, 0.999):
            found = forecast(history(accuracies), target)
            assert found.low is None or math.isfinite(found.high)


def test_a_long_history_takes_no_longer():
    """It is thinned: the last training and the level stay."""
    found = forecast(history(power(500), n_val=5000, step=10), 0.99)
    assert found.outlook in ("unlikely", "cannot tell yet")
    assert forecast(history(power(500), n_val=5000, step=10), 0.9).outlook == "reached"


# Advice

STILL = [None, 0.9, 0.995, 0.995, 0.995]
MOVING = [None, 0.9, 0.95, 0.96, 0.97]
LEVEL = [0.88, 0.9, 0.9, 0.9, 0.9]
RISING = [0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("accuracies", "kappas", "target", "verdict"),
    [
        (LEVEL, STILL, None, "stop"),
        (LEVEL, MOVING, None, "go on"),
        (RISING, STILL, None, "go on"),
        (RISING, MOVING, None, "go on"),
        (LEVEL, None, None, "cannot tell yet"),
        (RISING, None, None, "go on"),
        (LEVEL, MOVING, 0.8, "stop"),  # reached
        (LEVEL, None, 0.88, "cannot tell yet"),  # reached by chance, perhaps
        (LEVEL, None, 0.99, "go on"),  # missed
        (LEVEL, STILL, 0.99, "stop"),  # missed, and more labels change nothing
        (LEVEL, None, 0.91, "cannot tell yet"),
        (LEVEL[:1], None, None, "cannot tell yet"),
        ([], None, 0.9, "cannot tell yet"),
    ],
)
def test_the_verdict_follows_from_the_signs(accuracies, kappas, target, verdict):
    advice = advise(history(accuracies, kappas=kappas), target)
    assert advice.verdict == verdict
    assert json.loads(json.dumps(advice.text)) == advice.text
    assert all(line.endswith(".") and "\n" not in line for line in advice.text)


def test_agreement_is_the_mean_of_the_last_three():
    kappas = [None, 0.5, 0.99, 0.98, 1.0]
    assert advise(history(LEVEL, kappas=kappas)).agreement == pytest.approx(0.99)
    assert advise(history(LEVEL[:3], kappas=kappas[:3])).agreement is None


def test_without_validation_images_agreement_decides():
    advice = advise(history(LEVEL, n_val=0, kappas=STILL), 0.9)
    assert (advice.verdict, advice.accuracy, advice.gain) == ("stop", None, None)


def test_trainings_without_validation_images_are_no_measurements():
    points = [*history(LEVEL, n_val=0), *[p._replace(n_labeled=p.n_labeled + 250) for p in history(LEVEL)]]
    assert advise(points).gain.n_labels == 150
    assert advise(points[:8]).gain is None


def test_every_line_says_how_sure_it_is():
    text = " ".join(advise(history(LEVEL, kappas=STILL), 0.91).text)
    for words in ("95 % confidence it is 85.", "cannot be told", "agree to 0.995", "91.0 %"):
        assert words in text
