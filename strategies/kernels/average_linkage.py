"""Clusters by average linkage."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import BLOCK, NOT_FINITE, row_blocks
from strategies.kernels.precision import wide_type
from utils import UserError

BAND = 256  # rows whose distances to all later rows are computed at once: more would repeat those among themselves


def average_linkage(x: Tensor, k: int) -> Idxs:
    """Cluster rows: begin with one cluster a row, and join the two with the smallest mean distance until k are left.

    Source: Sokal, Michener, "A statistical method for evaluating systematic relationships", 1958.
    Cost: S² D for the distances, O(S²) for the clusters; memory for S² / 2 float64 numbers.

    Args:
        x: Shape (S, D).
        k: clusters, 1 <= k <= S.

    Returns:
        The cluster of each row, 0 to k - 1. Shape (S,).

    Raises:
        ValueError: k is not from 1 to S.
        UserError: `x` is not finite.
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"average_linkage: {k} clusters of {len(x)} rows")
    if not x.isfinite().all():
        raise UserError(NOT_FINITE)
    cluster = np.arange(2 * len(x) - 1)  # each row, then each cluster in the order of joining: the cluster it is in
    joins = _joins(x)[: len(x) - k]
    for i in reversed(range(len(joins))):
        cluster[joins[i]] = cluster[len(x) + i]
    return np.unique(cluster[: len(x)], return_inverse=True)[1]


def _joins(x: Tensor) -> NDArray[np.int64]:
    """Which two clusters are joined, S - 1 times; the one made by join i has the number S + i. Shape (S - 1, 2)."""
    from scipy.cluster.hierarchy import linkage  # takes a while to import

    if len(x) == 1:
        return np.empty((0, 2), np.int64)
    wide = x.to(wide_type(x))
    condensed = np.empty(len(x) * (len(x) - 1) // 2)
    filled = 0
    for rows in row_blocks(len(x), len(x), min(BLOCK, BAND * len(x))):
        block = distances_between(wide[rows], wide[rows.start :]).cpu().numpy()
        for i, row in enumerate(block):
            part = row[i + 1 :]
            condensed[filled : filled + len(part)] = part
            filled += len(part)
    return linkage(condensed, "average")[:, :2].astype(np.int64)


def nearest_on_average(x: Tensor, members: Tensor, assignment: Idxs) -> Idxs:
    """The cluster to whose members each row has the smallest mean distance.

    Args:
        x: Shape (B, D).
        members: rows in clusters. Shape (S, D).
        assignment: the cluster of each of these, 0 to k - 1, each with a member. Shape (S,).

    Returns:
        Shape (B,).
    """
    order = np.argsort(assignment, kind="stable")
    starts = torch.from_numpy(np.searchsorted(assignment[order], np.arange(assignment.max() + 1))).to(x.device)
    everything = torch.arange(len(members), device=x.device)
    wide = members[torch.from_numpy(order).to(x.device)].to(wide_type(x))
    nearest = np.empty(len(x), np.int64)
    for rows in row_blocks(len(x), len(members)):
        away = distances_between(wide, x[rows].to(wide.dtype))
        nearest[rows] = F.embedding_bag(everything, away, starts, mode="mean").argmin(0).cpu().numpy()
    return nearest


def distances_between(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances of all rows to all rows. Shape (len(x), len(y))."""
    sq = torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])
    return sq.clamp_min_(0).sqrt_()
