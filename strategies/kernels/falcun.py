"""Drawing rows by uncertainty and by their distance to the rows drawn before, both of class probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.base import Idxs
from strategies.kernels.distances import row_blocks
from strategies.scores import margin

Floats = NDArray[np.float64]


def falcun(probs: Tensor, n: int, gamma: float, rng: np.random.Generator) -> Idxs:
    """Draw rows one by one, with probability proportional to (scaled r + u) ** gamma among those left.

    u is 1 minus the gap between the two largest probabilities. r is u at first, and after each draw at most the L1
    distance to the row drawn; it is scaled so that among the rows left the smallest is 0 and the largest 1, or all are
    0 where they are equal. Where r is 0 in all rows left, the draw is uniform.

    Source: Gilhuber, Beer, Ma, Seidl, "FALCUN", ECML-PKDD 2024, as the authors' code has it with distance_unc_norm.
    Cost: n passes over the probabilities; O(U) memory beyond a block.

    Args:
        probs: Shape (U, C).
        n: how many, 1 <= n <= U.
        gamma: 0 draws uniformly; the larger, the more a draw takes the row with the largest sum.
        rng: draws.

    Returns:
        Positions in order of drawing, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
    """
    if not 1 <= n <= len(probs):
        raise ValueError(f"falcun: {n} picks of {len(probs)} rows")
    u = 1 + margin(probs).to("cpu", torch.float64).clamp_min(-1).numpy()
    r, left = u, np.ones(len(u), bool)
    picks: list[int] = []
    while len(picks) < n:
        weights = np.zeros(len(u))
        weights[left] = _weights(r[left], u[left], gamma)
        cumulative = np.cumsum(weights)
        i = int(np.searchsorted(cumulative / cumulative[-1], rng.random(), side="right"))
        picks.append(i)
        left[i] = False
        if len(picks) < n:
            r = np.minimum(r, _l1_distances(probs, i))
    return np.array(picks)


def _weights(r: Floats, u: Floats, gamma: float) -> Floats:
    """What rows are drawn by, up to a factor; the largest is 1.

    Args:
        r: distance to the nearest row drawn, or the uncertainty if that is smaller. Shape (U,).
        u: uncertainty, 0 to 1. Shape (U,).
        gamma: 0 or more.
    """
    if not r.any():
        return np.ones(len(r))
    spread = r.max() - r.min()
    relevance = u + (r - r.min()) / (spread or 1)
    return (relevance / relevance.max()) ** gamma


def _l1_distances(probs: Tensor, i: int) -> Floats:
    distances = probs.new_empty(len(probs))
    for rows in row_blocks(*probs.shape):
        distances[rows] = (probs[rows] - probs[i]).abs_().sum(1)
    return distances.to("cpu", torch.float64).numpy()
