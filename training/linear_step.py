"""The training step of a linear classifier of features on a CPU, with its gradient written out.

It computes what the general step of `training.loop` does, up to rounding, in about half of the time: with so few
numbers, the overhead of automatic differentiation and of torch's optimizer is larger than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from nets import FeatureNet, Net
from runs.options import neutral_values
from training.batches import Batches
from training.recipe import Recipe
from utils import has_fast_bf16

# Options that `linear_step` follows, or that have no part in a step on features.
FOLLOWED = {
    "n_epoch", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "schedule", "min_steps", "flip", "translate",
    "dropout", "cuda_graph", "bf16", "class_weight", "keep", "calibrate",
}  # fmt: skip
# What the others must be. One that is in neither, such as a new one that is not declared by `added`, rules it out.
NEUTRAL = {"clip": 0.0, "compile": False, **neutral_values(Recipe)}


def is_linear(net: Net, recipe: Recipe, device: torch.device) -> bool:
    """Whether `linear_step` can train the network: a linear classifier, and no option that it does not follow."""
    if device.type != "cpu" or not (isinstance(net, FeatureNet) and isinstance(net.body, nn.Identity)):
        return False
    others = {name: value for name, value in asdict(recipe).items() if name not in FOLLOWED}
    is_neutral = all(name in NEUTRAL and value == NEUTRAL[name] for name, value in others.items())
    return is_neutral and not (recipe.bf16 and has_fast_bf16(device))


def linear_step(
    net: Net, batches: Batches, recipe: Recipe, rates: Sequence[float], weight: Tensor | None
) -> Callable[[], Tensor]:
    """One training step as a function without arguments, which returns its loss.

    Args:
        net: a linear classifier, see `is_linear`.
        batches: what each step reads.
        recipe: how to train.
        rates: the learning rate of each step.
        weight: of each class in the loss; all count the same where absent. Shape (C,).
    """
    weights, bias = net.head.weight.detach(), net.head.bias.detach()[:, None]  # the network's own memory
    momenta = torch.zeros_like(weights), torch.zeros_like(bias)
    ones = torch.ones(1, recipe.batch_size)
    minus, equal = -ones, ones / recipe.batch_size
    steps = iter(enumerate(rates))

    def update(values: Tensor, gradient: Tensor, momentum: Tensor, rate: float) -> None:
        gradient.add_(values, alpha=recipe.weight_decay)
        momentum.mul_(recipe.momentum).add_(gradient)
        direction = gradient.add_(momentum, alpha=recipe.momentum) if recipe.nesterov else momentum
        values.sub_(direction, alpha=rate)

    @torch.no_grad()
    def step() -> Tensor:
        i, rate = next(steps)
        rows, labels = batches.at(torch.tensor([i]))
        rows, own = net.dropout(rows), labels[None]
        log_probs = torch.addmm(bias, weights, rows.T).log_softmax(0)  # (C, B), which is faster than (B, C)
        shares = equal if weight is None else weight[own] / weight[own].sum()
        loss = -(log_probs.gather(0, own) * shares).sum()
        of_logits = log_probs.exp_().scatter_add_(0, own, minus).mul_(shares)
        update(weights, of_logits @ rows, momenta[0], rate)
        update(bias, of_logits.sum(1, keepdim=True), momenta[1], rate)
        return loss

    return step
