"""Squared Euclidean distances as matrix products, over blocks of rows. TF32 must be off (torch's default)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils import UserError

NOT_FINITE = "the network's embeddings are not finite: the training diverged; try a smaller --lr"
LARGE = 2**29  # numbers, 2 GB in float32: a second copy may not fit into the memory
BLOCK = 2**22  # distances held at once: 16 MB, of which a CPU cache holds a useful part


def row_blocks(n_rows: int, n_columns: int, block: int | None = None) -> list[slice]:
    """Cut rows into runs whose distances to all columns are at most `block` numbers, by default BLOCK.

    Write the results of the blocks into one preallocated tensor: small results between large temporaries fragment the
    memory (4 GB more at 1,000,000 rows).
    """
    step = max(1, (block or BLOCK) // max(1, n_columns))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def rounding(n_features: int) -> float:
    """How far |x|² + |y|² - 2 x·y may be off in float32, as a share of |x|² + |y|².

    Errors of a dot product grow as sqrt(D) in practice; the largest observed was a quarter of this (D from 1 to 4096).
    """
    return 2 * (2 + math.sqrt(n_features)) * torch.finfo(torch.float32).eps


def centered(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows minus their mean, in float32, and the mean. Differences of small numbers lose fewer digits.

    Raises:
        UserError: `x` contains NaN or infinity.
    """
    mean = x.mean(0)
    if not mean.isfinite().all():
        raise UserError(NOT_FINITE)
    return (x - mean).float(), mean


def centered_in_place(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `centered`, for a caller that needs `x` no more: from LARGE numbers on, the result is `x`, overwritten.

    Small inputs stay as they are, because rows that were centered twice differ in their last digits.

    Raises:
        UserError: `x` contains NaN or infinity.
    """
    if x.numel() < LARGE or x.dtype != torch.float32:
        return centered(x)
    mean = x.mean(0)
    if not mean.isfinite().all():
        raise UserError(NOT_FINITE)
    return x.sub_(mean), mean


def sq_norms(x: Tensor) -> Tensor:
    """Squared length of each row. Shape (U,)."""
    sq = x.new_empty(len(x))
    for rows in row_blocks(*x.shape):
        sq[rows] = x[rows].square().sum(1)
    return sq
