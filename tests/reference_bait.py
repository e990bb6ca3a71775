"""BAIT in binary form as the paper writes it: explicit inverses, float64, one row at a time."""

import numpy as np


def fisher_rows(logits, h):
    """sqrt(p (1 - p)) h of each row, p the largest probability."""
    rows = []
    for z, features in zip(np.asarray(logits, np.float64), np.asarray(h, np.float64), strict=True):
        p = np.exp(z - z.max())
        p = (p / p.sum()).max()
        rows.append(np.sqrt(p * (1 - p)) * features)
    return np.array(rows)


def information(rows, d):
    """Mean outer product."""
    total = np.zeros((d, d))
    for v in rows:
        total += np.outer(v, v)
    return total / max(1, len(rows))


class Objective:
    """tr(F M_S^-1) of a set S of rows of x."""

    def __init__(self, x, labeled, n, ridge):
        self.x, d = np.asarray(x, np.float64), np.shape(x)[1]
        labeled = np.asarray(labeled, np.float64).reshape(-1, d)
        n_labeled = len(labeled)
        self.share = n / (n_labeled + n)
        self.fisher = information([*self.x, *labeled], d)
        self.start = ridge * np.eye(d) + n_labeled / (n_labeled + n) * information(labeled, d)

    def __call__(self, chosen):
        m = self.start.copy()
        for i in chosen:
            m += self.share * np.outer(self.x[i], self.x[i])
        return np.trace(self.fisher @ np.linalg.inv(m))


def forward(objective, n):
    """Add the row that leaves the smallest trace, n times."""
    chosen = []
    for _ in range(n):
        rest = [i for i in range(len(objective.x)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: objective([*chosen, i])))
    return chosen


def backward(objective, chosen, n):
    """Remove the row without which the trace is smallest, until n are left."""
    chosen = list(chosen)
    while len(chosen) > n:
        out = min(chosen, key=lambda i: objective([j for j in chosen if j != i]))
        chosen.remove(out)
    return chosen


def bait(x, labeled, n, ridge=1.0, oversample=2.0):
    """Forward to oversample * n rows, backward to n."""
    objective = Objective(x, labeled, n, ridge)
    return backward(objective, forward(objective, min(int(oversample * n), len(objective.x))), n)
