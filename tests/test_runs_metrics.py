"""Metrics: what holds for each of them, and the values of those that are published."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from runs import metrics
from runs.metrics import METRICS

ROOT = Path(__file__).parent.parent
TINY = np.finfo(np.float32).tiny


def random_probs(n=400, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.5), n).astype(np.float32)
    return probs, rng.choice(n_classes, n, p=[0.5, 0.2, 0.15, 0.1, 0.05])


def one_hot(labels, n_classes):
    return np.eye(n_classes, dtype=np.float32)[labels]


# Every metric


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_has_a_record_that_tables_and_axes_can_show(metric):
    assert METRICS[metric.name] is metric
    assert metric.name.isidentifier()
    assert metric.name not in ("round", "n_labeled", "index", "path", "label")
    assert metric.title[:1].isupper()
    assert not metric.title.endswith((" ", ".", "%"))
    assert not (metric.share and metric.unit)  # a share is shown in %
    assert metric.function.__doc__
    assert [f.name for f in dataclasses.fields(metric)][:2] == ["name", "function"]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_metric_is_a_float_of_the_right_range_that_changes_nothing(metric, seed):
    probs, labels = random_probs(seed=seed)
    before = probs.copy(), labels.copy()
    value = metric.function(probs, labels)
    assert type(value) is float
    assert math.isfinite(value)
    assert not metric.share or 0 <= value <= 1
    assert (probs == before[0]).all()
    assert (labels == before[1]).all()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_does_not_depend_on_the_order_of_the_images(metric):
    probs, labels = random_probs()
    order = np.random.default_rng(1).permutation(len(labels))
    assert metric.function(probs[order], labels[order]) == pytest.approx(metric.function(probs, labels), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_says_truly_which_end_is_better(metric):
    _, labels = random_probs()
    right, wrong = one_hot(labels, 5), one_hot((labels + 1) % 5, 5)
    better = metric.function(right, labels) - metric.function(wrong, labels)
    assert better > 0 if metric.higher_is_better else better < 0


# Those of version 0.1.0


def test_published_metrics_come_first_in_their_order():
    assert list(METRICS)[:6] == ["accuracy", "precision", "recall", "f1", "nll", "ece"]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learn(seed):
    probs, labels = random_probs(seed=seed)
    predicted = probs.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "precision": sk.precision_score(labels, predicted, average="macro"),
        "recall": sk.recall_score(labels, predicted, average="macro"),
        "f1": sk.f1_score(labels, predicted, average="macro"),
    }
    for name, value in expected.items():
        assert METRICS[name].function(probs, labels) == value, name
    normed = probs.astype(np.float64) / probs.astype(np.float64).sum(1, keepdims=True)  # scikit-learn wants a sum of 1
    assert METRICS["nll"].function(normed, labels) == pytest.approx(sk.log_loss(labels, normed), abs=1e-12)
    assert METRICS["nll"].function(probs, labels) == pytest.approx(sk.log_loss(labels, normed), abs=1e-6)


def test_macro_metrics_equal_values_worked_by_hand():
    # true 0 0 0 1, predicted 0 0 1 1: precision 1 and 1/2, recall 2/3 and 1, f1 4/5 and 2/3
    probs, labels = one_hot([0, 0, 1, 1], 2), np.array([0, 0, 0, 1])
    assert metrics.accuracy(probs, labels) == 0.75
    assert metrics.precision(probs, labels) == pytest.approx(3 / 4)
    assert metrics.recall(probs, labels) == pytest.approx(5 / 6)
    assert metrics.f1(probs, labels) == pytest.approx(11 / 15)


def test_class_never_predicted_counts_as_nothing_without_a_warning():
    probs, labels = one_hot([0, 0, 0], 3), np.array([0, 1, 1])
    assert metrics.precision(probs, labels) == pytest.approx((1 / 3 + 0) / 2)
    assert metrics.recall(probs, labels) == pytest.approx((1 + 0) / 2)


def test_tie_goes_to_the_first_class():
    probs = np.full((2, 3), 1 / 3, np.float32)
    assert metrics.accuracy(probs, np.array([0, 2])) == 0.5


def test_nll_is_in_nats():
    assert metrics.nll(np.full((3, 2), 0.5, np.float32), np.array([0, 1, 1])) == pytest.approx(math.log(2))


def test_nll_of_certainty_is_zero_and_of_a_certain_error_finite():
    probs = np.array([[1.0, 0.0]], np.float32)
    assert metrics.nll(probs, np.array([0])) == 0
    assert math.copysign(1, metrics.nll(probs, np.array([0]))) == 1
    assert metrics.nll(probs, np.array([1])) == pytest.approx(-math.log(TINY))


def reference_ece(probs, labels, n_bins):
    """Guo et al. 2017, eq. 3, bin by bin and image by image."""
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = [(p, y) for p, y in zip(probs, labels, strict=True) if low < p.max() <= high]
        if inside:
            correct = sum(int(p.argmax() == y) for p, y in inside) / len(inside)
            confidence = sum(float(p.max()) for p, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(correct - confidence)
    return total


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_ece_equals_a_loop_over_bins(n_bins):
    probs, labels = random_probs(seed=4)
    expected = reference_ece(probs.astype(np.float64), labels, n_bins)
    assert metrics.ece(probs, labels, n_bins) == pytest.approx(expected, abs=1e-12)


def test_published_ece_has_15_bins():
    def gap(*confidence):  # of two images, the first one right
        probs = np.array([[c, 1 - c] for c in confidence], np.float32)
        return METRICS["ece"].function(probs, np.array([0, 1]))

    assert gap(0.62, 0.68) == pytest.approx((0.38 + 0.68) / 2, abs=1e-6)  # ten bins would put them together
    assert gap(0.61, 0.66) == pytest.approx(abs(0.39 - 0.66) / 2, abs=1e-6)  # twenty would put them apart


def test_ece_equals_a_value_worked_by_hand():
    # Bin of 0.9: three images, two right, gap 0.9 - 2/3. Bin of 0.6: one image, right, gap 0.4.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], np.float32)
    labels = np.array([0, 0, 1, 1])
    assert metrics.ece(probs, labels) == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.4, abs=1e-6)


def test_probabilities_that_are_no_numbers_are_not_hidden():
    probs, labels = np.array([[0.5, 0.5], [np.nan, np.nan]], np.float32), np.array([0, 0])
    assert math.isnan(metrics.ece(probs, labels))
    assert math.isnan(metrics.nll(probs, labels))


def test_ece_of_perfect_and_of_fully_wrong_certainty():
    probs = np.eye(4, dtype=np.float32)
    assert metrics.ece(probs, np.arange(4)) == 0
    assert metrics.ece(probs, np.roll(np.arange(4), 1)) == 1


def test_edge_of_a_bin_belongs_to_the_lower_one():
    probs, labels = np.array([[0.5, 0.5], [0.625, 0.375]]), np.array([0, 1])
    assert metrics.ece(probs, labels, 8) == pytest.approx((0.5 + 0.625) / 2)  # apart: gaps of both signs add up
    assert metrics.ece(probs, labels, 2) == pytest.approx((0.5 + 0.625) / 2)
    assert metrics.ece(probs, labels, 1) == pytest.approx(abs(0.5 - 0.625) / 2)  # together: they cancel


def test_values_are_those_that_version_0_1_0_wrote():
    """Computed by the torch functions of version 0.1.0 on the same arrays, to 12 digits."""
    probs = np.array(
        [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0]],
        np.float32,
    )
    labels = np.array([0, 2, 0, 1, 2, 1])
    expected = {
        "accuracy": 0.5,
        "precision": 0.611111111111111,
        "recall": 0.5,
        "f1": 0.522222222222222,
        "nll": 15.121628985009538,
        "ece": 0.500000004967054,
    }
    for name, value in expected.items():
        assert METRICS[name].function(probs, labels) == pytest.approx(value, abs=1e-12), name


def test_importing_metrics_imports_neither_torch_nor_scikit_learn():
    script = "import sys, runs.metrics; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
