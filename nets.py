"""Networks, their training, and the trained Learner that strategies ask."""

from __future__ import annotations

import io
import math
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from data import Images, Pool
from utils import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights were trained on
EAGER_STEPS = 3  # before a step is recorded, so that every library has set itself up
SMALL_IMAGE = 64  # pixels; up to here ResNets keep their full resolution in the stem


class Net(nn.Module):
    """A body that embeds, dropout, and a linear head that reads the embedding.

    Args:
        body: normalised images (B, 3, H, W) to embeddings (B, D).
        n_features: D.
        n_classes: C.
        dropout: probability that an entry of the embedding is dropped in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, n_features: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_features, n_classes)
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("std", torch.full((3,), 0.25))

    def set_pixel_stats(self, mean: Tensor, std: Tensor) -> None:
        """Say what `normalize` subtracts and divides by, in 0 to 1. Shapes (3,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels 0 to 255 as the network reads them: each channel with mean 0 and standard deviation 1. float32."""
        scale = 1 / (255 * self.std)
        return x * scale[:, None, None] - (self.mean / self.std)[:, None, None]

    def embed(self, x: Tensor) -> Tensor:
        """What the head reads, for normalised images (B, 3, H, W). Shape (B, D)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for normalised images (B, 3, H, W). Shape (B, C)."""
        return self.head(self.dropout(self.embed(x)))


def _small_body(img_size: int, n_features: int) -> nn.Module:
    """DeepAL's convolutions 5x5, 32-32-64, two max-poolings, and a linear layer to the embedding."""
    padding = 0 if img_size >= 28 else 2  # without it, small images shrink to nothing
    side = (img_size - 8 + 4 * padding) // 2
    side = (side - 4 + 2 * padding) // 2
    pool = max(1, side // 4)  # large images end at about the 4 x 4 that 32 pixels end at
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=padding),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.AvgPool2d(pool),
        nn.Flatten(),
        nn.Linear(64 * (side // pool) ** 2, n_features),
        nn.ReLU(),
    )


def small_cnn(n_classes: int, img_size: int, dropout: float, pretrained: bool) -> Net:
    """DeepAL's network for CIFAR-10. Source: Huang, "DeepAL: deep active learning in Python", 2021."""
    if pretrained:
        raise UserError("--pretrained: there are no pretrained weights for SmallCNN; use ResNet18 or ResNet50")
    return Net(_small_body(img_size, 50), 50, n_classes, dropout)


def _resnet(name: str, n_classes: int, img_size: int, dropout: float, pretrained: bool) -> Net:
    body = getattr(torchvision.models, name)(weights=None)
    if pretrained:
        body.load_state_dict(_imagenet_weights(name))
    if img_size <= SMALL_IMAGE:
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if pretrained:
            stem.weight.data.copy_(body.conv1.weight[:, :, 2:5, 2:5])  # the middle of the 7x7 kernels
        body.conv1, body.maxpool = stem, nn.Identity()
    n_features = body.fc.in_features
    body.fc = nn.Identity()
    net = Net(body, n_features, n_classes, dropout)
    if pretrained:
        net.set_pixel_stats(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return net


def _imagenet_weights(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as e:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"--pretrained: {weights.url} could not be downloaded ({' '.join(str(e).split())}); "
            f"fetch it on a machine with a network and place it as {place}"
        ) from e


def resnet18(n_classes: int, img_size: int, dropout: float, pretrained: bool) -> Net:
    """Torchvision's ResNet-18; a 3x3 stem without max-pooling up to 64 pixels. Source: He et al., CVPR 2016."""
    return _resnet("resnet18", n_classes, img_size, dropout, pretrained)


def resnet50(n_classes: int, img_size: int, dropout: float, pretrained: bool) -> Net:
    """Torchvision's ResNet-50; a 3x3 stem without max-pooling up to 64 pixels. Source: He et al., CVPR 2016."""
    return _resnet("resnet50", n_classes, img_size, dropout, pretrained)


class _Residual(nn.Module):
    """The input plus what some layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class _Scaled(nn.Module):
    """The input times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def _conv(n_in: int, n_out: int, pool: bool = False) -> nn.Module:
    """A convolution that begins as the identity on its first n_in channels, normalisation, and a ReLU."""
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:n_in])
    return nn.Sequential(conv, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(n_out), nn.ReLU())


def resnet9(n_classes: int, img_size: int, dropout: float, pretrained: bool) -> Net:
    """A small residual network of nine layers, for short trainings: 3.4 times less arithmetic an image than ResNet18.

    Source: Page, "How to train your ResNet", 2018, for the layout, pooling before normalisation and small logits;
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, for the widths and the identity to begin with.
    """
    if pretrained:
        raise UserError("--pretrained: there are no pretrained weights for ResNet9; use ResNet18 or ResNet50")
    body = nn.Sequential(
        _conv(3, 32),
        _conv(32, 64, pool=True),
        _Residual(_conv(64, 64)),
        _conv(64, 256, pool=True),
        _Residual(_conv(256, 256)),
        _conv(256, 256, pool=True),
        _Residual(_conv(256, 256), _conv(256, 256)),
        nn.MaxPool2d(img_size // 8),
        nn.Flatten(),
        _Scaled(0.125),
    )
    return Net(body, 256, n_classes, dropout)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Every field is a flag of demo.py; defaults differ from network to network.

    Attributes:
        n_epoch: passes over the labeled images.
        batch_size: images a step.
        lr: learning rate; the peak of the schedule.
        momentum: of SGD.
        nesterov: Nesterov's momentum.
        weight_decay: L2 penalty on all weights.
        clip: scale a step's gradient down to this L2 norm where it is longer; 0 never does.
        schedule: one_cycle (up to lr over a quarter of the steps, then down to 0 on a cosine) or constant.
        min_steps: train at least so many steps, however few the labels.
        flip: mirror half of the images in training. Off by itself where it would change the class (Digits).
        translate: shift training images by up to this share of their side in both directions.
        dropout: probability before the head.
        cuda_graph: on CUDA, record a step once and replay it: the same results within rounding, faster.
        compile: compile the network with torch.compile, which takes a minute at first.
        bf16: compute in bfloat16 in training where the device does so fast: CUDA, CPUs with AVX512-BF16 or AMX.
    """

    n_epoch: int = 50
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip: float = 0.0
    schedule: str = "one_cycle"
    min_steps: int = 500
    flip: bool = True
    translate: float = 0.125
    dropout: float = 0.5
    cuda_graph: bool = True
    compile: bool = False
    bf16: bool = True

    def check(self) -> None:
        """Raise a UserError that names the field if a value makes no sense."""
        rules: dict[str, tuple[bool, str]] = {
            "n_epoch": (self.n_epoch >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 2, "2 or more"),
            "lr": (0 < self.lr < math.inf, "above 0"),
            "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "clip": (0 <= self.clip < math.inf, "0 or more"),
            "schedule": (self.schedule in SCHEDULES, " or ".join(SCHEDULES)),
            "min_steps": (self.min_steps >= 0, "0 or more"),
            "translate": (0 <= self.translate < 0.5, "from 0 to below 0.5"),
            "dropout": (0 <= self.dropout < 1, "from 0 to below 1"),
            "nesterov": (not self.nesterov or self.momentum > 0, "off (--no-nesterov) when --momentum is 0"),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise UserError(f"--{name} {getattr(self, name)}: must be {allowed}")

    def n_steps(self, n_labeled: int) -> int:
        """Steps of one training on so many images."""
        return max(self.min_steps, math.ceil(self.n_epoch * n_labeled / self.batch_size))


def one_cycle(step: int, n_steps: int) -> float:
    """Share of the peak learning rate: linear up over the first quarter, cosine down to 0."""
    warm = 0.25 * n_steps
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (n_steps - warm)))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"one_cycle": one_cycle, "constant": lambda step, n_steps: 1.0}


class Architecture(NamedTuple):
    """A network and the recipe that suits it."""

    build: Callable[[int, int, float, bool], Net]  # n_classes, img_size, dropout, pretrained
    recipe: Recipe


NETS: dict[str, Architecture] = {
    "SmallCNN": Architecture(
        small_cnn, Recipe(n_epoch=60, batch_size=64, lr=0.05, clip=2.0, min_steps=300, dropout=0.3)
    ),
    "ResNet9": Architecture(
        resnet9, Recipe(n_epoch=34, batch_size=64, lr=0.2, weight_decay=1e-3, min_steps=300, dropout=0.3)
    ),
    "ResNet18": Architecture(resnet18, Recipe()),
    "ResNet50": Architecture(resnet50, Recipe()),
}


def default_recipe(net_name: str, pretrained: bool) -> Recipe:
    """The recipe that suits a network of NETS; pretrained weights want smaller steps."""
    recipe = NETS[net_name].recipe
    return replace(recipe, lr=0.2 * recipe.lr) if pretrained else recipe


# Training


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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def batch_order(n: int, n_steps: int, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of n images each step trains on: shuffled passes, one after the other, cut into full batches.

    Returns:
        Positions, 0 to n - 1. Shape (n_steps, batch_size).
    """
    n_passes = math.ceil(n_steps * batch_size / n)
    order = np.concatenate([rng.permutation(n) for _ in range(n_passes)])
    return order[: n_steps * batch_size].reshape(n_steps, batch_size)


def augmented(x: Tensor, idxs: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Some images, mirrored and shifted; what a shift uncovers is filled by reflection.

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


def train(
    build: Callable[[], Net],
    pool: Pool,
    recipe: Recipe,
    device: torch.device,
    rng: np.random.Generator,
    on_first_epoch: Callable[[float], None] = lambda seconds_per_step: None,
) -> Learner:
    """Train a new network on the labeled images of the pool.

    Args:
        build: makes the network, with random weights.
        pool: at least one image labeled.
        recipe: how to train.
        device: where.
        rng: initial weights, order, augmentation and dropout are drawn from it, and nothing else is.
        on_first_epoch: told the seconds that a step takes, once they are known.

    Raises:
        UserError: the loss became NaN, a batch does not fit into the device's memory, or torch.compile failed.
    """
    labeled = pool.labeled
    n_steps = recipe.n_steps(len(labeled))
    with _seeded(rng, device):
        net = build().to(device).to(memory_format=torch.channels_last)
        order = batch_order(len(labeled), n_steps, recipe.batch_size, rng)
        flips = rng.random(order.shape) < (0.5 if recipe.flip else 0)
        reach = round(recipe.translate * pool.images.img_size)
        shifts = rng.integers(-reach, reach + 1, (*order.shape, 2))
        try:
            loss = _fit(net, pool, recipe, device, order, flips, shifts, on_first_epoch)
        except torch.OutOfMemoryError as e:
            raise UserError(
                f"--batch_size {recipe.batch_size} does not fit into the memory of {device}; lower it"
            ) from e
        except RuntimeError as e:
            if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise UserError(f"--compile: torch.compile failed ({str(e).splitlines()[0]}); leave it out") from e
    if not math.isfinite(loss):
        raise UserError(f"the training diverged (loss {loss}) with --lr {recipe.lr}; lower it")
    return Learner(net, device)


def _fit(
    net: Net,
    pool: Pool,
    recipe: Recipe,
    device: torch.device,
    order: NDArray[np.int64],
    flips: NDArray[np.bool_],
    shifts: NDArray[np.int64],
    on_first_epoch: Callable[[float], None],
) -> float:
    """All steps of one training. Returns the last loss."""
    labeled = pool.labeled
    try:
        x = pool.images[labeled].batch(0, len(labeled), device).permute(0, 2, 3, 1)
    except torch.OutOfMemoryError as e:
        side = pool.images.img_size
        raise UserError(
            f"{len(labeled)} labeled images of {side} pixels do not fit into the memory of {device}; lower --img_size"
        ) from e
    y = torch.from_numpy(pool.labels[labeled]).to(device)
    n_steps, n_epoch_steps = len(order), math.ceil(len(labeled) / recipe.batch_size)
    step = _step(net, x, y, recipe, order, flips, shifts)
    loss = math.nan
    start = 0.0
    net.train()
    with _side_stream(device), _tuned_convolutions():
        for i in tqdm(range(n_steps), desc=f"training on {len(labeled)}", unit="step", leave=False, disable=None):
            if i == EAGER_STEPS and recipe.cuda_graph and device.type == "cuda":
                step = _captured(step)
            step_loss = step()
            if (i + 1) % n_epoch_steps == 0 or i + 1 == n_steps:
                loss = step_loss.item()
                if not math.isfinite(loss):
                    break
            if i == EAGER_STEPS:
                start = time.perf_counter()  # the first steps also set things up
            if i == max(n_epoch_steps, 20) + EAGER_STEPS:
                step_loss.item()  # waits for the device
                on_first_epoch((time.perf_counter() - start) / (i - EAGER_STEPS))
    return loss


def _step(
    net: Net,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    order: NDArray[np.int64],
    flips: NDArray[np.bool_],
    shifts: NDArray[np.int64],
) -> Callable[[], Tensor]:
    """One training step as a function of nothing: all it reads, the step's number too, lies on the device.

    So that one recording of it can be replayed for every step. Each call returns its loss.
    """
    device = x.device
    n_steps = len(order)
    rates = [recipe.lr * SCHEDULES[recipe.schedule](i, n_steps) for i in range(n_steps)]
    draws = [torch.from_numpy(d).to(device) for d in (order, flips, shifts)]
    rate = torch.tensor(recipe.lr, device=device)
    schedule = torch.tensor(rates, device=device)
    at = torch.zeros(1, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(
        net.parameters(), rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=True
    )
    bf16 = recipe.bf16 and has_fast_bf16(device)
    forward: Callable[[Tensor], Tensor] = net
    if recipe.compile:
        torch.compiler.reset()  # it gives up after compiling for eight networks, and every round has its own
        forward = torch.compile(net)

    def step() -> Tensor:
        idxs, flip, shift = (d.index_select(0, at)[0] for d in draws)
        rate.copy_(schedule.index_select(0, at)[0])
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            logits = forward(net.normalize(augmented(x, idxs, flip, shift)))
        loss = F.cross_entropy(logits.float(), y[idxs])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        at.add_(1)
        return loss.detach()

    return step


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One a device for good: torch keeps memory for each stream that was ever used."""
    return torch.cuda.Stream(device)


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """On CUDA, a stream that may be recorded; the default one may not."""
    if device.type != "cuda":
        yield
        return
    side, main = _stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        main.wait_stream(side)


@contextmanager
def _tuned_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms: worth it for the one shape of training, not for the many of queries."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same step as one CUDA graph, launched at once instead of kernel by kernel.

    Source: "CUDA graphs", PyTorch documentation.

    Raises:
        UserError: something in the step cannot be recorded. Torch's generators are not usable after that.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            loss = step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        cause = str(e.__context__ or e).splitlines()[0]
        raise UserError(f"the training step cannot be recorded ({cause}); --no-cuda_graph goes without") from e
    alive = graph, step, loss  # the graph reads and writes what the step refers to

    def replay() -> Tensor:
        graph, _, loss = alive
        graph.replay()
        return loss

    return replay


# After training


class Learner:
    """A trained network, ready to be asked. Its weights are frozen and it stays in evaluation mode.

    Args:
        net: trained.
        device: where the network is; results are tensors there.
        batch_size: images a pass; halved by itself when they do not fit into the device's memory.
        bf16: compute embeddings in bfloat16 where the device does so fast: quicker, but its three digits rank images
            otherwise than float32.
        screen: let strategies rule images out by their scores in bfloat16, where the device is fast at it.
    """

    def __init__(
        self,
        net: Net,
        device: torch.device,
        batch_size: int | None = None,
        bf16: bool = False,
        screen: bool = False,
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self.net.zero_grad(set_to_none=True)
        self.device = device
        self.batch_size = batch_size or (1024 if device.type == "cuda" else 64)
        self.bf16 = bf16
        self.screen = screen

    @property
    def has_dropout(self) -> bool:
        """Whether dropout passes can differ from each other."""
        return self.net.dropout.p > 0

    def rough(self) -> Learner | None:
        """The same network in bfloat16, to rule images out with; None where that is not wanted or no faster."""
        if not self.screen or self.bf16 or not has_fast_bf16(self.device):
            return None
        return Learner(self.net, self.device, self.batch_size, bf16=True)

    @torch.no_grad()
    def map(self, f: Callable[[Tensor], Tensor], images: Images | Tensor) -> Tensor:
        """Apply `f` to all images, batch by batch.

        Args:
            f: pure; takes normalised float32 images (B, 3, H, W) on the device, returns (B, ...).
            images: uint8. Shape (n, 3, H, W), n >= 1.

        Returns:
            Shape (n, ...).

        Raises:
            UserError: not even one image fits into the device's memory.
        """
        images = images if isinstance(images, Images) else Images(images)
        results: Tensor | None = None
        start = 0
        with tqdm(total=len(images), unit="image", leave=False, delay=2, disable=None) as bar:
            while start < len(images):
                try:
                    for batch in images.batches(start, self.batch_size, self.device):
                        result = f(self.net.normalize(batch))
                        if results is None:  # one tensor from the first: many small ones would fragment the memory
                            results = result.new_empty(len(images), *result.shape[1:])
                        results[start : start + len(batch)] = result
                        start += len(batch)
                        bar.update(len(batch))
                except torch.OutOfMemoryError as e:
                    if self.batch_size == 1:
                        raise UserError(f"the memory of {self.device} does not hold one image and the network") from e
                    self.batch_size //= 2
                    torch.cuda.empty_cache()
        if results is None:
            raise ValueError("no images")
        return results

    def logits(self, x: Tensor) -> Tensor:
        """Logits of normalised images, for batches that shrink from call to call; gradients reach `x`. Shape (B, C).

        On CUDA they are filled up to a power of two, as cuDNN prepares anew for every size that it has not met.
        """
        if self.device.type != "cuda":
            return self.net(x)
        missing = (1 << (len(x) - 1).bit_length()) - len(x)
        return self.net(F.pad(x, (0, 0, 0, 0, 0, 0, 0, missing)))[: len(x)]

    def _embed(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and has_fast_bf16(self.device)):
            return self.net.embed(x).float()

    def probs(self, images: Images | Tensor) -> Tensor:
        """Class probabilities without dropout, float32. Shape (n, C)."""
        return self.map(lambda x: self.net.head(self._embed(x)).softmax(1), images)

    def embeddings(self, images: Images | Tensor) -> Tensor:
        """What the head reads, float32. Shape (n, D)."""
        return self.map(self._embed, images)

    def dropout_probs(
        self,
        images: Images | Tensor,
        n_drop: int,
        rng: np.random.Generator,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Class probabilities of K networks, each with its own dropout mask on the embedding, the same for all images.

        The masks are folded into the head, so that one pass of the body and one matrix product serve all K.

        Args:
            images: uint8. Shape (n, 3, H, W).
            n_drop: K.
            rng: draws the masks.
            reduce: applied to the probabilities of each batch, (K, B, C) -> (B, ...), so that (K, n, C) is never held.

        Returns:
            Shape (K, n, C); with `reduce`, (n, ...).

        Raises:
            UserError: the network has no dropout.
        """
        head, p = self.net.head, self.net.dropout.p
        if not self.has_dropout:
            raise UserError("dropout passes need a network with dropout; this one was trained with --dropout 0")
        n_classes, n_features = head.weight.shape
        kept = torch.from_numpy(rng.random((n_drop, n_features)) >= p).to(self.device)
        weights = head.weight * kept[:, None] / (1 - p)  # (K, C, D)

        def passes(x: Tensor) -> Tensor:
            logits = self._embed(x) @ weights.flatten(0, 1).T  # (B, K C)
            probs = (logits.unflatten(1, (n_drop, n_classes)) + head.bias).softmax(-1)  # (B, K, C)
            return probs if reduce is None else reduce(probs.transpose(0, 1))

        result = self.map(passes, images)
        return result.transpose(0, 1) if reduce is None else result


UNLOADABLE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save(learner: Learner, net_name: str, classes: list[str], img_size: int, **notes: float) -> bytes:
    """The content of a model.pt: weights, what is needed to use them on new images, and any notes."""
    content = {
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in learner.net.state_dict().items()},
        "net_name": net_name,
        "classes": classes,
        "img_size": img_size,
        "dropout": learner.net.dropout.p,
        "mean": learner.net.mean.tolist(),
        "std": learner.net.std.tolist(),
        **notes,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: Path | str, device: torch.device) -> tuple[Learner, dict[str, Any]]:
    """A learner from a model.pt, and all that was saved with it: classes, img_size and more.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as records:
            if damaged := records.testzip():  # torch reads on, whatever the checksums say
                raise ValueError(f"{damaged} has another checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        net = NETS[content["net_name"]].build(len(content["classes"]), content["img_size"], content["dropout"], False)
        net.load_state_dict(content["state_dict"])
    except UNLOADABLE as e:
        raise UserError(f"{path} is no model.pt of DalMax: {' '.join(str(e).split())}") from e
    return Learner(net.to(device).to(memory_format=torch.channels_last), device), content
