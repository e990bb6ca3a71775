"""Confusion matrices, or the most frequent confusions where there are too many classes for a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from report.tree import Matrix, TextTable

MOST_CLASSES, MOST_PAIRS = 30, 15


def confusion(classes: Sequence[str], counts: NDArray[np.int64]) -> Matrix | TextTable:
    """A confusion matrix shaded by the share of the true class; a list of confusions where classes are many.

    Args:
        classes: names. Length C.
        counts: test images, row = true class, column = predicted class. Shape (C, C).
    """
    if len(classes) <= MOST_CLASSES:
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return Matrix(list(classes), list(classes), counts.astype(np.float64), share)
    wrong = counts - np.diag(np.diag(counts))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in worst]
    lines = [[classes[i], classes[j], f"{counts[i, j]:,} of {counts[i].sum():,}"] for i, j in pairs if wrong[i, j]]
    return TextTable(["true class", "predicted as", "images"], lines)
