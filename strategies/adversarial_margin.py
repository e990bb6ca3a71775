"""The distance to the decision boundary, by DeepFool."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from strategies.base import Idxs, ScoreStrategy
from strategies.kernels.deepfool import deepfool_distances
from utils import UserError


@dataclass
class AdversarialMargin(ScoreStrategy):
    """The images that the smallest change of their pixels moves into another class.

    The change is measured in the L2 norm of the normalised pixels that the network reads.

    Source: Ducoffe, Precioso, "Adversarial active learning for deep networks: a margin based approach", 2018.
    Cost: about 2 to 4 steps an image, each 2 forward passes and at most n_top backward passes of the network.
    """

    n_top: int = 6  # runner-up classes that are tried; C - 1 or more is exact
    overshoot: float = 0.02
    max_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_top < 1 or self.max_steps < 1:
            raise UserError(f"--strategy_args n_top={self.n_top} max_steps={self.max_steps}: must be 1 or more")
        if not 0 <= self.overshoot <= 1:
            raise UserError(f"--strategy_args overshoot={self.overshoot}: must be from 0 to 1")

    @property
    def lowest(self) -> float:
        """None: a perturbation may be of any length."""
        return -math.inf

    def score(self, idxs: Idxs) -> Tensor:
        """Minus the length of the perturbation."""

        def distances(x: Tensor) -> Tensor:
            return deepfool_distances(self.learner.logits, x, self.n_top, self.overshoot, self.max_steps)

        return -self.learner.map(distances, self.pool.inputs[idxs])
