"""Images whose gradients are large and point in different directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strategies.base import Idxs, Strategy
from strategies.kernels.d2_sampling import Rows, sample_d2
from strategies.kernels.distances import NOT_FINITE, rounding, sq_norms
from utils import UserError


@dataclass
class BADGE(Strategy):
    """k-means++ seeds among the gradients that the last layer would get if the predicted classes were true.

    Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR 2020.
    Cost: one pass of the body, one product of all embeddings and predictions with the picked ones.
    """

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The seeds."""
        h = self.learner.embeddings(self.pool.inputs[idxs])
        probs = self.learner.net.head(h).softmax(1)
        return idxs[badge(probs, h, n, self.rng)]


def badge(probs: Tensor, h: Tensor, n: int, rng: np.random.Generator) -> Idxs:
    """Draw rows by k-means++ among the gradients g = (onehot(argmax p) - p) outer h, which are never formed.

    The first pick has the largest gradient (equal ones by a draw), each later one is drawn with probability
    proportional to the squared distance of its gradient to the nearest picked one.

    Source: Ash et al., ICLR 2020, algorithm 1; as in the authors' code the first pick is the largest, not a draw.
    Cost: n U (C + D) multiplications; see `sample_d2` for the passes. O(U (C + D)) memory.

    Args:
        probs: Shape (U, C).
        h: embeddings. Shape (U, D).
        n: how many, 1 <= n <= U.
        rng: draws.

    Returns:
        Positions in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: `probs` or `h` are not finite.
    """
    if not 1 <= n <= len(h):
        raise ValueError(f"badge: {n} picks of {len(h)} rows")
    a = -probs
    a[torch.arange(len(a), device=a.device), probs.argmax(1)] += 1
    g_sq = sq_norms(a) * sq_norms(h)
    if not g_sq.isfinite().all():
        raise UserError(NOT_FINITE)
    low = g_sq * (1 - rounding(a.shape[1]) - rounding(h.shape[1]))  # rounded down, so that equal gradients have 0

    def distances(rows: Rows, picks: Tensor) -> Tensor:
        products = (a[rows] @ a[picks].T).mul_(h[rows] @ h[picks].T)  # <g_i, g_j> = <a_i, a_j> <h_i, h_j>
        return products.mul_(-2).add_(low[picks]).add_(low[rows][:, None]).clamp_min_(0)

    first = rng.choice(torch.nonzero(g_sq == g_sq.max())[:, 0].cpu().numpy())
    return sample_d2(distances, len(h), int(first), n, rng, h.device)
