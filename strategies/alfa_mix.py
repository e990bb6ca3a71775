"""Images that a little of another class would turn into another class, and that differ from each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from strategies.base import Idxs, Strategy
from strategies.kernels.alfa_mix import class_means, flips_when_mixed
from strategies.kernels.representatives import representatives
from utils import UserError


@dataclass
class ALFAMix(Strategy):
    """Representatives of n clusters of the images whose class changes when mixed with the mean of a labeled class.

    Where too few predictions change, the rest is drawn at random.

    Source: Parvaneh et al., "Active learning by feature mixing", CVPR 2022, with the closed form of alpha.
    Cost: one pass of the body over all images, products of embeddings with the head and the class means, k-means.
    """

    eps: float = 0.2  # share of the mean in a mix at most, times sqrt(D)

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise UserError(f"--strategy_args eps={self.eps}: must be above 0 and at most 1")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The images nearest to the centers of the clusters."""
        h, head, labeled = self.learner.embeddings(self.pool.inputs[idxs]), self.learner.net.head, self.pool.labeled
        anchors = h[:0]
        if len(labeled):
            labels = torch.from_numpy(self.pool.labels[labeled]).to(h.device)
            anchors = class_means(self.learner.embeddings(self.pool.inputs[labeled]), labels)
        flips = flips_when_mixed(h, head.weight, head.bias, anchors, self.eps)
        return idxs[representatives(h, flips.nonzero()[:, 0].cpu().numpy(), n, self.rng)]
