"""EPIG: what a label would say about predictions elsewhere, not about the network."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor

from strategies import scores
from strategies.base import Idxs, ScoreStrategy
from strategies.kernels.predictive_information import predictive_information
from utils import UserError

MOST_TARGETS = 10_000  # M; beyond it the estimate gains nothing and a query takes hours


@dataclass
class EPIG(ScoreStrategy):
    """The images whose label, by the dropout networks, says most about the classes of images drawn at random.

    Source: Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth, "Prediction-oriented Bayesian active learning",
    AISTATS 2023.
    Cost: passes over M targets, which are drawn from all images, and over the unlabeled ones; K products with the
    head, then U M C^2 products of K numbers, which with 100 classes take 10 ms an image: use candidates there.
    """

    needs_dropout = True

    n_drop: int = 100  # dropout passes, K
    n_targets: int = 100  # images whose classes are to be known, M

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.n_drop <= scores.MOST_PASSES:
            raise UserError(f"--strategy_args n_drop={self.n_drop}: must be from 2 to {scores.MOST_PASSES}")
        if not 1 <= self.n_targets <= MOST_TARGETS:
            raise UserError(f"--strategy_args n_targets={self.n_targets}: must be from 1 to {MOST_TARGETS}")

    def score(self, idxs: Idxs) -> Tensor:
        """Mutual information between the class of the image and that of a target, mean over the targets, in nats."""
        n_images = len(self.pool.inputs)
        drawn = self.rng.choice(n_images, min(self.n_targets, n_images), replace=False)
        same_masks = copy.deepcopy(self.rng)
        targets = self.learner.dropout_probs(self.pool.inputs[drawn], self.n_drop, same_masks)
        return self.learner.dropout_probs(
            self.pool.inputs[idxs], self.n_drop, self.rng, lambda probs: predictive_information(probs, targets)
        )
