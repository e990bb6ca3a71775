"""Uncertainty as the entropy of the prediction."""

from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy


@dataclass
class EntropySampling(ScoreStrategy):
    """The images whose predicted distribution has the largest entropy.

    Source: Settles, "Active learning literature survey", University of Wisconsin, 2009.
    Cost: one pass of the network over the unlabeled images.
    """

    screens = True

    def score(self, idxs: Idxs) -> Tensor:
        """Entropy in nats."""
        return scores.entropy(self.learner.probs(self.pool.inputs[idxs]))
