"""The first images to label, chosen before any label: by features alone."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from data import Inputs, Pool
from features.rows import standardised
from strategies import STRATEGIES, resolve
from strategies.base import Idxs
from training.learner import Learner
from utils import UserError

RANDOM = "RandomSampling"
# Strategies that look at embeddings alone, so that they need neither labels nor a network.
INITIAL = (RANDOM, "ClusterBasedSelection", "KCenterGreedy", "TypiClust", "MaxHerding")
BATCH_SIZE = 4096
Random = np.random.Generator


class Untrained:
    """Stands in for a learner where there is no network yet: its embeddings are the features, standardised.

    Args:
        mean, std: of each feature. Shape (D,).
        device: where to compute.
    """

    has_dropout = False

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.device = device
        self._mean = mean.to(device)
        self._std = std.to(device)

    def embeddings(self, inputs: Inputs) -> Tensor:
        """Features with mean 0 and standard deviation 1, float32. Shape (n, D)."""
        h = torch.empty(len(inputs), *inputs.shape, device=self.device)
        start = 0
        for batch in inputs.batches(0, BATCH_SIZE, self.device):
            h[start : start + len(batch)] = standardised(batch, self._mean, self._std)
            start += len(batch)
        return h


def resolve_initial(name: str, has_features: bool) -> str:
    """The strategy of the first draw by its name or alias.

    Raises:
        UserError: it cannot choose without labels, or there are no features to choose by.
    """
    found = resolve(name, [])[0].__name__ if name not in INITIAL else name
    if found not in INITIAL:
        raise UserError(f"--initial_strategy {name}: must be one of {', '.join(INITIAL)}, which need no labels")
    if found != RANDOM and not has_features:
        raise UserError(f"--initial_strategy {name}: needs --features; before any label there is nothing to choose by")
    return found


def first_draw(name: str, inputs: Inputs, mean: Tensor, std: Tensor, device: torch.device, n: int, rng: Random) -> Idxs:
    """The first images to label, best first.

    Args:
        name: one of INITIAL.
        inputs: the pool. Length N.
        mean: of each feature, where the strategy reads them. Shape (D,).
        std: standard deviation of each feature. Shape (D,).
        device: where to compute.
        n: how many, 1 <= n <= N.
        rng: the only source of randomness.

    Returns:
        Indices of the training set. Shape (n,).
    """
    if name == RANDOM:
        return np.asarray(rng.choice(len(inputs), n, replace=False))
    learner = cast("Learner", Untrained(mean, std, device))
    return STRATEGIES[name](Pool(inputs, 1), learner, rng).query(n)
