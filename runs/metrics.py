"""What is measured on the test set each round: one record a metric. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probs = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

FLOAT32 = np.finfo(np.float32)  # probabilities are of this type
MAX_NLL = -math.log(FLOAT32.tiny)  # nats of a true class without any probability


def accuracy(probs: Probs, labels: Labels) -> float:
    """Share of images whose most probable class is the true one."""
    return float((probs.argmax(1) == labels).mean())


def _counts(probs: Probs, labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Of each class that occurs or is predicted: how many images are rightly of it, predicted as it, truly of it."""
    predicted, n_classes = probs.argmax(1), probs.shape[1]
    right, called, true = (
        np.bincount(y, minlength=n_classes) for y in (labels[predicted == labels], predicted, labels)
    )
    found = called + true > 0
    return right[found], called[found], true[found]


def precision(probs: Probs, labels: Labels) -> float:
    """Mean precision over the classes that occur or are predicted; 0 for a class never predicted."""
    right, called, _ = _counts(probs, labels)
    return float((right / np.maximum(called, 1)).mean())


def recall(probs: Probs, labels: Labels) -> float:
    """Mean recall over the classes that occur or are predicted; 0 for a class that does not occur."""
    right, _, true = _counts(probs, labels)
    return float((right / np.maximum(true, 1)).mean())


def f1(probs: Probs, labels: Labels) -> float:
    """Mean over the classes that occur or are predicted of the harmonic mean of precision and recall."""
    right, called, true = _counts(probs, labels)
    return float((2 * right / (called + true)).mean())


def nll(probs: Probs, labels: Labels) -> float:
    """Mean negative log-likelihood of the true class, in nats; no probability counts as less than float32's tiny."""
    true = probs[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, FLOAT32.tiny)).mean()) + 0.0  # no minus zero


def ece(probs: Probs, labels: Labels, n_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of confidence, weighted by their images.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3; bins are (low, high].
    """
    confidence = probs.max(1).astype(np.float64)
    bins = np.fmin(np.fmax(np.ceil(confidence * n_bins), 1), n_bins).astype(np.int64) - 1  # of NaN: the first
    gap = (probs.argmax(1) == labels) - confidence
    return float(np.abs(np.bincount(bins, gap, n_bins)).sum() / len(labels))


@dataclass(frozen=True)
class Metric:
    """One measure of a network on the test set, and how it is shown.

    Attributes:
        name: its column in rounds.csv.
        function: from class probabilities (M, C) and true classes (M,) to the value.
        title: its name for people, as in the title of an axis.
        share: whether it lies between 0 and 1 and is shown in %.
        higher_is_better: whether a larger value is the better one.
        unit: of values that are no shares; empty where there is none.
        least: the smallest value that it can take, of one that is no share.
        most: the largest one.
    """

    name: str
    function: Callable[[Probs, Labels], float]
    title: str
    share: bool = True
    higher_is_better: bool = True
    unit: str = ""
    least: float = -FLOAT32.max.item()
    most: float = FLOAT32.max.item()

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value that can be true."""
        return (0.0, 1.0) if self.share else (self.least, self.most)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "Accuracy"),
        Metric("precision", precision, "Precision"),
        Metric("recall", recall, "Recall"),
        Metric("f1", f1, "F1"),
        Metric(
            "nll",
            nll,
            "Negative log-likelihood",
            share=False,
            higher_is_better=False,
            unit="nats",
            least=0.0,
            most=math.ceil(MAX_NLL),
        ),
        Metric("ece", ece, "Expected calibration error", higher_is_better=False),
    )
}
