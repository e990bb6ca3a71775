"""Uncertainty as the gap between the two most probable classes."""

from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy


@dataclass
class MarginSampling(ScoreStrategy):
    """The images with the smallest gap between the two most probable classes.

    Source: Scheffer, Decomain, Wrobel, "Active hidden Markov models for information extraction", IDA 2001.
    Cost: one pass of the network over the unlabeled images.
    """

    screens = True

    @property
    def lowest(self) -> float:
        """Minus the largest gap."""
        return -1.0

    def score(self, idxs: Idxs) -> Tensor:
        """Minus the gap between the two largest probabilities."""
        return scores.margin(self.learner.probs(self.pool.inputs[idxs]))
