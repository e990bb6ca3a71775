"""Which unlabeled images a query looks at, where a pool is too large to look at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data import Pool
from strategies.base import Idxs, top_n
from strategies.scores import margin
from training.learner import Learner
from utils import stream


def random_candidates(pool: Pool, learner: Learner, n: int, rng: np.random.Generator) -> Idxs:
    """So many unlabeled images, drawn at random, ascending. Shape (n,)."""
    return np.sort(rng.choice(pool.unlabeled, n, replace=False))


def uncertain_candidates(pool: Pool, learner: Learner, n: int, rng: np.random.Generator) -> Idxs:
    """The n unlabeled images with the smallest gap between the two most probable classes, ascending. Shape (n,).

    Costs a pass of the network over all unlabeled images.
    """
    scores = margin(learner.probs(pool.inputs[pool.unlabeled]))
    return np.sort(pool.unlabeled[top_n(scores, n, rng)])


def candidates(pool: Pool, learner: Learner, n: int | None, by: str, seed: int, round: int) -> Idxs | None:
    """The unlabeled images that a query looks at; None for all.

    Args:
        pool: what to choose from.
        learner: trained on its labels.
        n: how many; all when None or more than there are.
        by: one of CANDIDATES.
        seed: of the run.
        round: of the query.
    """
    if n is None or n >= len(pool.unlabeled):
        return None
    return CANDIDATES[by](pool, learner, n, stream(seed, "candidates", round))


CANDIDATES: dict[str, Callable[[Pool, Learner, int, np.random.Generator], Idxs]] = {
    "random": random_candidates,
    "uncertain": uncertain_candidates,
}
