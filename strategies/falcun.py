"""Uncertain images whose predictions differ from each other."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.base import Idxs, Strategy
from strategies.kernels.falcun import falcun
from utils import UserError

MOST_GAMMA = 1e6


@dataclass
class FALCUN(Strategy):
    """Images drawn one by one by their uncertainty and the distance of their prediction to those drawn before.

    Source: Gilhuber, Beer, Ma, Seidl, "FALCUN: a simple and efficient deep active learning strategy", ECML-PKDD 2024.
    Cost: one pass of the network over the unlabeled images, one pass over their predictions a pick.
    """

    gamma: float = 10.0  # the larger, the less is left to chance

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= MOST_GAMMA:
            raise UserError(f"--strategy_args gamma={self.gamma}: must be from 0 to {MOST_GAMMA:g}")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """A draw."""
        return idxs[falcun(self.learner.probs(self.pool.inputs[idxs]), n, self.gamma, self.rng)]
