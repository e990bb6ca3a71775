"""k-center greedy: the picks of the plain loop in a few passes over the pool."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, centered_in_place, rounding, row_blocks, sq_norms
from utils import UserError

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
BLOCK_ROWS = 512  # candidates measured in float64 between two passes over the pool
STRIDE = 4  # every 4th center gives the first bounds; all of them only measure the candidates (2 times faster than 1)


def k_center_greedy(x: Tensor, centers: Tensor, n: int) -> Positions:
    """Pick rows of `x` one by one, each the farthest from all centers and picks so far.

    Float32 products with some of the centers give every row an upper bound of its distance. Only the rows with the
    largest bounds are measured in float64, and picked from while the farthest of them beats the bounds of all others;
    then one product with these picks lowers all bounds. The picks are those of the plain loop in float64, except
    that ties may break differently.
    Without centers the first pick is the row farthest from the mean.

    Source: Sener, Savarese, ICLR 2018, algorithm 1. Deviation: squared distances; the order is the same.
    Cost: O((L + n) U D) time at most, in about 1 + n / 200 passes over the pool; O(U) memory beyond a copy of the
        inputs, none of large ones.

    Args:
        x: candidates. Shape (U, D).
            From LARGE numbers on, they are overwritten.
        centers: what is covered already; may be empty. Shape (L, D).
        n: how many, 1 <= n <= U.

    Returns:
        Positions in `x`, in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: `x` or `centers` are not finite.
    """
    if not 1 <= n <= len(x):
        raise ValueError(f"k_center_greedy: {n} picks of {len(x)} rows")
    near, mean = centered_in_place(x)
    near_centers = (centers - mean).float()
    if near is x:  # from here on, everything is seen from the mean
        centers, mean = near_centers, torch.zeros_like(mean)
    if not near_centers.isfinite().all():
        raise UserError(NOT_FINITE)
    sq = sq_norms(near)
    picks: list[int] = []
    if not len(centers):
        from_mean = [_exact_nearest(x[rows], mean[None], mean) for rows in row_blocks(*x.shape)]
        picks = [int(np.concatenate(from_mean).argmax())]
        near_centers = near[picks]
    upper = _upper_bounds(near, sq, near_centers[::STRIDE])  # of the squared distance to centers and picks
    upper[picks] = -1
    from_centers = np.full(len(x), np.nan)  # exact squared distance to the centers, where computed
    while len(picks) < n:
        block, bound = _largest(upper, BLOCK_ROWS)
        new = block[np.isnan(from_centers[block])]
        from_centers[new] = _exact_nearest(x[new], centers, mean)
        now = np.minimum(from_centers[block], _exact_nearest(x[block], x[picks], mean))
        now[upper[block] < 0] = -1
        wide = _wide(x[block], mean)
        chosen, upper[block] = _greedy(now, _sq_distances(wide, wide).cpu().numpy(), bound, n - len(picks))
        if chosen:
            picks += block[chosen].tolist()
            upper = np.minimum(upper, _upper_bounds(near, sq, near[block[chosen]]))
    return np.array(picks)


def _largest(upper: Floats, size: int) -> tuple[Positions, float]:
    """Positions of the largest bounds, and the largest of the others."""
    if len(upper) <= size:
        return np.arange(len(upper)), -np.inf
    order = np.argpartition(-upper, size)
    return order[:size], float(upper[order[size]])


def _greedy(now: Floats, pairs: Floats, bound: float, n: int) -> tuple[list[int], Floats]:
    """Pick the farthest of a block while it is at least as far as anything outside.

    Args:
        now: squared distance to the nearest center or pick, -1 for rows picked already. Shape (B,).
        pairs: squared distances in the block. Shape (B, B).
        bound: no row outside the block is farther.
        n: how many at most.

    Returns:
        Positions in the block, and `now` after them.
    """
    chosen: list[int] = []
    while len(chosen) < n:
        i = int(now.argmax())
        if now[i] < max(bound, 0):
            break
        chosen.append(i)
        now = np.minimum(now, pairs[i])
        now[i] = -1  # not 0: a duplicate of a pick has distance 0 and can still be picked
    return chosen, now


def _upper_bounds(x: Tensor, x_sq: Tensor, centers: Tensor) -> Floats:
    """An upper bound of each row's squared distance to its nearest center, rounding included. Shape (U,)."""
    up = 1 + rounding(x.shape[1])
    c_sq = sq_norms(centers) * up
    upper = x_sq * up
    for rows in row_blocks(len(x), len(centers)):
        upper[rows] += torch.addmm(c_sq, x[rows], centers.T, alpha=-2).amin(1)
    return upper.cpu().numpy().astype(np.float64)


def _exact_nearest(x: Tensor, centers: Tensor, mean: Tensor) -> Floats:
    """Squared distance of each row to its nearest center, in float64; infinite without centers. Shape (B,)."""
    wide = _wide(x, mean)
    nearest = wide.new_full((len(x),), torch.inf)
    for start in range(0, len(centers), 4096):
        nearest = torch.minimum(nearest, _sq_distances(wide, _wide(centers[start : start + 4096], mean)).amin(1))
    return nearest.cpu().numpy().astype(np.float64)


def _wide(x: Tensor, mean: Tensor) -> Tensor:
    dtype = torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64
    return x.to(dtype) - mean.to(dtype)


def _sq_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances from all rows to all rows. Shape (len(x), len(y))."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None]).clamp_min_(0)
