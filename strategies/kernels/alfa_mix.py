"""Which predictions change when embeddings are mixed a little with the mean of a labeled class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from strategies.kernels.distances import NOT_FINITE, row_blocks
from utils import UserError

SLACK = 1e-3  # far more than float32 rounds a distance by


def flips_when_mixed(h: Tensor, weight: Tensor, bias: Tensor, anchors: Tensor, eps: float) -> Tensor:
    """Whether the predicted class changes when the embedding z is mixed with one of the anchors z*.

    The mix is (1 - alpha) z + alpha z*, where alpha = eps / sqrt(D) |z* - z| g / (|g| (z* - z)) entry by entry and g is
    the gradient of the cross-entropy of the predicted class. That is z + eps / sqrt(D) |z* - z| g / |g|, but entries in
    which z and z* are equal stay: one direction for all anchors, along which the logits are linear. So neither the
    gradients nor the mixes are formed, except where entries are equal; and not at all for rows that are farther from
    every boundary of their class than any anchor moves them.

    Source: Parvaneh et al., "Active learning by feature mixing", CVPR 2022, eq. 5. Deviations from the authors' code:
    equal entries are left out instead of adding 1e-8; eps is not raised when too few predictions change.
    Cost: two products of the embeddings, with the head and with the anchors, and A comparisons of each embedding near a
        boundary; O(U) memory beyond a block.

    Args:
        h: embeddings, z. Shape (U, D).
        weight: of the head. Shape (C, D).
        bias: of the head. Shape (C,).
        anchors: means of labeled classes, z*; may be empty. Shape (A, D).
        eps: bound of alpha, before it is divided by sqrt(D).

    Returns:
        Shape (U,), bool.

    Raises:
        UserError: a logit is not finite.
    """
    flips = torch.zeros(len(h), dtype=torch.bool, device=h.device)
    if not len(anchors):
        return flips
    center = anchors.mean(0)
    near = anchors - center  # differences of small numbers lose fewer digits
    near_sq = near.square().sum(1)
    contrast = weight - weight.mean(0)  # what all classes share does not change the prediction
    gram = contrast @ contrast.T
    class_distances = torch.cdist(contrast, contrast, compute_mode="donot_use_mm_for_euclid_dist")
    for rows in row_blocks(*h.shape):
        z = h[rows]
        logits = torch.addmm(bias, z, weight.T)
        if not logits.isfinite().all():
            raise UserError(NOT_FINITE)
        y = logits.argmax(1)
        offset = z - center
        sq = torch.addmm(near_sq, offset, near.T, alpha=-2).add_(offset.square().sum(1)[:, None])
        steps = eps / math.sqrt(h.shape[1]) * sq.clamp_min_(0).sqrt_()  # (B, A)
        reach = (1 + SLACK) * steps.amax(1, keepdim=True) * class_distances[y]  # no logit can gain more on that of y
        near_boundary = (logits + reach > logits.gather(1, y[:, None])).any(1).nonzero()[:, 0]
        z, logits, y, steps = (t[near_boundary] for t in (z, logits, y, steps))
        a, slopes = _unit_gradients(logits, y, gram)
        changes = torch.zeros_like(y, dtype=torch.bool)
        for anchor, step in zip(anchors, steps.T, strict=True):
            moved = slopes - _kept_back(z == anchor, a, contrast)
            changes |= (logits + step[:, None] * moved).argmax(1) != y
        flips[rows.start + near_boundary] = changes
    return flips


def _unit_gradients(logits: Tensor, y: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Directions g / |g| as weights of the head's rows (B, C), and the slopes of the logits along them (B, C).

    Args:
        logits: Shape (B, C).
        y: their largest. Shape (B,).
        gram: products of the head's rows less their mean. Shape (C, C).
    """
    a = logits.scatter(1, y[:, None], -math.inf).softmax(1)  # p - onehot(y) up to a factor, which may underflow
    a.scatter_(1, y[:, None], -1)
    slopes = a @ gram
    length = (slopes * a).sum(1, keepdim=True).clamp_min(0).sqrt()
    return torch.where(length > 0, a / length, 0), torch.where(length > 0, slopes / length, 0)


def _kept_back(equal: Tensor, a: Tensor, contrast: Tensor) -> Tensor | int:
    """The part of the slopes that comes from entries which do not move.

    Args:
        equal: which entries of the embeddings do not move. Shape (B, D).
        a: weights of the head's rows in the unit gradients. Shape (B, C).
        contrast: the head's rows less their mean. Shape (C, D).
    """
    columns = equal.any(0).nonzero()[:, 0]
    if not len(columns):
        return 0
    some = contrast[:, columns]
    return ((a @ some) * equal[:, columns]) @ some.T


def class_means(h: Tensor, labels: Tensor) -> Tensor:
    """The mean embedding of each class that has a label, by class.

    Args:
        h: embeddings of labeled images. Shape (L, D).
        labels: any integers. Shape (L,).
    """
    return torch.stack([h[labels == c].mean(0) for c in labels.unique()]) if len(h) else h
