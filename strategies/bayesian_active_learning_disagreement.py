"""BALD: disagreement between dropout networks."""

from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy
from utils import UserError


@dataclass
class BayesianActiveLearningDisagreement(ScoreStrategy):
    """The images on whose class the dropout networks disagree most.

    Source: Gal, Islam, Ghahramani, "Deep Bayesian active learning with image data", ICML 2017, eq. 3.
    Cost: one pass of the body over the unlabeled images, K products with the head.
    """

    screens = True
    needs_dropout = True

    n_drop: int = 50  # dropout passes, K

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.n_drop <= scores.MOST_PASSES:
            raise UserError(f"--strategy_args n_drop={self.n_drop}: must be from 2 to {scores.MOST_PASSES}")

    def score(self, idxs: Idxs) -> Tensor:
        """Mutual information between the class and the dropout mask, in nats."""
        return self.learner.dropout_probs(self.pool.inputs[idxs], self.n_drop, self.rng, scores.mutual_information)
