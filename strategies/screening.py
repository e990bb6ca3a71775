"""Ruling images out by rough scores, so that few exact scores are needed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SCREENED_FROM = 4096  # images; scoring fewer exactly takes less time than screening them
SAMPLED = 1000  # images, spread over all, that show how far rough scores are off, besides the best
SAFETY = 2.0  # safety factor on the largest observed error of a rough score


def worth_screening(n_images: int, n: int) -> bool:
    """Whether picking n of so many images takes less time with rough scores first."""
    return n_images >= SCREENED_FROM and 4 * n <= n_images


def screened(rough: Tensor, exact: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Exact scores of all images that may be among the n highest, found without an exact score for each.

    The best by their rough score and a sample spread over all are scored exactly, which shows how far rough scores are
    off. Next, every image that would be among the n highest if its rough score were off by twice as much is scored
    exactly, until none is left. So the n highest are those that exact scores of all images would give, unless an image
    that was never scored exactly is off by more than twice as much as any of the thousands that were.

    Args:
        rough: a score of each image; where one is not finite, all images are scored exactly. Shape (U,).
        exact: positions, ascending (P,), to their scores (P,).
        n: how many are wanted, 1 <= n <= U.

    Returns:
        -inf where no exact score was needed. Shape (U,).
    """
    if not rough.isfinite().all():
        return exact(torch.arange(len(rough)))
    scores = torch.full_like(rough, -math.inf)
    known = torch.zeros_like(rough, dtype=torch.bool)
    wanted = torch.zeros_like(known)
    wanted[rough.topk(min(n + n // 2, len(rough))).indices] = True
    wanted[:: max(1, len(rough) // SAMPLED)] = True
    while wanted.any():
        scores[wanted] = exact(wanted.nonzero()[:, 0])
        known |= wanted
        error = (scores - rough)[known].abs().max()
        wanted = ~known & (rough + SAFETY * error >= scores.topk(n).values[-1])
    return scores
