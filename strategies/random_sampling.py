"""Chance: what every other strategy must beat."""

from dataclasses import dataclass

from strategies.base import Idxs, Strategy


@dataclass
class RandomSampling(Strategy):
    """Images drawn uniformly, without replacement.

    Source: none; the baseline of every comparison.
    Cost: none.
    """

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """A uniform draw."""
        return self.rng.choice(idxs, n, replace=False)
