"""The distance to the decision boundary, by small steps that all pixels take together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from strategies.base import Idxs, ScoreStrategy
from strategies.kernels.bim import bim_distances
from utils import UserError

MOST_STEPS = 10_000  # upper bound for the length of a path


@dataclass
class AdversarialBIM(ScoreStrategy):
    """The images that the basic iterative method moves into another class by the smallest change.

    The change is measured in the L2 norm of the normalised pixels that the network reads.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR workshop 2017, section 2.2.
    Cost: a forward and a backward pass a step, at most bound / step of them, and n_search forward passes.
    """

    step: float = 0.02  # of every normalised pixel
    bound: float = 1.0  # how far a normalised pixel may go
    n_search: int = 3  # forward passes that search the last step for the boundary

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.step <= self.bound <= 1000 and self.bound <= MOST_STEPS * self.step):
            given = f"step={self.step} bound={self.bound}"
            raise UserError(
                f"--strategy_args {given}: must be 0 < step <= bound <= 1000, in {MOST_STEPS} steps at most"
            )
        if not 0 <= self.n_search <= 100:
            raise UserError(f"--strategy_args n_search={self.n_search}: must be from 0 to 100")

    @property
    def lowest(self) -> float:
        """None: a perturbation may be of any length."""
        return -math.inf

    def score(self, idxs: Idxs) -> Tensor:
        """Minus the length of the perturbation."""

        def distances(x: Tensor) -> Tensor:
            return bim_distances(self.learner.logits, x, self.step, self.bound, self.n_search)

        return -self.learner.map(distances, self.pool.inputs[idxs])
