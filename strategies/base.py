"""What every strategy is: a dataclass that lives for one round and answers `query(n)`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import Pool
from nets import Learner
from utils import UserError

Idxs = NDArray[np.int64]

SCREENED_FROM = 4096  # images; fewer are scored sooner than screened
SAMPLED = 1000  # images, spread over all, that show how far rough scores are off, besides the best
SAFETY = 2.0  # times the largest error seen is what an image not seen may be off


@dataclass
class Strategy:
    """A rule that says which images to label next. Its further fields are its hyperparameters.

    Args:
        pool: images and the labels bought so far.
        learner: the network trained on these labels.
        rng: the only source of randomness.
    """

    pool: Pool
    learner: Learner
    rng: np.random.Generator

    needs_dropout: ClassVar[bool] = False

    def query(self, n: int) -> Idxs:
        """The images to label next: n different unlabeled indices of the training set, best first. Shape (n,).

        Raises:
            ValueError: n is smaller than 1 or larger than what is left.
            UserError: the scores contain NaN, or the strategy cannot work with this network.
        """
        idxs = self.pool.unlabeled
        if not 1 <= n <= len(idxs):
            raise ValueError(f"query({n}): {len(idxs)} images are unlabeled, n must be from 1 to {len(idxs)}")
        if self.needs_dropout and not self.learner.has_dropout:
            raise UserError(
                f"{type(self).__name__} needs a network with dropout; this one was trained with --dropout 0"
            )
        return self.select(idxs, n)

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """Choose n different members of `idxs`, best first.

        Args:
            idxs: all unlabeled indices of the training set, ascending. Shape (U,).
            n: how many, 1 <= n <= U.

        Returns:
            Members of `idxs` (not positions in it). Shape (n,).
        """
        raise NotImplementedError


class ScoreStrategy(Strategy):
    """A strategy that rates each image by itself and takes the highest.

    Attributes:
        screens: whether the score rests on embeddings alone, so that rough embeddings give a rough score.
    """

    screens: ClassVar[bool] = False

    def score(self, idxs: Idxs) -> Tensor:
        """How much each image deserves a label, higher is sooner. Shape (len(idxs),)."""
        raise NotImplementedError

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The n images with the highest scores; ties break by a draw."""
        worth_it = len(idxs) >= SCREENED_FROM and 4 * n <= len(idxs)
        rough = self.learner.rough() if self.screens and worth_it and isinstance(self.learner, Learner) else None
        values = self.score(idxs) if rough is None else self._screened_scores(idxs, n, rough)
        return idxs[top_n(values, n, self.rng)]

    def _screened_scores(self, idxs: Idxs, n: int, rough: Learner) -> Tensor:
        """Scores of `idxs`, -inf for those that cannot be among the n highest."""
        before = copy.deepcopy(self.rng)  # every call draws the same dropout masks

        def exact(positions: Tensor) -> Tensor:
            return replace(self, rng=copy.deepcopy(before)).score(idxs[positions.cpu().numpy()])

        roughly = replace(self, learner=rough).score(idxs)
        if not roughly.isfinite().all():
            return exact(torch.arange(len(idxs)))
        return screened(roughly, exact, n)


def screened(rough: Tensor, exact: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Exact scores of all that may be among the n highest, found without an exact score for each.

    The best by their rough score and a sample spread over all are scored exactly. That shows how far rough scores are
    off. Whatever would be among the n highest if it were off by twice as much is scored exactly next, until nothing is
    left. So the n highest are those that exact scores of all would give, unless an image that was never scored exactly
    is off by more than twice as much as any of the thousands that were.

    Args:
        rough: a finite score of each image. Shape (U,).
        exact: positions, ascending (P,), to their scores (P,).
        n: how many are wanted, 1 <= n <= U.

    Returns:
        -inf where no exact score was needed. Shape (U,).
    """
    scores = torch.full_like(rough, -math.inf)
    known = torch.zeros_like(rough, dtype=torch.bool)
    asked = torch.zeros_like(known)
    asked[rough.topk(min(n + n // 2, len(rough))).indices] = True
    asked[:: max(1, len(rough) // SAMPLED)] = True
    while asked.any():
        scores[asked] = exact(asked.nonzero()[:, 0])
        known |= asked
        error = (scores - rough)[known].abs().max()
        asked = ~known & (rough + SAFETY * error >= scores.topk(n).values[-1])
    return scores


def top_n(scores: Tensor, n: int, rng: np.random.Generator) -> Idxs:
    """Positions of the n highest scores, highest first; equal scores in random order.

    Args:
        scores: any float or integer type, infinities allowed. Shape (U,).
        n: how many, 0 <= n <= U.
        rng: breaks the ties.

    Returns:
        Shape (n,).

    Raises:
        UserError: a score is NaN.
        ValueError: n is larger than U.
    """
    values = scores.detach().to("cpu", torch.float64).numpy()
    if not 0 <= n <= len(values):
        raise ValueError(f"top_n: {n} of {len(values)} scores")
    if np.isnan(values).any():
        n_nan = int(np.isnan(values).sum())
        raise UserError(f"{n_nan} of {len(values)} scores are NaN: the training diverged; try a smaller --lr")
    shuffled = rng.permutation(len(values))
    return shuffled[np.argsort(-values[shuffled], kind="stable")[:n]]


def hyperparameters(strategy: type[Strategy]) -> dict[str, Any]:
    """Names and defaults of a strategy's own fields, as `--strategy_args` takes them."""
    return {f.name: f.default for f in fields(strategy) if f.name not in ("pool", "learner", "rng")}
