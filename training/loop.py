"""The training of one network on the labeled rows of a pool."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import Pool, Split, channels_last
from nets import Net
from training.batches import Batches, draw_batches
from training.cuda_graph import EAGER_STEPS, captured, side_queue, tuned_convolutions
from training.learner import Learner, has_finite_weights
from training.linear_step import is_linear, linear_step
from training.recipe import SCHEDULES, Recipe
from training.validation import N_CHECKS, WORST, Best, Quality, calibrate
from utils import UserError, has_fast_bf16

DECAYS = (0.1, 1.0, 10.0)  # times the recipe's weight decay, from which validation images choose on features


@contextmanager
def _seeded(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Draw initial weights and dropout from `rng`, and leave torch's generators as they were."""
    index = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=index):
        seed = int(rng.integers(2**63))
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def train(
    build: Callable[[], Net],
    pool: Pool,
    recipe: Recipe,
    device: torch.device,
    rng: np.random.Generator,
    on_first_epoch: Callable[[float], None] = lambda seconds_per_step: None,
    validation: Split | None = None,
) -> Learner:
    """Train a new network on the labeled rows of the pool.

    Args:
        build: makes the network, with random weights.
        pool: at least one row labeled.
        recipe: how to train.
        device: where.
        rng: initial weights, order, augmentation and dropout are drawn from it, and nothing else is.
        on_first_epoch: called with the seconds that a step takes, once they are known.
        validation: labeled images that decide what the recipe leaves to them; needed where it does.

    Raises:
        UserError: the loss or a weight is not finite, a batch does not fit into the device's memory, or torch.compile
            failed.
    """
    decays = DECAYS if recipe.keep == "best" and len(pool.inputs.shape) == 1 else [1.0]
    trained = []
    for decay in decays:
        attempt = replace(recipe, weight_decay=decay * recipe.weight_decay)
        trained.append(_trained(build, pool, attempt, device, copy.deepcopy(rng), on_first_epoch, validation))
    net, _ = max(trained, key=lambda of: of[1])
    if recipe.calibrate and validation is not None:
        calibrate(net, validation, device)
    return Learner(net, device)


def _trained(
    build: Callable[[], Net],
    pool: Pool,
    recipe: Recipe,
    device: torch.device,
    rng: np.random.Generator,
    on_first_epoch: Callable[[float], None],
    validation: Split | None,
) -> tuple[Net, Quality]:
    """One training, and how good its network is on the validation images if they choose among its weights."""
    with _seeded(rng, device):
        net = build().to(device).to(memory_format=torch.channels_last)
        draws = draw_batches(len(pool.labeled), pool.inputs.shape, recipe, rng)
        try:
            batches = Batches(*_labeled_rows(pool, net, device), draws, net.normalize)
            best = Best(net, validation, device) if recipe.keep == "best" and validation is not None else None
            loss = _fit(net, batches, recipe, on_first_epoch, best)
        except torch.OutOfMemoryError as e:
            raise UserError(
                f"--batch_size {recipe.batch_size} does not fit into the memory of {device}; lower it"
            ) from e
        except RuntimeError as e:
            if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise UserError(f"--compile: torch.compile failed ({str(e).splitlines()[0]}); leave it out") from e
    if not math.isfinite(loss) or not has_finite_weights(net):  # the last update can spoil what its loss does not show
        raise UserError(f"the training diverged (loss {loss}) with --lr {recipe.lr}; lower it")
    return net, best.quality if best else WORST


def _labeled_rows(pool: Pool, net: Net, device: torch.device) -> tuple[Tensor, Tensor]:
    """All labeled rows on the device, and their classes. Shapes (L, ...) and (L,).

    Images have their channels last; features are normalised, once for all steps.
    """
    labeled = pool.labeled
    try:
        rows = pool.inputs[labeled].batch(0, len(labeled), device)
        x = net.normalize(rows) if rows.dim() == 2 else channels_last(rows)
    except torch.OutOfMemoryError as e:
        size = pool.inputs.shape[-1]
        kind = f"images of {size} pixels" if len(pool.inputs.shape) == 3 else f"rows of {size} features"
        raise UserError(
            f"{len(labeled)} labeled {kind} do not fit into the memory of {device}; lower --img_size"
        ) from e
    return x, torch.from_numpy(pool.labels[labeled]).to(device)


def _fit(
    net: Net, batches: Batches, recipe: Recipe, on_first_epoch: Callable[[float], None], best: Best | None
) -> float:
    """All steps of one training, at the end of which the network has its best weights. Returns the last loss."""
    device, n_labeled, n_steps = batches.x.device, len(batches.x), batches.n_steps
    n_epoch_steps = math.ceil(n_labeled / recipe.batch_size)
    step = _step(net, batches, recipe)
    loss = math.nan
    start = 0.0
    net.train()
    with side_queue(device), tuned_convolutions():
        for i in tqdm(range(n_steps), desc=f"training on {n_labeled}", unit="step", leave=False, disable=None):
            if i == EAGER_STEPS and recipe.cuda_graph and device.type == "cuda":
                step = captured(step)
            step_loss = step()
            if (i + 1) % n_epoch_steps == 0 or i + 1 == n_steps:
                loss = step_loss.item()
                if not math.isfinite(loss):
                    return loss
            if i == EAGER_STEPS:
                start = time.perf_counter()  # the first steps include one-time setup
            if i == max(n_epoch_steps, 20) + EAGER_STEPS:
                step_loss.item()  # waits for the device
                on_first_epoch((time.perf_counter() - start) / (i - EAGER_STEPS))
            if best and ((i + 1) % math.ceil(n_steps / N_CHECKS) == 0 or i + 1 == n_steps):
                best.check()
    if best:
        best.restore()
    return loss


def _class_weight(labels: Tensor, n_classes: int) -> Tensor:
    """Weight of each class, inverse to its labels; 1 on average over all labels. Shape (C,)."""
    counts = labels.bincount(minlength=n_classes).float()
    return len(labels) / ((counts > 0).sum() * counts.clamp(min=1))


def _step(net: Net, batches: Batches, recipe: Recipe) -> Callable[[], Tensor]:
    """One training step as a zero-argument function. All that it reads is on the device, the step's number too.

    So one recording of it can be replayed for every step. Each call returns its loss.
    """
    device, n_steps = batches.x.device, batches.n_steps
    rates = [recipe.lr * SCHEDULES[recipe.schedule](i, n_steps) for i in range(n_steps)]
    weight = _class_weight(batches.y, net.head.out_features) if recipe.class_weight == "balanced" else None
    if is_linear(net, recipe, device):
        return linear_step(net, batches, recipe, rates, weight)
    rate = torch.tensor(recipe.lr, device=device)
    schedule = torch.tensor(rates, device=device)
    index = torch.zeros(1, dtype=torch.int64, device=device)  # of the step
    optimizer = torch.optim.SGD(
        net.parameters(), rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=True
    )
    bf16 = recipe.bf16 and has_fast_bf16(device)
    forward: Callable[[Tensor], Tensor] = net
    if recipe.compile:
        torch.compiler.reset()  # it stops compiling after eight networks, and every round has its own
        forward = torch.compile(net)

    def step() -> Tensor:
        rows, labels = batches.at(index)
        rate.copy_(schedule.index_select(0, index)[0])
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            logits = forward(rows)
        loss = F.cross_entropy(logits.float(), labels, weight)
        net.zero_grad(set_to_none=True)  # the optimizer's takes a tenth of the step of a head
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        index.add_(1)
        return loss.detach()

    return step
