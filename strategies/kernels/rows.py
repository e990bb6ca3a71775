"""Rows of a large matrix, rearranged where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.base import Idxs

COLUMNS = 64  # that are rearranged together: a bound on the memory it takes


def rearranged(x: Tensor, order: Idxs) -> Tensor:
    """x[order], in the memory of x, whose old content is lost: a copy of a large pool would not fit.

    Args:
        x: Shape (U, D).
        order: a permutation of the rows. Shape (U,).
    """
    rows = torch.from_numpy(order).to(x.device)
    for columns in x.split(COLUMNS, dim=1):
        columns.copy_(columns[rows])
    return x


def directions(x: Tensor) -> Tensor:
    """Rows divided by their length, in the memory of x, whose old content is lost; rows of zeros stay. Shape (U, D)."""
    return x.div_(torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12))
