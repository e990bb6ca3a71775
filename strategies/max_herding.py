"""Images that cover the pool: right for the first labels, even for the very first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from strategies.base import Idxs, Strategy
from strategies.kernels.herding import herding
from strategies.kernels.rows import directions, rearranged
from utils import UserError

LEAST_SIGMA, MOST_SIGMA = 0.01, 1e4  # directions are at most 2 apart


@dataclass
class MaxHerding(Strategy):
    """One by one, the image that most increases the similarity of all images to their most similar labeled one.

    Source: Bae, Noh, Sutherland, "Generalized coverage for more robust low-budget active learning", ECCV 2024.
    Cost: one pass of the body over all images, half of the product of all unlabeled embeddings with each other, then
    products with the few that may be picked.
    """

    sigma: float = 1.0  # of the similarity exp(-d² / sigma²), d the distance of embeddings divided by their lengths

    def __post_init__(self) -> None:
        if not LEAST_SIGMA <= self.sigma <= MOST_SIGMA:
            raise UserError(f"--strategy_args sigma={self.sigma}: must be from {LEAST_SIGMA:g} to {MOST_SIGMA:g}")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The greedy cover."""
        h, labeled = self.learner.embeddings(self.pool.inputs[idxs]), self.pool.labeled
        centers = self.learner.embeddings(self.pool.inputs[labeled]) if len(labeled) else h[:0].clone()
        return idxs[max_herding(h, centers, n, self.rng, self.sigma)]


def max_herding(
    h: Tensor, centers: Tensor, n: int, rng: np.random.Generator, sigma: float = 1.0, weights: Tensor | None = None
) -> Idxs:
    """Pick rows that cover all rows best, by their directions; see `herding`.

    Args:
        h: embeddings, which are overwritten. Shape (U, D), float32.
        centers: embeddings that cover already, which are overwritten; may be empty. Shape (L, D), float32.
        n: how many, 1 <= n <= U.
        rng: breaks ties.
        sigma: above 0.
        weights: how much each row counts, 0 or more; 1 when absent. Shape (U,).

    Returns:
        Positions in `h`, in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: `h`, `centers` or `weights` are not finite.
    """
    order = rng.permutation(len(h))  # ties break by position, which this makes a random draw
    x = directions(rearranged(h, order))
    weights = x.new_ones(len(x)) if weights is None else rearranged(weights.clone()[:, None], order)[:, 0]
    return order[herding(x, directions(centers), weights, n, sigma)]
