"""The distance to the decision boundary, by DeepFool."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LATER_CLASSES = 3  # that are still tried after the first step


def deepfool_distances(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    n_top: int | None = 6,
    overshoot: float = 0.02,
    max_steps: int = 50,
) -> Tensor:
    """Length of the perturbation that moves each image across the nearest decision boundary, by DeepFool.

    All images step together; one whose class has changed takes no further part.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool", CVPR 2016, algorithm 2. Deviations: the network is read at
    x + (1 + overshoot) r in every step, not only in the last, so that no image stalls on the boundary; the n_top most
    probable other classes stand for all in the first step, and the 3 nearest of these in later ones. On a network for
    CIFAR-10, 6 and 3 rank as all 9 do (Spearman 0.9999), and take no more time than 5 and 5 (0.9993).
    Cost: per step one forward pass with n_top or 3 backward passes, and one forward pass that checks whether the class
        changed.

    Args:
        forward: float32 images to logits (B, C); each image's depend on that image alone; weights require no gradient.
        x: Shape (B, ...).
        n_top: how many other classes are tried, by their logits at the start; None or C - 1 means all, in every step.
        overshoot: how far beyond the linear boundary to step, as a share.
        max_steps: after so many steps the length so far is returned: no distance is known, only that the image is
            at least about that far, or on the boundary to within rounding.

    Returns:
        L2 norms of r, in the space of `x`; infinite where the gradients are 0, NaN where the network is. Shape (B,).
    """
    lengths = x.new_empty(len(x))
    active, r, moved = torch.arange(len(x), device=x.device), torch.zeros_like(x), x
    classes = None
    for _ in range(max_steps):
        n_classes, classes, gaps, gradients = _linearized(forward, moved, classes, n_top)
        norms = gradients.flatten(2).norm(dim=2)  # (n_top, B)
        ratios = torch.where(norms == 0, torch.inf, gaps / norms)
        nearest = ratios.argmin(0)
        ratio, norm, w = (t[nearest, torch.arange(len(nearest), device=x.device)] for t in (ratios, norms, gradients))
        flat = ratio == torch.inf
        r = r + per_image(torch.where(flat, 0, ratio / norm), x) * w
        lengths[active] = torch.where(flat, torch.inf, r.flatten(1).norm(dim=1))
        if n_top is not None and n_top < n_classes - 1:
            nearby = classes[:, 1:].gather(1, ratios.argsort(dim=0, stable=True)[:LATER_CLASSES].T)
            classes = torch.cat([classes[:, :1], nearby], 1)
        moved = x[active] + (1 + overshoot) * r
        with torch.no_grad():
            stays = ~_changed(forward(moved), classes[:, 0]) & ~flat & ~lengths[active].isnan()
        active, r, moved, classes = (t[stays] for t in (active, r, moved, classes))
        if not len(active):
            break
    return lengths


def _changed(logits: Tensor, y: Tensor) -> Tensor:
    """Whether another class than `y` has the largest logit. Shape (B,)."""
    return logits.amax(1) > logits.gather(1, y[:, None])[:, 0]


def _linearized(
    forward: Callable[[Tensor], Tensor], x: Tensor, classes: Tensor | None, n_top: int | None
) -> tuple[int, Tensor, Tensor, Tensor]:
    """C, the classes tried (B, 1 + n_top), |f_c - f_y| (n_top, B) and its gradients w_c (n_top, B, ...)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = forward(x)
        if classes is None:
            classes = logits.argsort(dim=1, descending=True, stable=True)[:, : None if n_top is None else 1 + n_top]
        top = logits.gather(1, classes)
        gaps = (top[:, 1:] - top[:, :1]).unbind(1)
        last = len(gaps) - 1
        # one backward pass a class: repeating the batch for each class in one pass takes twice as long on a CPU
        w = [torch.autograd.grad(gap.sum(), x, retain_graph=c < last)[0] for c, gap in enumerate(gaps)]
    return logits.shape[1], classes, torch.stack(gaps).detach().abs(), torch.stack(w)


def per_image(factors: Tensor, x: Tensor) -> Tensor:
    """One factor an image, ready to multiply images with."""
    return factors.reshape(-1, *[1] * (x.dim() - 1))
