"""Average linkage and ClusterMargin with plain loops, in float64."""

import itertools

import numpy as np


def mean_distance(x, a, b):
    return float(np.mean([np.linalg.norm(x[i] - x[j]) for i in a for j in b]))


def average_linkage(x, k):
    """Sets of rows."""
    x = np.asarray(x, np.float64)
    clusters = [[i] for i in range(len(x))]
    while len(clusters) > k:
        a, b = min(itertools.combinations(clusters, 2), key=lambda pair: mean_distance(x, *pair))
        clusters = [c for c in clusters if c is not a and c is not b] + [a + b]
    return {frozenset(c) for c in clusters}


def nearest_on_average(x, members, assignment):
    x, members = np.asarray(x, np.float64), np.asarray(members, np.float64)
    both, groups = np.concatenate([members, x]), sorted({*map(int, assignment)})
    of = {c: [i for i, other in enumerate(assignment) if other == c] for c in groups}
    return [min(groups, key=lambda c: mean_distance(both, [len(members) + i], of[c])) for i in range(len(x))]


def in_turn(clusters, n):
    """How many rows are drawn from clusters of each size, and how often from each cluster at most."""
    left = {c: sum(other == c for other in clusters) for c in set(clusters)}
    order = sorted(left, key=lambda c: left[c])
    drawn = []
    while len(drawn) < n:
        for c in order:
            if left[c] and len(drawn) < n:
                left[c] -= 1
                drawn.append(c)
    return drawn
