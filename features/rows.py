"""Rows of features: the request for them, and their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Frozen(NamedTuple):
    """The request to embed images by a frozen, pretrained backbone and to work on these features.

    Attributes:
        name: of the backbone, such as efficientnet_lite0 or timm:vit_small_patch14_dinov2.lvd142m.
        size: side of the images that it reads in pixels; None for its own.
        weights: file of its weights; None where they are at hand or downloaded.
        device: where to compute features that are not in the cache.
    """

    name: str
    size: int | None
    weights: Path | None
    device: torch.device


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Features less their means, divided by their standard deviations, in float32. Shape of x (B, D)."""
    return torch.sub(x, mean).div_(std)


def feature_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; a constant one has standard deviation 1. Shapes (D,), from (N, D).

    They are computed in parts that fit into a core's cache: a memory map may be larger than the memory.
    """
    total, squares = torch.zeros(2, x.shape[1], dtype=torch.float64)
    for part in x.split(256):
        rows = part.float()
        total += rows.sum(0)
        squares += rows.square().sum(0)
    mean = total / len(x)
    std = (squares / len(x) - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 1e-4, std, 1.0).float()
