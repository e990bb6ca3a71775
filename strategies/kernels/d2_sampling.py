"""Drawing rows by their squared distance to those drawn before: the seeding of k-means++, and BADGE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, row_blocks
from utils import UserError

Rows = slice | Tensor
MIN_BLOCK, MAX_BLOCK = 16, 256  # rows drawn between two passes over the pool


def sample_d2(
    distances: Callable[[Rows, Tensor], Tensor],
    n_rows: int,
    first: int,
    n: int,
    rng: np.random.Generator,
    device: torch.device,
) -> NDArray[np.int64]:
    """Draw rows one by one, each with probability proportional to D², its squared distance to the nearest one drawn.

    The law is exact although D² of all rows is refreshed only once a block: rows are proposed by the stale D² and
    accepted with probability D² now / D² stale. When D² is 0 everywhere, the rest is drawn uniformly.

    Source: Arthur, Vassilvitskii, "k-means++", SODA 2007, section 2.2.
    Cost: n U distances, in about log2(n) + n / 256 passes over the pool; O(U) memory beyond a block.

    Args:
        distances: squared distances from rows to picks, 0 or more; a slice or positions (R,), positions (B,) -> (R, B).
        n_rows: U.
        first: the first pick.
        n: how many in all, 1 <= n <= U.
        rng: proposes and accepts.
        device: where `distances` expects its positions.

    Returns:
        Positions in order of picking, all different. Shape (n,).

    Raises:
        UserError: a distance is not finite.
    """
    picks, fresh = [first], [first]
    mass = np.full(n_rows, np.inf, np.float32)  # D² as of the last pass
    while len(picks) < n:
        centers = torch.tensor(fresh, device=device)
        nearest = torch.empty(n_rows, device=device)
        for rows in row_blocks(n_rows, len(fresh)):
            nearest[rows] = distances(rows, centers).amin(1)
        mass = np.minimum(mass, nearest.cpu().numpy())
        mass[fresh] = 0
        cumulative = np.cumsum(mass, dtype=np.float64)
        total = cumulative[-1]
        if not np.isfinite(total):
            raise UserError(NOT_FINITE)
        if total == 0:
            rest = np.setdiff1d(np.arange(n_rows), picks)
            picks += rng.permutation(rest)[: n - len(picks)].tolist()
            break
        size = min(max(MIN_BLOCK, len(picks)), MAX_BLOCK)
        drawn = np.searchsorted(cumulative, rng.random(size) * total, side="right").clip(max=n_rows - 1)
        candidates = torch.from_numpy(drawn).to(device)
        pairs = distances(candidates, candidates).cpu().numpy()
        pairs[drawn[:, None] == drawn] = 0  # exactly, so that nothing is picked twice
        fresh = drawn[_accepted(mass[drawn], pairs, rng.random(size))[: n - len(picks)]].tolist()
        picks += fresh
    return np.array(picks)


def _accepted(stale: NDArray[np.float32], pairs: NDArray[np.float32], uniform: NDArray[np.float64]) -> list[int]:
    """Which proposals to accept, each by its distance to those accepted before it; the first always is.

    Args:
        stale: D² by which they were proposed. Shape (B,).
        pairs: squared distances among them. Shape (B, B).
        uniform: draws from [0, 1). Shape (B,).
    """
    accepted = []
    now = stale
    for i, threshold in enumerate(uniform * stale):
        if threshold < now[i]:
            accepted.append(i)
            now = np.minimum(now, pairs[:, i])
    return accepted
