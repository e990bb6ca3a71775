"""More digits, where float32 has too few."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_type(x: Tensor) -> torch.dtype:
    """float64, or float32 where the device has no other."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def wide_probs(probs: Tensor) -> Tensor:
    """The same probabilities (..., C) in `wide_type`, where they sum to 1 to its precision.

    Information is a small difference of large entropies, which in float32 is off by more than networks that agree
    often differ by; and so is that of float32 probabilities whose sum is not quite 1.
    """
    wide = probs.to(wide_type(probs))
    return wide / wide.sum(-1, keepdim=True)
