"""BAIT in binary form: images that lower the expected error of the last layer by the most Fisher information."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.base import Idxs, Strategy
from strategies.kernels.rows import rearranged
from strategies.kernels.trace_greedy import second_moment, trace_greedy
from utils import UserError


@dataclass
class BAIT(Strategy):
    """Images whose Fisher information, with that of the labeled ones, best covers that of all; "top class or not".

    Source: Ash, Goel, Krishnamurthy, Kakade, "Gone fishing: neural active learning with Fisher embeddings", NeurIPS
    2021; the binary form: Huseljic, Hahn, Herde, Rauch, Sick, "Fast Fishing: approximating BAIT for efficient and
    scalable deep active image classification", 2024.
    Cost: one pass of the body over all images, 3 products of the embeddings with a matrix (D, D), and 2 n products of
    the unlabeled ones with two vectors.
    """

    ridge: float = 1.0  # lambda, what M is without any image
    oversample: float = 2.0  # how many times n the forward steps choose, before the backward steps remove the rest

    def __post_init__(self) -> None:
        if not 1e-6 <= self.ridge <= 1e6:
            raise UserError(f"--strategy_args ridge={self.ridge}: must be from 1e-6 to 1e6")
        if not 1 <= self.oversample <= 10:
            raise UserError(f"--strategy_args oversample={self.oversample}: must be from 1 to 10")

    def select(self, idxs: Idxs, n: int) -> Idxs:
        """Forward greedy and backward pruning."""
        order = self.rng.permutation(len(idxs))  # ties break by position, which this makes a random draw
        x = rearranged(self._fisher_embeddings(idxs), order)
        labeled = self._fisher_embeddings(self.pool.labeled) if len(self.pool.labeled) else x[:0]
        return idxs[order[bait(x, labeled, n, self.ridge, self.oversample)]]

    def _fisher_embeddings(self, idxs: Idxs) -> Tensor:
        h = self.learner.embeddings(self.pool.inputs[idxs])
        return fisher_embeddings(self.learner.net.head(h).softmax(1), h)


def fisher_embeddings(probs: Tensor, h: Tensor) -> Tensor:
    """sqrt(p (1 - p)) h, where p is the largest probability: its outer product is the information of an image.

    Args:
        probs: Shape (B, C).
        h: embeddings, which are overwritten. Shape (B, D).

    Returns:
        Shape (B, D).
    """
    top = probs.max(1, keepdim=True)
    others = probs.scatter(1, top.indices, 0).sum(1, keepdim=True)  # 1 - p would lose the digits of p near 1
    return h.mul_((top.values * others).sqrt())


def bait(x: Tensor, labeled: Tensor, n: int, ridge: float = 1.0, oversample: float = 2.0) -> Idxs:
    """Choose n rows that make tr(F M^-1) small, where F is the mean information of all images and M that of the chosen.

    As in the authors' code, M = ridge I + L / (L + n) (mean of v v' over the labeled rows) + n / (L + n) (sum of v v'
    over the chosen ones).

    Args:
        x: rows v of the unlabeled images, see `fisher_embeddings`. Shape (U, D).
        labeled: rows v of the labeled ones; may be empty. Shape (L, D).
        n: how many, 1 <= n <= U.
        ridge: above 0.
        oversample: how many times n, at most U, are chosen before the others are removed; at least 1.

    Returns:
        Positions in `x`, in order of picking, all different. Shape (n,).

    Raises:
        ValueError: n is not from 1 to U.
        UserError: `x` or `labeled` are not finite.
    """
    if not 1 <= n <= len(x):
        raise ValueError(f"bait: {n} picks of {len(x)} rows")
    of_labeled = second_moment(labeled)
    target = (second_moment(x) + of_labeled) / (len(x) + len(labeled))
    identity = torch.eye(len(target), dtype=target.dtype, device=target.device)
    start = (ridge * (len(labeled) + n) * identity + of_labeled) / n  # M (L + n) / n, so that rows need no factor
    return trace_greedy(x, target, start, n, min(int(oversample * n), len(x)))
