"""Choosing rows that make a trace small: forward greedy, then backward pruning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, row_blocks
from strategies.kernels.precision import wide_type
from utils import UserError

Positions = NDArray[np.int64]
CHECKED = 16  # rows with nearly the largest float32 gain, of which float64 finds the largest, at most
NEAR = 1e-3  # how much less than the largest their gains may be, as a share of it
DRIFT = 1e-4  # error of these gains, as a share, from which all are measured anew (then it is about 1e-6)
PANEL = 256  # columns of a symmetric matrix that are computed at once, down to its diagonal
SAME = 1e-12  # gains that differ by a smaller share are a tie


def trace_greedy(x: Tensor, target: Tensor, start: Tensor, n: int, n_forward: int) -> Positions:
    """Choose rows S of `x` that make tr(T M^-1) small, where M is the start plus the outer products of the rows in S.

    Forward: add the row that lowers the trace most, n_forward times. Backward: remove the row of S whose loss raises it
    least, until n are left. Each step is that of the direct formula in float64, where every inverse is computed anew,
    up to rounding; of equal rows, the first is added and the last is removed.

    With a = x' M^-1 x and b = x' M^-1 T M^-1 x, adding x lowers the trace by b / (1 + a), and removing x raises it by
    b / (1 - a). When M changes, two products of the rows with a vector update a and b of all rows. Forward, these
    products are float32, added up in float64, and the rows with the largest gains are then measured in float64.

    Source: Ash, Goel, Krishnamurthy, Kakade, "Gone fishing", NeurIPS 2021, algorithm 1. Deviation: a and b are updated
    in O(U D) a step, by the formula of Sherman and Morrison, not computed in O(U D^2); the choice is the same.
    Cost: 2 products of `x` with a matrix (D, D), then 2 U D and some D^2 a forward step and n_forward^2 a backward
        step; O(U) memory and a few matrices (D, D).

    Args:
        x: Shape (U, D), float32.
        target: T, symmetric, without negative eigenvalues. Shape (D, D), of `wide_type`.
        start: M without rows of `x`, symmetric, positive definite. Shape (D, D), of `wide_type`.
        n: how many rows to choose.
        n_forward: how many the forward steps choose; 1 <= n <= n_forward <= U.

    Returns:
        Positions in the order of the forward steps, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to n_forward, or n_forward is larger than U.
        UserError: a value is not finite.
    """
    if not 1 <= n <= n_forward <= len(x):
        raise ValueError(f"trace_greedy: {n} of {n_forward} picks of {len(x)} rows")
    if not (target.isfinite().all() and start.isfinite().all()):
        raise UserError(NOT_FINITE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(start))
    a, b = _all_forms(x, inverse, target)
    picks: list[int] = []
    while len(picks) < n_forward:
        best = _largest_gain(x, a, b, picks, inverse, target)
        if best.drift > DRIFT:
            a, b = _all_forms(x, inverse, target)
            best = _largest_gain(x, a, b, picks, inverse, target)
        picks.append(best.position)
        _add(x, a, b, inverse, best)
    return np.array(picks)[_kept(x[picks].to(inverse.dtype), inverse, target, n)]


def second_moment(x: Tensor) -> Tensor:
    """The sum of the outer products of all rows, in `wide_type`. Shape (D, D)."""
    d = x.shape[1]
    total = x.new_zeros(d, d, dtype=wide_type(x))
    for rows in row_blocks(*x.shape):
        some = x[rows].to(total.dtype)
        for start in range(0, d, PANEL):  # what lies below the panels is what lies above, mirrored
            stop = min(start + PANEL, d)
            total[:stop, start:stop].addmm_(some[:, :stop].T, some[:, start:stop])
    return total.triu() + total.triu(1).T


def _all_forms(x: Tensor, inverse: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The forms a and b of all rows, from products in the type of `x`. Shape (U,), in `wide_type`."""
    matrices = inverse.to(x.dtype), (inverse @ target @ inverse).to(x.dtype)  # T is large where M^-1 is small
    forms = x.new_empty(2, len(x), dtype=wide_type(x))
    for rows in row_blocks(*x.shape):
        for form, matrix in zip(forms, matrices, strict=True):
            form[rows] = ((x[rows] @ matrix) * x[rows]).sum(1).to(forms.dtype)
    return forms[0], forms[1]


class _Best(NamedTuple):
    """The row of the largest gain, in `wide_type`.

    Attributes:
        position: in `x`.
        row: x. Shape (D,).
        u: M^-1 x. Shape (D,).
        target_u: T M^-1 x. Shape (D,).
        drift: how far the float32 gains are off, as a share of the largest.
    """

    position: int
    row: Tensor
    u: Tensor
    target_u: Tensor
    drift: float


def _largest_gain(x: Tensor, a: Tensor, b: Tensor, picks: list[int], inverse: Tensor, target: Tensor) -> _Best:
    """The row of the largest gain that is not picked yet."""
    gains = b / (1 + a)
    gains[picks] = -torch.inf
    highest = gains.topk(min(CHECKED, len(gains)))
    near = highest.values >= highest.values[0] - NEAR * highest.values[0].abs()  # never a picked row: it has -inf
    top = highest.indices[near].sort().values
    rows = x[top].to(inverse.dtype)
    u = rows @ inverse
    target_u = u @ target
    exact = (target_u * u).sum(1) / (1 + (u * rows).sum(1))
    largest = exact.max()
    i = int((exact >= largest * (1 - SAME)).nonzero()[0])
    drift = float((gains[top] - exact).abs().max() / largest)
    return _Best(int(top[i]), rows[i], u[i], target_u[i], drift)


def _add(x: Tensor, a: Tensor, b: Tensor, inverse: Tensor, best: _Best) -> None:
    """Add a row to M, and update a and b of all rows and M^-1, in place."""
    u, target_u = best.u, best.target_u
    grown = 1 + best.row @ u
    xu, xw = F.linear(x, torch.stack([u, inverse @ target_u]).to(x.dtype)).to(a.dtype).unbind(1)
    a -= xu.square() / grown
    b += xu * (xu * (u @ target_u) / grown - 2 * xw) / grown
    inverse.addr_(u, u, alpha=-1 / float(grown))


def _kept(x: Tensor, inverse: Tensor, target: Tensor, n: int) -> NDArray[np.bool_]:
    """Which n rows are left when those that matter least are removed from M, which holds all rows, one by one."""
    half = x @ inverse
    a, b = half @ x.T, half @ target @ half.T  # as the forms, of all pairs of rows
    kept = np.ones(len(x), bool)
    while kept.sum() > n:
        losses = b.diagonal() / (1 - a.diagonal())
        losses[torch.from_numpy(~kept)] = torch.inf
        least = losses.min()
        last = int((losses <= least + SAME * least.abs()).nonzero()[-1])
        kept[last] = False
        au, bu, shrunk = a[last].clone(), b[last].clone(), 1 - float(a[last, last])
        products = torch.outer(au, bu)
        b += (products + products.T) / shrunk + torch.outer(au, au) * float(bu[last]) / shrunk**2
        a.addr_(au, au, alpha=1 / shrunk)
    return kept
