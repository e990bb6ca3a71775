"""Images whose predicted class depends on a few features, and that differ from each other."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.base import Idxs, Strategy
from strategies.kernels.dropquery import disagreements, inconsistent
from strategies.kernels.representatives import representatives
from strategies.scores import MOST_PASSES
from utils import UserError


@dataclass
class DropQuery(Strategy):
    """Representatives of n clusters of the images whose predicted class changes under strong dropout.

    The dropout is its own, on the embedding, whatever the network was trained with. Where too few predictions change,
    the rest is drawn at random.

    Source: Gupte et al., "Revisiting active learning in the era of vision foundation models", TMLR 2024.
    Cost: one pass of the body over the unlabeled images, K products with the head, k-means among the candidates.
    """

    n_drop: int = 3  # dropout passes, K
    p_drop: float = 0.75  # probability that an entry of the embedding is dropped

    def __post_init__(self) -> None:
        if not 1 <= self.n_drop <= MOST_PASSES:
            raise UserError(f"--strategy_args n_drop={self.n_drop}: must be from 1 to {MOST_PASSES}")
        if not 0 < self.p_drop < 1:
            raise UserError(f"--strategy_args p_drop={self.p_drop}: must be above 0 and below 1")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The images nearest to the centers of the clusters."""
        h, head = self.learner.embeddings(self.pool.inputs[idxs]), self.learner.net.head
        counts = disagreements(h, head.weight, head.bias, self.n_drop, self.p_drop, self.rng)
        return idxs[representatives(h, inconsistent(counts, self.n_drop, n), n, self.rng)]
