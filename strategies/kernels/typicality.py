"""The most typical rows of clusters: those with the nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import row_blocks
from strategies.kernels.precision import wide_type

SPARE = 64  # neighbours kept of each row beyond those it needs, so that so many picks need no new distances
SAME = 1e-9  # mean distances that differ by a smaller share are a tie: two rows are equally near to each other


def most_typical(
    x: Tensor, assignment: Tensor, labeled: Idxs, n: int, n_neighbors: int = 20, min_size: int = 5
) -> Idxs:
    """Pick rows from the clusters in turn, each the most typical of those left in its cluster.

    The typicality of a row is 1 / its mean distance to its K nearest neighbours among the unlabeled rows of its cluster
    that are not picked yet, where K is half of these rows, at most `n_neighbors`. Clusters with the fewest labeled rows
    come first, of these the largest. Small clusters come after all rows of the others are picked.

    Source: Hacohen, Dekel, Weinshall, ICML 2022, algorithm 1; order, K and the least size as in the authors' code.
        Deviation: the authors' code takes squared distances and fails when there are not enough rows in large clusters.
    Cost: 2 s^2 D for each cluster of s rows from which rows are picked, in float64, again after every 64 picks; memory
        for 2 s D and 84 s numbers and a block.

    Args:
        x: Shape (N, D).
        assignment: the cluster of each row, from 0. Shape (N,).
        labeled: positions of labeled rows, all different; may be empty.
        n: how many, 1 <= n <= N - L.
        n_neighbors: neighbours of a row, at least 1.
        min_size: clusters of up to so many rows, labeled ones included, are small.

    Returns:
        Positions in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to N - L.
    """
    clusters = assignment.cpu().numpy()
    left = np.ones(len(x), bool)
    left[labeled] = False
    if not 1 <= n <= left.sum():
        raise ValueError(f"most_typical: {n} picks of {left.sum()} rows")
    sizes, n_left = np.bincount(clusters), np.bincount(clusters[left], minlength=int(clusters.max()) + 1)
    order = np.lexsort([-sizes, sizes - n_left])
    large = sizes[order] > min_size
    turns = [*_turns(order[large], n_left), *_turns(order[~large], n_left)][:n]
    members = np.flatnonzero(left)
    members = members[np.argsort(clusters[members], kind="stable")]
    starts = np.cumsum(n_left) - n_left
    picks = np.empty(n, np.int64)
    for cluster, count in zip(*np.unique(turns, return_counts=True), strict=True):
        rows = members[starts[cluster] : starts[cluster] + n_left[cluster]]
        picks[turns == cluster] = rows[_one_by_one(x[torch.from_numpy(rows).to(x.device)], count, n_neighbors)]
    return picks


def _turns(order: Idxs, n_left: Idxs) -> Iterable[int]:
    """Clusters in turn, in the given order, each as often as it has rows left."""
    for turn in range(max(n_left[order], default=0)):
        yield from order[n_left[order] > turn].tolist()


def _one_by_one(x: Tensor, n: int, n_neighbors: int) -> list[int]:
    """Positions of n rows, each the most typical of those that are not picked yet."""
    rows = np.arange(len(x))
    picks: list[int] = []
    while True:
        neighbors, distances = nearest_others(x, n_neighbors + SPARE)
        left = np.ones(len(x), bool)
        for _ in range(min(SPARE, n - len(picks))):
            k = min(n_neighbors, max(1, left.sum() // 2))
            counted = left[neighbors]
            counted &= counted.cumsum(1) <= k
            means = (distances * counted).sum(1) / k
            means[~left] = np.inf
            i = int((means <= means.min() * (1 + SAME)).argmax())
            left[i] = False
            picks.append(int(rows[i]))
        if len(picks) == n:
            return picks
        rows, x = rows[left], x[torch.from_numpy(left).to(x.device)]


def nearest_others(x: Tensor, k: int) -> tuple[Idxs, NDArray[np.float64]]:
    """Positions of each row's k nearest other rows, or of all if there are fewer, and the distances, ascending.

    Args:
        x: Shape (U, D).
        k: at least 1.

    Returns:
        Two arrays (U, min(k, U - 1)).
    """
    x = x.to(wide_type(x))
    k = min(k, len(x) - 1)
    sq = x.square().sum(1)
    neighbors, distances = sq.new_empty(len(x), k, dtype=torch.int64), sq.new_empty(len(x), k)
    for rows in row_blocks(len(x), len(x)):
        block = torch.addmm(sq, x[rows], x.T, alpha=-2).add_(sq[rows, None]).clamp_min_(0)
        block.diagonal(rows.start).fill_(torch.inf)
        nearest = block.topk(k, largest=False)
        neighbors[rows], distances[rows] = nearest.indices, nearest.values.sqrt()
    return neighbors.cpu().numpy(), distances.to("cpu", torch.float64).numpy()
