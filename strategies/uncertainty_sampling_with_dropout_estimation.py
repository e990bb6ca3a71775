"""Uncertainty of the prediction averaged over dropout networks."""

from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy
from utils import UserError


@dataclass
class UncertaintySamplingWithDropoutEstimation(ScoreStrategy):
    """The images on which the mean prediction of K dropout networks is most uncertain.

    Source: Gal, Islam, Ghahramani, "Deep Bayesian active learning with image data", ICML 2017.
    Cost: one pass of the body over the unlabeled images, K products with the head.
    """

    screens = True
    needs_dropout = True

    n_drop: int = 50  # dropout passes, K
    measure: str = "entropy"  # or margin, least_confidence

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_drop <= scores.MOST_PASSES:
            raise UserError(f"--strategy_args n_drop={self.n_drop}: must be from 1 to {scores.MOST_PASSES}")
        if self.measure not in scores.MEASURES:
            raise UserError(f"--strategy_args measure={self.measure}: must be {', '.join(scores.MEASURES)}")

    @property
    def lowest(self) -> float:
        """Minus the largest gap if the measure is the margin; else 0."""
        return -1.0 if self.measure == "margin" else 0.0

    def score(self, idxs: Idxs) -> Tensor:
        """The measure, of the mean prediction."""
        measure = scores.MEASURES[self.measure]
        inputs = self.pool.inputs[idxs]
        return self.learner.dropout_probs(inputs, self.n_drop, self.rng, lambda probs: measure(probs.mean(0)))
