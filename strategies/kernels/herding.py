"""Greedy coverage by a Gaussian kernel: the picks of the plain loop without a matrix of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import NOT_FINITE, rounding, row_blocks, sq_norms
from strategies.kernels.precision import wide_type
from utils import UserError

Floats = NDArray[np.float64]
TILE = 512  # rows and columns of kernels held at once for the bounds of all rows: 1 MB, which a CPU cache holds
CHECKED = 8  # rows with the largest bounds that float64 measures at once
FIRST_BLOCK, LAST_BLOCK = 32, 1024  # rows whose bounds are renewed at once: twice as many each time
CENTERS = 64  # whose kernels are measured at once
WIDE_ROWS = 1024  # rows converted to float64 at once, which a CPU cache holds
HELD = 2**23  # numbers, 64 MB in float64: up to here, all rows are converted only once
SAME = 1e-12  # gains that differ by a smaller share of the largest possible gain are a tie
SUMS = 1e-5  # far more than float32 rounds a sum of positive numbers by, as a share of it
ROUNDED = 1e-6  # far more than float32 rounds a number by, as a share of it


def herding(x: Tensor, centers: Tensor, weights: Tensor, n: int, sigma: float) -> Idxs:
    """Pick rows one by one, each the one that covers most of what is not covered yet.

    The degree m to which a row is covered is the largest kernel exp(-|x - c|² / sigma²) to a center or pick c, or 0
    without any. The gain of row i is the sum over all rows j of w_j max(0, k_ij - m_j), where k_ij is their kernel.
    Each pick has the largest gain.

    Gains only fall, so that old ones are upper bounds. Float32 products give all rows an upper bound, rounding
    included. For each pick, the largest bounds are renewed, and the gains of the rows that still have the largest
    bounds are measured in float64, until no other bound is larger. The picks are those of the plain loop in float64, up
    to ties.

    Source: Bae, Noh, Sutherland, "Generalized coverage for more robust low-budget active learning", ECCV 2024; Minoux,
        "Accelerated greedy algorithms for maximizing submodular set functions", 1978. Deviation: the authors hold all
        kernels, and therefore choose among 35,000 rows at most.
    Cost: U² D + 2 L U D for the first bounds, then 2 U D for each bound that is renewed, and one float64 copy of all
        rows a pick, block by block, or one of a small pool at the start; O(U) memory, blocks, and HELD numbers.

    Args:
        x: Shape (U, D), float32.
        centers: what is covered already; may be empty. Shape (L, D).
        weights: 0 or more. Shape (U,).
        n: how many, 1 <= n <= U.
        sigma: above 0.

    Returns:
        Positions in `x`, in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: `x`, `centers` or `weights` are not finite.
    """
    if not 1 <= n <= len(x):
        raise ValueError(f"herding: {n} picks of {len(x)} rows")
    coverage = _Coverage(x, weights, sigma)
    for some in centers.split(CENTERS) if len(centers) else ():
        coverage.add(coverage.kernels(some).amax(0))
    tie = SAME * float(coverage.weights.sum())
    if not (np.isfinite(tie) and coverage.degree.isfinite().all()):
        raise UserError(NOT_FINITE)
    upper = coverage.all_bounds()
    picks: list[int] = []
    while len(picks) < n:
        pick, kernels = _next_pick(coverage, upper, np.full(len(x), not picks), tie)
        coverage.add(kernels)
        upper[pick] = -np.inf
        picks.append(pick)
    return np.array(picks)


def _next_pick(coverage: _Coverage, upper: Floats, renewed: NDArray[np.bool_], tie: float) -> tuple[int, Tensor]:
    """The row with the largest gain, and its kernels with all rows.

    Args:
        coverage: says what gains are.
        upper: upper bounds of the gains, -inf for rows picked before; lowered in place. Shape (U,).
        renewed: which of them are for the present coverage; updated. Shape (U,).
        tie: gains that differ by less are equal.
    """
    pick, largest, kernels = -1, -np.inf, coverage.degree
    measured, size = np.zeros(len(upper), bool), FIRST_BLOCK
    while len(rows := np.flatnonzero((upper > largest + tie) & ~measured)):
        rows = rows[np.argsort(-upper[rows], kind="stable")]
        known = rows[renewed[rows]][:CHECKED]
        if len(known) and (pick < 0 or renewed[rows[:CHECKED]].all()):
            block = coverage.kernels(coverage.x[known])
            upper[known] = gains = coverage.gains(block)
            measured[known] = True
            i = int((gains >= gains.max() - tie).argmax())
            if gains[i] > largest + tie:
                pick, largest, kernels = int(known[i]), gains[i], block[i].clone()
        elif pick >= 0 and 2 * np.count_nonzero(~renewed[rows]) > len(upper):
            upper[:] = np.minimum(upper, coverage.all_bounds())
            renewed[:] = True
        else:
            some = rows[~renewed[rows]][:size]
            upper[some] = np.minimum(upper[some], coverage.bounds(some))
            renewed[some] = True
            size = min(2 * size, LAST_BLOCK)
    return pick, kernels


class _Coverage:
    """To what degree each row is covered.

    Args:
        x: all rows. Shape (U, D), float32.
        weights: Shape (U,).
        sigma: of the kernel.
    """

    def __init__(self, x: Tensor, weights: Tensor, sigma: float) -> None:
        self.x, self.scale = x, sigma**-2
        self._held = x.to(wide_type(x)) if x.numel() <= HELD else None
        self.degree = x.new_zeros(len(x), dtype=wide_type(x))
        self.weights = weights.to(self.degree.dtype)
        self.wide_sq = torch.empty_like(self.degree)
        for rows, wide in self._wide_blocks():
            self.wide_sq[rows] = wide.square().sum(1)
        sq = sq_norms(x)
        slack = 2 * rounding(x.shape[1]) * float(sq.max()) * self.scale
        self.half = sq * self.scale - slack / 2  # two of these and a product give an exponent that is not too small

    def add(self, kernels: Tensor) -> None:
        """Cover rows to these degrees, where they are not covered more. Shape (U,)."""
        torch.maximum(self.degree, kernels, out=self.degree)

    def kernels(self, centers: Tensor) -> Tensor:
        """Kernels of a few centers with all rows, in float64. Shape (C, U)."""
        centers = centers.to(self.degree.dtype)
        k = centers.new_empty(len(centers), len(self.x))
        for rows, wide in self._wide_blocks():
            k[:, rows] = centers @ wide.T
        sq = centers.square().sum(1)[:, None]
        return k.mul_(-2).add_(self.wide_sq).add_(sq).clamp_min_(0).mul_(-self.scale).exp_()

    def gains(self, kernels: Tensor) -> Floats:
        """Gains of the rows with these kernels, (B, U), in float64. Shape (B,)."""
        gains = [(k - self.degree).clamp_min_(0) @ self.weights for k in kernels]
        return torch.stack(gains).to("cpu", torch.float64).numpy()

    def bounds(self, positions: Idxs) -> Floats:
        """Upper bounds of the gains of some rows. Shape (B,)."""
        some = torch.from_numpy(positions).to(self.x.device)
        covered, weights = self._rounded_down(), self.weights.float()
        total = self.degree.new_zeros(len(some))
        for rows in row_blocks(len(self.x), len(some)):
            total += self._upper_kernels(some, rows).sub_(covered[rows]).relu_() @ weights[rows]
        return self._rounded_up(total)

    def all_bounds(self) -> Floats:
        """Upper bounds of the gains of all rows, for half of the products. Shape (U,)."""
        covered, weights = self._rounded_down(), self.weights.float()
        total = torch.zeros_like(self.degree)
        tiles = [slice(start, min(start + TILE, len(self.x))) for start in range(0, len(self.x), TILE)]
        for i, rows in enumerate(tiles):
            for columns in tiles[i:]:
                k = self._upper_kernels(rows, columns)
                total[rows] += (k - covered[columns]).relu_() @ weights[columns]
                if columns is not rows:
                    total[columns] += weights[rows] @ k.sub_(covered[rows, None]).relu_()
        return self._rounded_up(total)

    def _upper_kernels(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """Kernels by float32 products, rounded up. Shape (R, C)."""
        some = self.x[rows] * (2 * self.scale)
        exponents = torch.addmm(self.half[columns], some, self.x[columns].T, beta=-1)
        return exponents.sub_(self.half[rows, None]).clamp_max_(0).exp_()

    def _rounded_down(self) -> Tensor:
        return self.degree.float().mul_(1 - ROUNDED)

    def _rounded_up(self, total: Tensor) -> Floats:
        return (total * (1 + SUMS)).to("cpu", torch.float64).numpy()

    def _wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in float64, block by block in the same memory."""
        if self._held is not None:
            yield slice(None), self._held
            return
        buffer = self.x.new_empty(min(WIDE_ROWS, len(self.x)), self.x.shape[1], dtype=self.degree.dtype)
        for start in range(0, len(self.x), WIDE_ROWS):
            rows = slice(start, min(start + WIDE_ROWS, len(self.x)))
            yield rows, buffer[: rows.stop - start].copy_(self.x[rows])
