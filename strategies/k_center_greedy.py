"""The images that cover all others best: each pick is the farthest from what is covered."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.base import Idxs, Strategy
from strategies.distances import NOT_FINITE, centered, rounding, row_blocks, sq_norms
from utils import UserError

Floats = NDArray[np.float64]
BLOCK_ROWS = 512  # candidates between two passes over the pool
STRIDE = 4


@dataclass
class KCenterGreedy(Strategy):
    """One by one, the image whose embedding is farthest from all labeled and picked ones.

    Source: Sener, Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018.
    Cost: one pass of the body over all images, one product of unlabeled with labeled and picked embeddings.
    """

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The greedy cover."""
        order = self.rng.permutation(len(idxs))  # equally far images are told apart by position: make it a draw
        x = self.learner.embeddings(self.pool.images[idxs])[torch.from_numpy(order).to(self.learner.device)]
        labeled = self.pool.labeled
        centers = self.learner.embeddings(self.pool.images[labeled]) if len(labeled) else x[:0]
        return idxs[order[k_center_greedy(x, centers, n)]]


def k_center_greedy(x: Tensor, centers: Tensor, n: int) -> Idxs:
    """Pick rows of `x` one by one, each the farthest from all centers and picks so far.

    Float32 products give every row an upper bound of its distance. Only the rows with the largest bounds are measured
    in float64, and picked from while the farthest of them beats the bound of all others; then one product lowers all
    bounds. The picks are those of the plain loop in float64; equally far rows come in a fixed order of their own.
    Without centers the first pick is the row farthest from the mean.

    Source: Sener, Savarese, ICLR 2018, algorithm 1. Deviation: squared distances; the order is the same.
    Cost: O((L + n) U D) time, in about 1 + n / 200 passes; O(U) memory beyond a copy of the inputs.

    Args:
        x: candidates. Shape (U, D).
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
    x, mean = centered(x)
    x_sq = sq_norms(x)
    centers = (centers - mean).float()
    picks: list[int] = []
    if not len(centers):
        picks = [int(_exact_nearest(x, torch.zeros_like(x[:1])).argmax())]
        centers = x[picks]
    upper = _upper_bounds(x, x_sq, centers[::STRIDE])  # of the squared distance to all centers and picks; -1 for a pick
    if not np.isfinite(upper).all():
        raise UserError(NOT_FINITE)
    upper[picks] = -1
    from_centers = np.full(len(x), np.nan)  # exact squared distance to the centers, where it was asked for
    while len(picks) < n:
        block, bound = _largest(upper, BLOCK_ROWS)
        new = block[np.isnan(from_centers[block])]
        from_centers[new] = _exact_nearest(x[new], centers)
        now = np.minimum(from_centers[block], _exact_nearest(x[block], x[picks]))
        now[upper[block] < 0] = -1
        chosen, upper[block] = _greedy(now, _exact(x[block], x[block]).cpu().numpy(), bound, n - len(picks))
        if chosen:
            picks += block[chosen].tolist()
            upper = np.minimum(upper, _upper_bounds(x, x_sq, x[block[chosen]]))
    return np.array(picks)


def _largest(upper: Floats, size: int) -> tuple[Idxs, float]:
    """Positions of the largest bounds, and the largest of the others."""
    if len(upper) <= size:
        return np.arange(len(upper)), -np.inf
    order = np.argpartition(-upper, size)
    return order[:size], float(upper[order[size]])


def _greedy(now: Floats, pairs: Floats, bound: float, n: int) -> tuple[list[int], Floats]:
    """Pick the farthest of a block while it is at least as far as anything outside.

    Args:
        now: squared distance to all that is covered, -1 for what is picked. Shape (B,).
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
        now[i] = -1  # not 0: a duplicate of a pick has 0 and is still to be had
    return chosen, now


def _upper_bounds(x: Tensor, x_sq: Tensor, centers: Tensor) -> Floats:
    """No less than the squared distance of each row to its nearest center, whatever float32 did. Shape (U,)."""
    up = 1 + rounding(x.shape[1])
    c_sq = sq_norms(centers) * up
    blocks = [torch.addmm(c_sq, x[rows], centers.T, alpha=-2).amin(1) for rows in row_blocks(len(x), len(centers))]
    return torch.cat(blocks).add_(x_sq, alpha=up).cpu().numpy().astype(np.float64)


def _exact_nearest(x: Tensor, centers: Tensor) -> Floats:
    """Squared distance of each row to its nearest center, in float64; infinite without centers. Shape (B,)."""
    nearest = torch.full((len(x),), torch.inf, device=x.device, dtype=_wide(x))
    for start in range(0, len(centers), 4096):
        nearest = torch.minimum(nearest, _exact(x, centers[start : start + 4096]).amin(1))
    return nearest.cpu().numpy().astype(np.float64)


def _exact(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances in float64. Shape (len(x), len(y))."""
    x, y = x.to(_wide(x)), y.to(_wide(y))
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None]).clamp_min_(0)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64
