"""Choosing rows that make a trace small: forward greedy with rank-one updates, then backward pruning."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, row_blocks
from utils import UserError

Positions = NDArray[np.int64]
CHECKED = 64  # rows with the largest float32 gains, of which float64 finds the largest
SAME = 1e-12  # gains that differ by a smaller share are a tie


def trace_greedy(x: Tensor, target: Tensor, start: Tensor, n: int, n_forward: int) -> Positions:
    """Choose rows S of `x` that make tr(T M^-1) small, where M is the start plus the outer products of the rows in S.

    Forward: add the row that lowers the trace most, n_forward times. Backward: remove the row of S whose loss raises it
    least, until n are left. Each of these picks is that of the direct formula in float64 with inverses computed anew,
    up to rounding and ties, of which the first is taken.

    With a = x' M^-1 x and b = x' M^-1 T M^-1 x, adding x lowers the trace by b / (1 + a), and removing it raises the
    trace by b / (1 - a), by the formula of Sherman and Morrison. It also updates a and b of all rows when M changes,
    from two products of the rows with a vector. These are float32, added up in float64; the rows with the largest
    gains are then measured in float64.

    Cost: 3 products of `x` with a matrix (D, D), then 2 U D a forward step; O(U) memory and a few matrices (D, D).

    Args:
        x: Shape (U, D), float32.
        target: T, symmetric, no negative eigenvalue. Shape (D, D), float64 (MPS: float32).
        start: M at the start, symmetric, positive definite, and of the same type. Shape (D, D).
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
        gains = b / (1 + a)
        gains[picks] = -torch.inf
        pick = _largest_gain(x, gains, inverse, target)
        picks.append(pick)
        row = x[pick].to(inverse.dtype)
        u = inverse @ row
        target_u = target @ u
        grown = 1 + row @ u
        xu, xw = F.linear(x, torch.stack([u, inverse @ target_u]).to(x.dtype)).to(a.dtype).unbind(1)
        a -= xu.square() / grown
        b += xu * (xu * (u @ target_u) / grown - 2 * xw) / grown
        inverse.addr_(u, u, alpha=-1 / float(grown))
    return np.array(picks)[_kept(x[picks].to(inverse.dtype), inverse, target, n)]


def second_moment(x: Tensor) -> Tensor:
    """The sum of the outer products of all rows, in float64 (MPS: float32). Shape (D, D)."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=wide_type(x))
    for rows in row_blocks(*x.shape):
        some = x[rows].to(total.dtype)
        total.addmm_(some.T, some)
    return total


def wide_type(x: Tensor) -> torch.dtype:
    """float64, or float32 where the device has no other."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _all_forms(x: Tensor, inverse: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of all rows, from products in the type of `x`. Shape (U,)."""
    matrices = torch.cat([inverse, inverse @ target @ inverse], 1).to(x.dtype)
    forms = x.new_empty(2, len(x), dtype=inverse.dtype)
    for rows in row_blocks(len(x), matrices.shape[1]):
        forms[:, rows] = torch.einsum("umd,ud->mu", (x[rows] @ matrices).unflatten(1, (2, -1)), x[rows]).to(forms.dtype)
    return forms[0], forms[1]


def _largest_gain(x: Tensor, gains: Tensor, inverse: Tensor, target: Tensor) -> int:
    """The position of the largest gain, where those given may be off by rounding; -inf means picked already."""
    top = gains.topk(min(CHECKED, len(gains))).indices.sort().values
    top = top[gains[top] > -torch.inf]
    rows = x[top].to(inverse.dtype)
    half = rows @ inverse
    exact = ((half @ target) * half).sum(1) / (1 + (half * rows).sum(1))
    gains[top] = exact
    return int(top[int((exact >= exact.max() * (1 - SAME)).nonzero()[0])])


def _kept(rows: Tensor, inverse: Tensor, target: Tensor, n: int) -> list[int]:
    """Positions of the n rows that are left when those that matter least are removed one by one; M holds all rows."""
    half = rows @ inverse
    a, b = half @ rows.T, half @ target @ half.T  # as vectors above, between all pairs of rows
    kept = list(range(len(rows)))
    while len(kept) > n:
        diagonal = torch.tensor(kept, device=rows.device)
        losses = b[diagonal, diagonal] / (1 - a[diagonal, diagonal])
        i = kept.pop(int((losses <= losses.min() * (1 + SAME)).nonzero()[-1]))
        left, to_a, to_b = 1 - a[i, i], a[i].clone(), b[i].clone()
        b += (torch.outer(to_a, to_b) + torch.outer(to_b, to_a)) / left + torch.outer(to_a, to_a) * b[i, i] / left**2
        a += torch.outer(to_a, to_a) / left
    return kept
