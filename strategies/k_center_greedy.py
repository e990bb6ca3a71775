"""The images that cover all others best: each pick is the farthest from what is covered."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.base import Idxs, Strategy
from strategies.kernels.k_center import k_center_greedy
from strategies.kernels.rows import rearranged


@dataclass
class KCenterGreedy(Strategy):
    """One by one, the image whose embedding is farthest from all labeled and picked ones.

    Source: Sener, Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018.
    Cost: one pass of the body over all images, one product of unlabeled with labeled and picked embeddings.
    """

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The greedy cover."""
        order = self.rng.permutation(len(idxs))  # ties break by position, which this makes a random draw
        x = rearranged(self.learner.embeddings(self.pool.inputs[idxs]), order)
        labeled = self.pool.labeled
        centers = self.learner.embeddings(self.pool.inputs[labeled]) if len(labeled) else x[:0]
        return idxs[order[k_center_greedy(x, centers, n)]]
