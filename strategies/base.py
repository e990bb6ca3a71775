"""The base of all strategies: a dataclass, made for one round, whose `query(n)` picks images."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import Pool
from runs.options import added
from strategies.noise import NO_NOISE, check_noise, noisy
from strategies.screening import screened, worth_screening
from training.learner import Learner
from utils import UserError

Idxs = NDArray[np.int64]


@dataclass
class Strategy:
    """A rule that says which images to label next. Its further fields are its hyperparameters.

    Args:
        pool: the training inputs and the labels acquired so far.
        learner: the network trained on these labels.
        rng: the only source of randomness.
    """

    pool: Pool
    learner: Learner
    rng: np.random.Generator

    needs_dropout: ClassVar[bool] = False

    def query(self, n: int, among: Idxs | None = None) -> Idxs:
        """The images to label next: n different unlabeled indices of the training set, best first. Shape (n,).

        Args:
            n: how many.
            among: unlabeled indices that it chooses from, ascending; all when absent.

        Raises:
            ValueError: n is smaller than 1 or larger than the number of images to choose from.
            UserError: the scores contain NaN, or the strategy cannot work with this network.
        """
        idxs = self.pool.unlabeled if among is None else among
        if not 1 <= n <= len(idxs):
            there = "are unlabeled" if among is None else "may be chosen"
            raise ValueError(f"query({n}): {len(idxs)} images {there}, n must be from 1 to {len(idxs)}")
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


@dataclass
class ScoreStrategy(Strategy):
    """A strategy that rates each image by itself and takes the highest.

    A subclass that has a `__post_init__` of its own calls this one's in it.

    Args:
        noise: "none", or the kind of noise with which n images are drawn by their scores (see `strategies.noise`).
        beta: how little noise; above 0.

    Attributes:
        screens: whether the score rests on embeddings alone, so that rough embeddings give a rough score.
    """

    screens: ClassVar[bool] = False

    noise: str = added(NO_NOISE)  # or power, softmax, softrank
    beta: float = added(1.0)

    def __post_init__(self) -> None:
        check_noise(self.noise, self.beta)
        if self.noise == "power" and self.lowest == -math.inf:
            raise UserError(
                f"--strategy_args noise=power: {type(self).__name__} has no lowest score; take softmax or softrank"
            )

    @property
    def lowest(self) -> float:
        """The lowest score possible, which noise=power takes for 0; minus infinity where there is none."""
        return 0.0

    def score(self, idxs: Idxs) -> Tensor:
        """How much each image deserves a label, higher is sooner. Shape (len(idxs),)."""
        raise NotImplementedError

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """The n images with the highest scores, or with noise a draw by the scores; ties break by a draw."""
        scores = self._scores(idxs, n)
        if self.noise != NO_NOISE:
            _refuse_nan(scores)
            scores = noisy(scores, self.noise, self.beta, self.lowest, self.rng)
        return idxs[top_n(scores, n, self.rng)]

    def _scores(self, idxs: Idxs, n: int) -> Tensor:
        """Scores of `idxs`; without noise, -inf for those that rough scores rule out of the n highest."""
        screens = self.screens and self.noise == NO_NOISE and worth_screening(len(idxs), n)
        rough = self.learner.rough() if screens else None
        if rough is None:
            return self.score(idxs)
        before = copy.deepcopy(self.rng)  # every call draws the same dropout masks

        def exact(positions: Tensor) -> Tensor:
            return replace(self, rng=copy.deepcopy(before)).score(idxs[positions.cpu().numpy()])

        return screened(replace(self, learner=rough).score(idxs), exact, n)


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
    _refuse_nan(scores)
    shuffled = rng.permutation(len(values))
    return shuffled[np.argsort(-values[shuffled], kind="stable")[:n]]


def _refuse_nan(scores: Tensor) -> None:
    n_nan = int(scores.isnan().sum())
    if n_nan:
        raise UserError(f"{n_nan} of {len(scores)} scores are NaN: the training diverged; try a smaller --lr")


def hyperparameters(strategy: type[Strategy]) -> dict[str, Any]:
    """Names and defaults of a strategy's own fields, as `--strategy_args` takes them."""
    return {f.name: f.default for f in fields(strategy) if f.name not in ("pool", "learner", "rng")}
