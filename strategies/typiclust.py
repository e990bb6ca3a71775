"""The most typical images: right for the first labels, even for the very first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from strategies.base import Idxs, Strategy
from strategies.kernels.k_means import k_means
from strategies.kernels.rows import directions, rearranged
from strategies.kernels.typicality import most_typical
from utils import UserError


@dataclass
class TypiClust(Strategy):
    """From clusters of all images, those without labels first, the image whose nearest neighbours are nearest.

    Source: Hacohen, Dekel, Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets",
    ICML 2022.
    Cost: one pass of the body over all images, up to 20 products of all embeddings with at most 500 centers, distances
    within the clusters that images are picked from.
    """

    max_clusters: int = 500  # there are as many as labeled and picked images, but not more than this
    n_neighbors: int = 20  # that are to be near, but at most half of the unlabeled images of a cluster

    def __post_init__(self) -> None:
        for name in ("max_clusters", "n_neighbors"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise UserError(f"--strategy_args {name}={getattr(self, name)}: must be from 1 to 100000")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The most typical images of the clusters."""
        rows = np.concatenate([idxs, self.pool.labeled])
        h = self.learner.embeddings(self.pool.inputs[rows])
        labeled = np.arange(len(idxs), len(rows))
        return idxs[typiclust(h, labeled, n, self.rng, self.max_clusters, self.n_neighbors)]


def typiclust(
    h: Tensor, labeled: Idxs, n: int, rng: np.random.Generator, max_clusters: int = 500, n_neighbors: int = 20
) -> Idxs:
    """Pick the most typical rows of k-means clusters of all rows; see `most_typical` for the order.

    Args:
        h: embeddings, which are overwritten; only their directions count. Shape (N, D).
        labeled: positions of labeled rows, all different; may be empty. Length L.
        n: how many, 1 <= n <= N - L.
        rng: draws the seeds of k-means, and breaks ties.
        max_clusters: there are L + n clusters, but not more than this.
        n_neighbors: neighbours that typicality is measured by.

    Returns:
        Positions in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to N - L.
        UserError: `h` is not finite.
    """
    order = rng.permutation(len(h))  # ties break by position, which this makes a random draw
    x = directions(rearranged(h, order))
    _, assignment = k_means(x, min(len(labeled) + n, max_clusters, len(x)), rng)
    return order[most_typical(x, assignment, np.argsort(order)[labeled], n, n_neighbors)]
