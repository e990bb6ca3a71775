"""TypiClust as the paper describes it, given the clusters: loops over pairs, in float64."""

import numpy as np


def mean_distance(x, i, members, n_neighbors):
    """Of row i to its K nearest among the other members, K half of the members; 0 without any."""
    others = sorted(float(np.sqrt(((x[i] - x[j]) ** 2).sum())) for j in members if j != i)
    k = min(n_neighbors, len(members) // 2)
    return sum(others[:k]) / k if k else 0.0


def most_typical(x, assignment, labeled, n, n_neighbors=20, min_size=5):
    """Picks, in order. A cluster that has no row left is passed over; small clusters come last."""
    x, labeled = np.asarray(x, np.float64), set(map(int, labeled))
    members = {c: [i for i in range(len(x)) if assignment[i] == c] for c in sorted({*map(int, assignment)})}
    n_labeled = {c: sum(i in labeled for i in rows) for c, rows in members.items()}
    order = sorted(members, key=lambda c: (n_labeled[c], -len(members[c])))
    large = [c for c in order if len(members[c]) > min_size]
    left = {c: [i for i in rows if i not in labeled] for c, rows in members.items()}
    picks = []
    for group in (large, [c for c in order if c not in large]):
        while len(picks) < n and any(left[c] for c in group):
            for c in group:
                if left[c] and len(picks) < n:
                    pick = min(left[c], key=lambda i: mean_distance(x, i, left[c], n_neighbors))
                    left[c].remove(pick)
                    picks.append(pick)
    return picks
