"""Uncertain images from different clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strategies.base import Idxs, Strategy, top_n
from strategies.kernels.average_linkage import average_linkage, nearest_on_average
from strategies.scores import margin
from utils import UserError

MOST_CLUSTERED = 30_000  # images; their distances take 3.6 GB


@dataclass
class ClusterMargin(Strategy):
    """Of the images with the smallest gap between the two most probable classes, one of each cluster in turn.

    Source: Citovsky, DeSalvo, Gentile, Karydas, Rajagopalan, Rostamizadeh, Kumar, "Batch active learning at scale",
    NeurIPS 2021.
    Cost: one pass of the body over the unlabeled images, distances of up to n_clustered embeddings to each other and to
    the candidates.
    """

    candidates: float = 10.0  # images with the smallest gaps, for each that is picked
    size: float = 10.0  # images in a cluster, on average
    n_clustered: int = 10_000  # images that are clustered; the others join the cluster that is nearest on average

    def __post_init__(self) -> None:
        for name, most in (("candidates", 1e6), ("size", 1e6), ("n_clustered", MOST_CLUSTERED)):
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f"--strategy_args {name}={getattr(self, name)}: must be from 1 to {most:.0f}")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """Candidates of different clusters, small clusters first."""
        h = self.learner.embeddings(self.pool.inputs[idxs])
        scores = margin(self.learner.net.head(h).softmax(1))
        n_candidates = min(math.ceil(self.candidates * n), len(idxs))
        candidates = top_n(scores, n_candidates, self.rng)
        clusters = clusters_of(h, candidates, self.size, self.n_clustered, self.rng)
        return idxs[candidates[in_turn(clusters, n, self.rng)]]


def clusters_of(h: Tensor, candidates: Idxs, size: float, n_clustered: int, rng: np.random.Generator) -> Idxs:
    """The clusters of some rows, by average linkage of all rows or of a sample.

    Args:
        h: embeddings. Shape (U, D).
        candidates: positions in `h`.
        size: average number of rows in a cluster.
        n_clustered: how many rows, drawn at random, are clustered; a candidate that is not among them is in the cluster
            to whose members its mean distance is smallest.
        rng: draws the sample.

    Returns:
        Numbers of clusters. Shape (len(candidates),).

    Raises:
        UserError: `h` is not finite.
    """
    sample = np.sort(rng.choice(len(h), min(n_clustered, len(h)), replace=False))
    x = h[torch.from_numpy(sample).to(h.device)]
    assignment = average_linkage(x, math.ceil(len(sample) / size))
    clusters = np.full(len(h), -1)
    clusters[sample] = assignment
    others = candidates[clusters[candidates] < 0]
    if len(others):
        clusters[others] = nearest_on_average(h[torch.from_numpy(others).to(h.device)], x, assignment)
    return clusters[candidates]


def in_turn(clusters: Idxs, n: int, rng: np.random.Generator) -> Idxs:
    """Draw rows from the clusters in turn, from the smallest to the largest, until n are drawn.

    Args:
        clusters: the cluster of each row. Shape (B,).
        n: how many, at most B.
        rng: draws the rows of a cluster, and the order of clusters of the same size.

    Returns:
        Positions, all different. Shape (n,).
    """
    shuffled = rng.permutation(len(clusters))
    names, members, sizes = np.unique(clusters[shuffled], return_inverse=True, return_counts=True)
    order = np.lexsort([rng.permutation(len(names)), sizes])
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    by_cluster = np.argsort(members, kind="stable")
    turn = np.empty(len(clusters), np.int64)  # how many rows of its cluster are drawn before a row
    turn[by_cluster] = np.arange(len(clusters)) - (np.cumsum(sizes) - sizes)[members[by_cluster]]
    return shuffled[np.lexsort([rank[members], turn])][:n]
