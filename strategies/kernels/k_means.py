"""k-means by matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from strategies.kernels.d2_sampling import Rows, sample_d2
from strategies.kernels.distances import centered_in_place, rounding, row_blocks, sq_norms

SUM_ROWS = 1024  # float32 sums of more rows than this lose digits, so long ones are summed in two stages


def k_means(
    x: Tensor, k: int, rng: np.random.Generator, max_iter: int = 20, tol: float = 5e-4
) -> tuple[Tensor, Tensor]:
    """Cluster rows by Lloyd's algorithm, seeded by k-means++.

    Every cluster has a member, even if there are fewer than k different rows: an empty one gets the row that is
    farthest from its center, of a cluster that has two or more. The same on every run, on CUDA too.

    Source: Lloyd, IEEE Trans. Inf. Theory 1982; Arthur, Vassilvitskii, SODA 2007.
    Cost: 2 U k D per iteration, in matrix products of row blocks; memory for one more copy of `x`, none for a
        large one, whose last digits change.

    Args:
        x: Shape (U, D).
        k: clusters, 1 <= k <= U.
        rng: draws the seeds.
        max_iter: iterations at most.
        tol: stop when the sum of squared distances falls by less than this share in an iteration. With both defaults
            the sum ends within 0.3 % of scikit-learn's at convergence (see benchmarks/selection.py).

    Returns:
        The mean of each cluster (k, D), and the cluster of each row (U,), int64.

    Raises:
        ValueError: k is not from 1 to U.
        UserError: `x` is not finite.
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k_means: {k} clusters of {len(x)} rows")
    given = x
    x, mean = centered_in_place(x)
    x_sq = sq_norms(x)
    centroids = x[_seeds(x, x_sq, k, rng)]
    last = float("inf")
    for _ in range(max_iter):
        assignment, sq = _nearest_centroids(x, x_sq, centroids)
        _fill_empty(assignment, sq, k)
        centroids = _means(x, assignment, k)
        inertia = sq.sum().item()
        if inertia >= (1 - tol) * last:
            break
        last = inertia
    if x is given:
        x.add_(mean)
    return centroids + mean, assignment


def _seeds(x: Tensor, x_sq: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Positions of the rows to start from: 2 k drawn by k-means++, and of these k by greedy k-means++.

    The greedy draw weighs each of the 2 k by the rows nearest to it, and is what scikit-learn does with all rows. From
    here k-means ends 0.4 % lower than from k rows drawn at once, for the time of 3 iterations. A row may come twice
    when there are fewer than k different ones.
    """
    drawn = sample_d2(_sq_distances(x, x_sq), len(x), int(rng.integers(len(x))), min(2 * k, len(x)), rng, x.device)
    seeds = torch.from_numpy(drawn).to(x.device)
    assignment, _ = _nearest_centroids(x, x_sq, x[seeds])
    weights = torch.bincount(assignment, minlength=len(seeds)).cpu().numpy()
    distances = _sq_distances(x[seeds], x_sq[seeds])
    picks = [int(weights.argmax())]
    nearest = distances(slice(None), torch.tensor(picks, device=x.device)).cpu().numpy()[:, 0]
    while len(picks) < k:
        cumulative = np.cumsum(weights * nearest, dtype=np.float64)
        trials = np.searchsorted(cumulative, rng.random(2 + int(math.log(k))) * cumulative[-1], side="right")
        trials = trials.clip(max=len(seeds) - 1)
        to_trials = distances(slice(None), torch.from_numpy(trials).to(x.device)).cpu().numpy()
        after = np.minimum(nearest[:, None], to_trials)
        best = int((weights @ after).argmin())
        picks.append(int(trials[best]))
        nearest = after[:, best]
    return seeds[torch.tensor(picks, device=x.device)]


def _sq_distances(x: Tensor, x_sq: Tensor) -> Callable[[Rows, Tensor], Tensor]:
    """Squared distances from rows to picks, as `sample_d2` takes them."""
    low = x_sq * (1 - rounding(x.shape[1]))  # rounded down, so that equal rows have 0

    def distances(rows: Rows, picks: Tensor) -> Tensor:
        return torch.addmm(low[picks], x[rows], x[picks].T, alpha=-2).add_(low[rows][:, None]).clamp_min_(0)

    return distances


def _nearest_centroids(x: Tensor, x_sq: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each row, and the squared distance to it."""
    c_sq = sq_norms(centroids)
    assignment, sq = torch.empty(len(x), dtype=torch.int64, device=x.device), x_sq.clone()
    for rows in row_blocks(len(x), len(centroids)):
        nearest = torch.addmm(c_sq, x[rows], centroids.T, alpha=-2).min(1)
        assignment[rows] = nearest.indices
        sq[rows] += nearest.values
    return assignment, sq.clamp_min_(0)


def _fill_empty(assignment: Tensor, sq: Tensor, k: int) -> None:
    """Move the farthest rows, one to each empty cluster, in place; no cluster loses its last row."""
    counts = torch.bincount(assignment, minlength=k).cpu().numpy()
    empty = np.flatnonzero(counts == 0).tolist()
    if not empty:
        return
    clusters = assignment.cpu().numpy()
    for row in np.argsort(-sq.cpu().numpy(), kind="stable"):
        if counts[clusters[row]] > 1:
            counts[clusters[row]] -= 1
            assignment[row] = empty.pop()
            sq[row] = 0
        if not empty:
            break


def _means(x: Tensor, assignment: Tensor, k: int) -> Tensor:
    """Mean row of each cluster. Sums of sorted rows: index_add_ on CUDA adds in a different order on every run."""
    clusters, order = assignment.sort(stable=True)
    starts = torch.searchsorted(clusters, torch.arange(k, device=x.device))
    pieces = torch.cat([starts, torch.arange(0, len(x), SUM_ROWS, device=x.device)]).unique()
    partial = F.embedding_bag(order, x, pieces, mode="sum")
    sums = F.embedding_bag(
        torch.arange(len(pieces), device=x.device), partial, torch.searchsorted(pieces, starts), mode="sum"
    )
    return sums / torch.bincount(assignment, minlength=k)[:, None]


def nearest_members(x: Tensor, centroids: Tensor, assignment: Tensor) -> Tensor:
    """In each cluster the row nearest to the centroid; of equally near ones the first.

    Both rows of a cluster of two are equally near: squared distances count as equal when 4 digits are, so that rounding
    in the embeddings does not choose.

    Args:
        x: Shape (U, D).
        centroids: Shape (k, D).
        assignment: the cluster of each row; every cluster has one. Shape (U,).

    Returns:
        Positions in `x`, all different. Shape (k,).
    """
    sq = x.new_empty(len(x))
    for rows in row_blocks(*x.shape):
        sq[rows] = (x[rows] - centroids[assignment[rows]]).square().sum(1)
    order = sq.argsort(stable=True)
    nearest = order[_first_of_each(assignment[order], len(centroids))]
    near = (sq <= 1.0001 * sq[nearest][assignment]).nonzero()[:, 0]
    return near[_first_of_each(assignment[near], len(centroids))]


def _first_of_each(clusters: Tensor, k: int) -> Tensor:
    """Where each of the clusters 0 to k - 1 comes first. Shape (k,)."""
    in_order, positions = clusters.sort(stable=True)
    return positions[torch.searchsorted(in_order, torch.arange(k, device=clusters.device))]
