"""ALFA-Mix as equation 5 of its paper describes it: loops, float64, nothing clever."""

import math

import numpy as np


def logits(row, weight, bias):
    return [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]


def gradient(row, weight, bias):
    """Of the cross-entropy of the predicted class with respect to the embedding."""
    f = logits(row, weight, bias)
    y = int(np.argmax(f))
    others = [math.exp(v - f[y]) for v in f]
    p = [o / sum(others) for o in others]
    p[y] = -sum(q for c, q in enumerate(p) if c != y)  # p_y - 1 without cancellation
    return [sum(p[c] * weight[c][j] for c in range(len(f))) for j in range(len(row))]


def mixed(row, anchor, g, eps):
    """(1 - alpha) z + alpha z*; an entry in which they are equal is the same for any alpha."""
    distance = math.sqrt(sum((a - z) ** 2 for z, a in zip(row, anchor, strict=True)))
    norm = math.sqrt(sum(x**2 for x in g))
    mix = []
    for z, a, slope in zip(row, anchor, g, strict=True):
        if z == a or norm == 0:
            mix.append(z)
        else:
            alpha = eps / math.sqrt(len(row)) * distance * slope / (norm * (a - z))
            mix.append((1 - alpha) * z + alpha * a)
    return mix


def flips(h, weight, bias, anchors, eps):
    result = []
    for row in h:
        y, g = np.argmax(logits(row, weight, bias)), gradient(row, weight, bias)
        result.append(any(np.argmax(logits(mixed(row, a, g, eps), weight, bias)) != y for a in anchors))
    return result
