"""k-means on the embeddings, and the image in the middle of each cluster."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from strategies.base import Idxs, Strategy
from strategies.kernels.k_means import k_means, nearest_members
from strategies.kernels.rows import rearranged


@dataclass
class ClusterBasedSelection(Strategy):
    """From each of n clusters of the unlabeled images, the image nearest to the center; large clusters first.

    Source: Sener, Savarese, "Active learning for convolutional neural networks", ICLR 2018, the k-means baseline.
    Cost: one pass of the body, up to 20 products of all embeddings with n centers.
    """

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The images nearest to the centers."""
        order = self.rng.permutation(len(idxs))  # ties break by position, which this makes a random draw
        x = rearranged(self.learner.embeddings(self.pool.inputs[idxs]), order)
        centroids, assignment = k_means(x, n, self.rng)
        nearest = nearest_members(x, centroids, assignment)
        largest = torch.bincount(assignment, minlength=n).argsort(descending=True, stable=True)
        return idxs[order[nearest[largest].cpu().numpy()]]
