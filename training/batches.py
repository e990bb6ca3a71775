"""The batches of one training: which rows each step reads, and how images are mirrored and shifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.recipe import Recipe

AT_ONCE = 1_000_000  # rows whose random numbers are drawn together: a bound on the memory that drawing takes


@dataclass(frozen=True)
class Draws:
    """All random choices of one training except initial weights and dropout. T steps of B rows.

    Attributes:
        order: positions among the labeled rows, 0 to L - 1. Shape (T, B), int32.
        flips: which images to mirror. Shape (T, B), bool.
        shifts: rows and columns to shift images by. Shape (T, B, 2), int16.
    """

    order: NDArray[np.int32]
    flips: NDArray[np.bool_]
    shifts: NDArray[np.int16]


def draw_batches(n_labeled: int, shape: tuple[int, ...], recipe: Recipe, rng: np.random.Generator) -> Draws:
    """Draw what every step reads, for labeled rows of a shape, (3, H, W) or (D,)."""
    order = batch_order(n_labeled, recipe.n_steps(n_labeled), recipe.batch_size, rng)
    reach = round(recipe.translate * shape[-1]) if len(shape) == 3 else 0
    flips, shifts = np.empty(order.shape, np.bool_), np.empty((*order.shape, 2), np.int16)
    n_steps = max(1, AT_ONCE // recipe.batch_size)
    parts = [slice(start, start + n_steps) for start in range(0, len(order), n_steps)]
    for part in parts:
        flips[part] = rng.random(flips[part].shape) < (0.5 if recipe.flip else 0)
    for part in parts:
        shifts[part] = rng.integers(-reach, reach + 1, shifts[part].shape)
    return Draws(order, flips, shifts)


def batch_order(n: int, n_steps: int, batch_size: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Which of n rows each step trains on: shuffled passes, one after the other, cut into full batches.

    Returns:
        Positions, 0 to n - 1. Shape (n_steps, batch_size).
    """
    order = np.empty(n_steps * batch_size, np.int32)
    for start in range(0, len(order), n):
        order[start : start + n] = rng.permutation(n)[: len(order) - start]
    return order.reshape(n_steps, batch_size)


class Batches:
    """The labeled rows and the draws of a training, all on one device, so that a recorded step can read any batch.

    Args:
        x: labeled rows: images with channels last, or normalised features. Shape (L, H, W, 3) or (L, D).
        y: their classes. Shape (L,).
        draws: which rows each step reads.
        normalize: from images (B, 3, H, W) to what the network reads.
    """

    def __init__(self, x: Tensor, y: Tensor, draws: Draws, normalize: Callable[[Tensor], Tensor]) -> None:
        self.x = x
        self.y = y
        self.n_steps = len(draws.order)
        self._normalize = normalize
        self._order = torch.from_numpy(draws.order).to(x.device)
        self._flips, self._shifts = (torch.from_numpy(d).to(x.device) for d in (draws.flips, draws.shifts))

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """What the network reads in a step, augmented, and the classes. Shapes (B, ...) and (B,); of `step` (1,)."""
        idxs = self._order.index_select(0, step)[0]
        if self.x.dim() == 2:
            rows = self.x.index_select(0, idxs)
        else:
            flips, shifts = (d.index_select(0, step)[0] for d in (self._flips, self._shifts))
            rows = self._normalize(augmented(self.x, idxs, flips, shifts))
        return rows, self.y.index_select(0, idxs)


def augmented(x: Tensor, idxs: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Some images, mirrored and shifted; pixels that a shift uncovers are filled by reflection.

    Args:
        x: all images, channels last. Shape (L, H, W, 3), uint8.
        idxs: which of them. Shape (B,).
        flips: which to mirror. Shape (B,), bool.
        shifts: rows and columns to shift by. Shape (B, 2).

    Returns:
        Shape (B, 3, H, W), uint8.
    """
    side = x.shape[1]
    line = torch.arange(side, device=x.device)
    rows = line + shifts[:, :1]  # (B, H)
    columns = torch.where(flips[:, None], side - 1 - line, line) + shifts[:, 1:]  # (B, W)
    inside = [side - 1 - (side - 1 - i.abs()).abs() for i in (rows, columns)]
    return x[idxs[:, None, None], inside[0][:, :, None], inside[1][:, None, :]].permute(0, 3, 1, 2)
