"""DropQuery as section 4 of its paper and the authors' code describe it: loops, float64, nothing clever."""

import itertools
import math

import numpy as np


def logits(row, weight, bias):
    return [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]


def predicted(row, weight, bias):
    return int(np.argmax(logits(row, weight, bias)))


def dropped(row, mask, p_drop):
    return [x / (1 - p_drop) if stays else 0.0 for x, stays in zip(row, mask, strict=True)]


def disagreements(h, weight, bias, masks, p_drop):
    """How often each row's prediction differs from that without dropout; masks (K, U, D) are True where kept."""
    return [
        sum(predicted(dropped(row, m[u], p_drop), weight, bias) != predicted(row, weight, bias) for m in masks)
        for u, row in enumerate(h)
    ]


def law_of_disagreements(row, weight, bias, n_drop, p_drop):
    """Probability of 0 to K disagreements of one row, over all masks."""
    changes = 0.0
    for mask in itertools.product((True, False), repeat=len(row)):
        if predicted(dropped(row, mask, p_drop), weight, bias) != predicted(row, weight, bias):
            changes += math.prod(1 - p_drop if stays else p_drop for stays in mask)
    return [math.comb(n_drop, k) * changes**k * (1 - changes) ** (n_drop - k) for k in range(n_drop + 1)]


def candidates(counts, n_drop, n):
    threshold = n_drop // 2
    while threshold > 0 and sum(c > threshold for c in counts) < 25 * n:
        threshold -= 1
    return [u for u, c in enumerate(counts) if c > threshold]
