"""MaxHerding and UHerding as the papers have them: all kernels, all gains anew for each pick, in float64."""

import numpy as np


def directions(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def kernel(a, b, sigma):
    return float(np.exp(-((a - b) ** 2).sum() / sigma**2))


def kernels(x, y, sigma):
    """Shape (len(x), len(y))."""
    return np.array([[kernel(a, b, sigma) for b in y] for a in x]).reshape(len(x), len(y))


class Gains:
    """Gains of all rows, for the rows picked so far."""

    def __init__(self, x, centers, weights, sigma):
        x, centers, self.weights = (np.asarray(a, np.float64) for a in (x, centers, weights))
        self.k = kernels(x, x, sigma)
        self.start = kernels(centers, x, sigma).max(0, initial=0)

    def __call__(self, picks):
        m = np.maximum(self.start, self.k[picks].max(0, initial=0))
        gains = np.array([sum(self.weights * np.maximum(0, self.k[i] - m)) for i in range(len(m))])
        gains[picks] = -np.inf
        return gains


def herding(x, centers, weights, n, sigma):
    """The first of the rows with the largest gain, n times.

    Two rows that cover each other better than anything else does have equal gains, up to rounding.
    """
    gains, picks = Gains(x, centers, weights, sigma), []
    while len(picks) < n:
        now = gains(picks)
        picks.append(int((now >= now.max() - 1e-12 * sum(gains.weights)).argmax()))
    return picks


# UHerding


def uncertainty(logits, t):
    """1 minus the gap between the two largest probabilities. Shape (len(logits),)."""
    gaps = []
    for row in np.asarray(logits, np.float64) / t:
        p = np.sort(np.exp(row - row.max()) / np.exp(row - row.max()).sum())
        gaps.append(p[-1] - p[-2])
    return 1 - np.array(gaps)


def width(x, quantile):
    """Of the distances to the nearest row that is not equal, at most 1; rounded down to one of them."""
    x, nearest = directions(x), []
    for i in range(len(x)):
        others = [np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i]
        if others and min(others) > 1e-6:
            nearest.append(min(others))
    return min(1.0, max(0.01, sorted(nearest)[int(quantile * (len(nearest) - 1))])) if nearest else 1.0


def calibration_error(logits, labels, t, n_bins=15):
    """Mean over images of the gap between accuracy and confidence in their bin, (low, high]."""
    bins = {}
    for row, label in zip(np.asarray(logits, np.float64) / t, labels, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        bins.setdefault(int(np.ceil(p.max() * n_bins)), []).append((p.max(), p.argmax() == label))
    return sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins.values()) / len(labels)
