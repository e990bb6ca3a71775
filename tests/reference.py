"""Slow versions of the strategies' formulas, written from the papers with plain loops over Python floats."""

import math


def least_confidence(p):
    return 1 - max(p)


def margin(p):
    first, second = sorted(p, reverse=True)[:2]
    return -(first - second)


def entropy(p):
    return -sum(q * math.log(q) for q in p if q > 0)


def mean_prediction(p_K_C):
    return [sum(p[c] for p in p_K_C) / len(p_K_C) for c in range(len(p_K_C[0]))]


def mutual_information(p_K_C):
    """H[mean_k p_k] - mean_k H[p_k]: Gal, Islam, Ghahramani, ICML 2017, eq. 3."""
    return entropy(mean_prediction(p_K_C)) - sum(entropy(p) for p in p_K_C) / len(p_K_C)


def softmax(logits):
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    return [w / sum(weights) for w in weights]


def masked_logits(h, weight, bias, mask, p):
    """The head after inverted dropout: kept entries are divided by 1 - p."""
    return [
        sum(w * x * m / (1 - p) for w, x, m in zip(row, h, mask, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]
