"""Uncertainty as how improbable the most probable class is."""

from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy


@dataclass
class LeastConfidence(ScoreStrategy):
    """The images whose most probable class has the smallest probability.

    Source: Lewis, Gale, "A sequential algorithm for training text classifiers", SIGIR 1994.
    Cost: one pass of the network over the unlabeled images.
    """

    screens = True

    def score(self, idxs: Idxs) -> Tensor:
        """1 minus the largest probability."""
        return scores.least_confidence(self.learner.probs(self.pool.inputs[idxs]))
