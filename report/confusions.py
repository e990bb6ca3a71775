"""Confusion matrices, or the most frequent confusions where there are too many classes for a matrix."""

from __future__ import annotations

import numpy as np

from report.tree import Matrix, TextTable
from runs.confusion import Confusion

MOST_CLASSES, MOST_PAIRS = 30, 15


def confusion(c: Confusion) -> Matrix | TextTable:
    """A confusion matrix shaded by the share of the true class; a list of confusions where classes are many."""
    if len(c.classes) > MOST_CLASSES:
        return most_confused(c)
    counts = c.matrix()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Matrix(c.classes, c.classes, counts.astype(np.float64), share)


def most_confused(c: Confusion) -> TextTable:
    """The pairs of classes that are confused most often."""
    (wrong,) = np.nonzero(c.labels != c.predicted)
    worst = wrong[np.argsort(-c.images[wrong], kind="stable")][:MOST_PAIRS]
    of = np.bincount(c.labels, c.images, len(c.classes))
    lines = [
        [c.classes[y], c.classes[p], f"{n:,} of {of[y]:,.0f}"]
        for y, p, n in zip(c.labels[worst], c.predicted[worst], c.images[worst], strict=True)
    ]
    return TextTable(["true class", "predicted as", "images"], lines)
