"""Choosing images whose classes together say most about which of K networks is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, rounding
from strategies.kernels.precision import wide_probs
from utils import UserError

Floats = NDArray[np.float64]
BLOCK = 2**19  # numbers held at once: 4 MB, which a CPU cache holds
SAME = 1e-12  # gains that differ by a smaller share are a tie
GROUPS = 256  # that outcomes are merged to for bounds; the fastest of 64 to 512 for K = 50, C = 10
ROUNDS = 2  # of the clustering that merges them
FINALISTS = 16  # images measured at once in float64, of which one will do


@dataclass
class Outcomes:
    """The classes that the images picked so far may turn out to have, all combinations or a sample of them.

    Attributes:
        mass: probability of each combination, all together 1. Shape (S,).
        networks: probability of each network, given the combination. Shape (S, K).
    """

    mass: Tensor
    networks: Tensor

    def gains(self, probs: Tensor) -> Tensor:
        """What the class of each image would say about the networks beyond these outcomes, in nats. Shape (B,).

        Args:
            probs: in the type of these outcomes. Shape (B, K, C).
        """
        n_rows, n_passes, n_classes = probs.shape
        known = _surprise(probs).sum(2) @ (self.mass @ self.networks)  # where the network is known
        joint = self.networks @ probs.permute(1, 0, 2).reshape(n_passes, -1)
        return (self.mass @ _surprise(joint)).unflatten(0, (n_rows, n_classes)).sum(1) - known

    def rough(self) -> Outcomes:
        """The same in float32."""
        return Outcomes(self.mass.float(), self.networks.float())

    def room(self, n_classes: int) -> float:
        """By how much float32 gains may be off, in nats; entropies are at most ln C. Half of it is the most seen."""
        return rounding(max(self.networks.shape)) * math.log(n_classes)

    def merged(self, n_groups: int) -> Outcomes:
        """At most so many groups of outcomes, each of outcomes that say similar things about the networks.

        What only says in which group the outcome is leaves more to learn, so that gains beyond the groups are upper
        bounds of those beyond the outcomes.
        """
        x = self.networks.sqrt().float()
        spaced = (torch.arange(n_groups, device=x.device, dtype=self.mass.dtype) + 0.5) / n_groups
        centers = x[torch.searchsorted(self.mass.cumsum(0), spaced).clamp_max(len(x) - 1).unique()]
        for _ in range(ROUNDS):
            nearest = torch.addmm(centers.square().sum(1), x, centers.T, alpha=-2).argmin(1)
            mass = self.mass.new_zeros(len(centers)).index_add_(0, nearest, self.mass)
            networks = self.networks.new_zeros(centers.shape)
            networks.index_add_(0, nearest, self.mass[:, None] * self.networks)
            mass, networks = mass[mass > 0], networks[mass > 0]
            networks /= mass[:, None]
            centers = networks.sqrt().float()
        return Outcomes(mass, networks)

    def with_pick(self, probs: Tensor, n_most: int, rng: np.random.Generator) -> Outcomes:
        """The outcomes with the class of one more image: all that are possible, or a sample if these are too many.

        The sample is stratified: one draw from each n_most-th of the mass. One random number for all of them would give
        all outcomes of equal mass the same class.

        Args:
            probs: of the picked image. Shape (K, C), in `wide_type`.
            n_most: how many combinations at most.
            rng: draws the sample.
        """
        mass = (self.mass[:, None] * (self.networks @ probs)).flatten()
        chosen = mass.nonzero()[:, 0]
        mass = mass[chosen]
        if len(chosen) > n_most:
            points = torch.from_numpy((np.arange(n_most) + rng.random(n_most)) / n_most).to(mass)
            drawn = torch.searchsorted(mass.cumsum(0) / mass.sum(), points).clamp_max(len(mass) - 1)
            drawn, copies = drawn.unique_consecutive(return_counts=True)
            chosen, mass = chosen[drawn], copies.to(mass.dtype)
        n_classes = probs.shape[1]
        networks = self.networks[chosen // n_classes] * probs.T[chosen % n_classes]
        return Outcomes(mass / mass.sum(), networks / networks.sum(1, keepdim=True))


def joint_information_greedy(
    probs_of: Callable[[Tensor], Tensor], n_rows: int, n: int, n_outcomes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Pick images one by one, each the one whose class says most about the networks beyond the classes of the others.

    While the possible combinations of the picked images' classes, the outcomes, are at most n_outcomes, all are counted
    and the information is exact. An image's gain never grows with the picks, so its last one is an upper bound. So is
    its gain beyond groups of outcomes, and one in float32 with room for rounding. Only images whose bounds are the
    largest are looked at again; the picks are those of computing all gains before each of them. When there are more
    outcomes, they are sampled; then gains, and that they never grow, hold up to the error of the sample.

    Source: Kirsch, van Amersfoort, Gal, "BatchBALD", NeurIPS 2019, algorithm 1; the lazy order: Minoux, 1978.
    Deviations: with each pick the sample is extended, not drawn anew; a gain is the mean over the outcomes of what the
    image's class says given that outcome, which is never below 0, not a difference of two joint entropies.
    Cost: U K C, then for each pick 256 K C a bound and S K C a gain that is looked at, S up to n_outcomes; O(U) memory
    beyond S (K + C).

    Args:
        probs_of: positions (B,) to predictions of K networks, always the same ones (B, K, C).
        n_rows: U.
        n: how many, 1 <= n <= U.
        n_outcomes: combinations of classes at most.
        rng: draws samples.

    Returns:
        Positions in order of picking, all different; of equal gains the first. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: a prediction is not finite.
    """
    if not 1 <= n <= n_rows:
        raise ValueError(f"joint_information_greedy: {n} picks of {n_rows} rows")
    start = wide_probs(probs_of(torch.zeros(1, dtype=torch.int64)))
    n_passes, n_classes = start.shape[1:]
    outcomes = Outcomes(start.new_ones(1), start.new_full((1, n_passes), 1 / n_passes))
    bounds = np.full(n_rows, np.inf)  # of what an image adds
    picks: list[int] = []
    while True:
        levels = [outcomes.rough(), outcomes]
        if len(outcomes.mass) > 2 * GROUPS:
            levels.insert(0, outcomes.merged(GROUPS).rough())
        done = np.zeros(n_rows, np.int64)  # levels an image has been looked at on; after all, its bound is its gain
        while (level := done[pick := _first_largest(bounds)]) < len(levels):
            given, last = levels[level], level == len(levels) - 1
            size = max(1, BLOCK // (max(len(given.mass), n_passes) * n_classes))
            some = _largest(bounds, done, level, min(size, FINALISTS) if last else size)
            probs = probs_of(torch.from_numpy(some))
            gains = given.gains(wide_probs(probs) if last else probs.float()).clamp_min(0).cpu().numpy()
            if not np.isfinite(gains).all():
                raise UserError(NOT_FINITE)
            bounds[some] = gains if last else np.minimum(gains + given.room(n_classes), bounds[some])
            done[some] += 1
        picks.append(pick)
        if len(picks) == n:
            return np.array(picks)
        bounds[pick] = -np.inf
        outcomes = outcomes.with_pick(wide_probs(probs_of(torch.tensor([pick])))[0], n_outcomes, rng)


def _first_largest(bounds: Floats) -> int:
    return int((bounds >= bounds.max() * (1 - SAME)).argmax())


def _largest(bounds: Floats, done: NDArray[np.int64], level: int, n: int) -> NDArray[np.int64]:
    """Up to n positions that are done to this level, those with the largest bounds, ascending."""
    here = np.flatnonzero((done == level) & (bounds >= 0))
    some = here[np.argpartition(-bounds[here], n)[:n]] if n < len(here) else here
    return np.sort(some)


def _surprise(p: Tensor) -> Tensor:
    """-p log p, 0 where p is 0; in half the time of xlogy."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log_().mul_(p).neg_()
