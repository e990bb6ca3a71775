"""Networks by name, and their common structure: a body that embeds, dropout, and a linear head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from features.backbones import timm_network
from features.rows import standardised
from utils import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights were trained on
SMALL_IMAGE = 64  # pixels; up to here ResNets keep their full resolution in the stem

Shape = tuple[int, ...]  # of one row of the inputs: (3, H, W) of images, (D,) of features


class Net(nn.Module):
    """A body that embeds, dropout, and a linear head that reads the embedding.

    Args:
        body: normalised inputs (B, 3, H, W) to embeddings (B, D).
        n_features: D.
        n_classes: C.
        dropout: probability that an entry of the embedding is dropped in training.
        n_channels: 3; of a network that reads features, how many each row has.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, n_features: int, n_classes: int, dropout: float, n_channels: int = 3) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_features, n_classes)
        self.register_buffer("mean", torch.full((n_channels,), 0.5))
        self.register_buffer("std", torch.full((n_channels,), 0.25))

    def set_input_stats(self, mean: Tensor, std: Tensor) -> None:
        """Set what `normalize` subtracts and divides by: of each channel, in 0 to 1, or of each feature."""
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
    window = max(1, side // 4)  # large images end at about the 4 x 4 that 32 pixels end at
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=padding),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.AvgPool2d(window),
        nn.Flatten(),
        nn.Linear(64 * (side // window) ** 2, n_features),
        nn.ReLU(),
    )


def small_cnn(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """DeepAL's network for CIFAR-10. Source: Huang, "DeepAL: deep active learning in Python", 2021."""
    if pretrained:
        raise UserError("--pretrained: there are no pretrained weights for SmallCNN; use ResNet18 or ResNet50")
    return Net(_small_body(shape[-1], 50), 50, n_classes, dropout)


def _resnet(name: str, shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    import torchvision  # takes a second, so only when one of its networks is built

    body = getattr(torchvision.models, name)(weights=None)
    if pretrained:
        body.load_state_dict(_imagenet_weights(name))
    if shape[-1] <= SMALL_IMAGE:
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if pretrained:
            stem.weight.data.copy_(body.conv1.weight[:, :, 2:5, 2:5])  # the middle of the 7x7 kernels
        body.conv1, body.maxpool = stem, nn.Identity()
    n_features = body.fc.in_features
    body.fc = nn.Identity()
    net = Net(body, n_features, n_classes, dropout)
    if pretrained:
        net.set_input_stats(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return net


def _imagenet_weights(name: str) -> dict[str, Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as e:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"--pretrained: {weights.url} could not be downloaded ({' '.join(str(e).split())}); "
            f"fetch it on a machine with a network and place it as {place}"
        ) from e


def resnet18(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """Torchvision's ResNet-18; a 3x3 stem without max-pooling up to 64 pixels. Source: He et al., CVPR 2016."""
    return _resnet("resnet18", shape, n_classes, dropout, pretrained)


def resnet50(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """Torchvision's ResNet-50; a 3x3 stem without max-pooling up to 64 pixels. Source: He et al., CVPR 2016."""
    return _resnet("resnet50", shape, n_classes, dropout, pretrained)


class _Residual(nn.Module):
    """The input plus the output of some layers."""

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


def _conv(n_in: int, n_out: int, halve: bool = False) -> nn.Module:
    """A convolution initialised as the identity on its first n_in channels, normalisation, and a ReLU."""
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:n_in])
    return nn.Sequential(conv, *([nn.MaxPool2d(2)] if halve else []), nn.BatchNorm2d(n_out), nn.ReLU())


def resnet9(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """A small residual network of nine layers, for short trainings: 3.4 times less arithmetic per image than ResNet18.

    Source: Page, "How to train your ResNet", 2018, for the layout, pooling before normalisation and small logits;
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, for the widths and the identity initialisation.
    """
    if pretrained:
        raise UserError("--pretrained: there are no pretrained weights for ResNet9; use ResNet18 or ResNet50")
    body = nn.Sequential(
        _conv(3, 32),
        _conv(32, 64, halve=True),
        _Residual(_conv(64, 64)),
        _conv(64, 256, halve=True),
        _Residual(_conv(256, 256)),
        _conv(256, 256, halve=True),
        _Residual(_conv(256, 256), _conv(256, 256)),
        nn.MaxPool2d(shape[-1] // 8),
        nn.Flatten(),
        _Scaled(0.125),
    )
    return Net(body, 256, n_classes, dropout)


class QuickDropout(nn.Dropout):
    """Dropout that draws eight entries from one random number on a CPU, where drawing takes most of a head's training.

    So the probability is a multiple of 1/256; the entries that stay are scaled by what it really is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Entries at random set to 0, in training alone. Any shape."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        n_dropped = min(max(round(256 * self.p), 1), 255)
        numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.numpy().view(np.uint8)[: x.numel()] >= n_dropped  # NumPy compares bytes 20 times faster
        return x * torch.from_numpy(kept * np.float32(256 / (256 - n_dropped))).view_as(x)


class FeatureNet(Net):
    """A network that reads rows of features (B, F) of a frozen backbone instead of images.

    Args:
        body: normalised features (B, F) to embeddings (B, D).
        shape: of one row, (F,).
        n_features: D.
        n_classes: C.
        dropout: probability that an entry of the embedding is dropped in training.
    """

    def __init__(self, body: nn.Module, shape: Shape, n_features: int, n_classes: int, dropout: float) -> None:
        super().__init__(body, n_features, n_classes, dropout, n_channels=shape[0])
        self.dropout = QuickDropout(dropout)

    def normalize(self, x: Tensor) -> Tensor:
        """Features with mean 0 and standard deviation 1 each, float32."""
        return standardised(x, self.mean, self.std)


def linear(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """A linear classifier of features: its embedding is the features themselves."""
    _refuse_pretrained("Linear", pretrained)
    return FeatureNet(nn.Identity(), shape, shape[0], n_classes, dropout)


def mlp(shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """A classifier of features with one hidden layer of 256 units, which are its embedding."""
    _refuse_pretrained("MLP", pretrained)
    return FeatureNet(nn.Sequential(nn.Linear(shape[0], 256), nn.ReLU()), shape, 256, n_classes, dropout)


def _timm_net(model: str, weights: Path | None, shape: Shape, n_classes: int, dropout: float, pretrained: bool) -> Net:
    """A network of timm to be trained whole; a pretrained one expects the pixel statistics of its weights."""
    body, n_features, mean, std = timm_network(model, weights, pretrained, shape[-1])
    net = Net(body, n_features, n_classes, dropout)
    if pretrained:
        net.set_input_stats(torch.tensor(mean), torch.tensor(std))
    return net


def _refuse_pretrained(name: str, pretrained: bool) -> None:
    if pretrained:
        raise UserError(f"--pretrained: there are no pretrained weights for {name}; its --features are pretrained")


class Architecture(NamedTuple):
    """A network and the recipe that suits it.

    Attributes:
        build: makes the network for rows of a shape, (3, H, W), with so many classes and this dropout before the head;
            the last argument requests pretrained weights; a network that has none raises a UserError.
        recipe: what differs from the defaults of `training.recipe.Recipe`, by the names of its fields.
        reads_features: whether its rows are features (D,) of a frozen backbone (--features).
    """

    build: Callable[[Shape, int, float, bool], Net]
    recipe: dict[str, Any]
    reads_features: bool = False


HEAD_RECIPE: dict[str, Any] = dict(
    n_epoch=20, batch_size=64, lr=0.02, weight_decay=0.1, min_steps=200, dropout=0.3, bf16=False
)

NETS: dict[str, Architecture] = {
    "SmallCNN": Architecture(small_cnn, dict(n_epoch=60, batch_size=64, lr=0.05, clip=2.0, min_steps=300, dropout=0.3)),
    "ResNet9": Architecture(
        resnet9, dict(n_epoch=34, batch_size=64, lr=0.2, weight_decay=1e-3, min_steps=300, dropout=0.3)
    ),
    "ResNet18": Architecture(resnet18, {}),
    "ResNet50": Architecture(resnet50, {}),
    "Linear": Architecture(linear, HEAD_RECIPE, reads_features=True),
    "MLP": Architecture(mlp, {**HEAD_RECIPE, "lr": 0.01, "weight_decay": 0.05}, reads_features=True),
}


TIMM = "timm:"  # what the names of timm's networks begin with
TIMM_RECIPE: dict[str, Any] = dict(n_epoch=30, batch_size=64, lr=0.05, clip=1.0, min_steps=300, dropout=0.3)


def architecture(name: str, with_features: bool = False, weights: Path | None = None) -> Architecture:
    """A network by its name.

    Args:
        name: a name in NETS, or timm:<model>[.<tag>], which is trained whole.
        with_features: whether it will be given features of a frozen backbone.
        weights: file of pretrained weights for a network of timm; None to download them.

    Raises:
        UserError: there is no such network, or it reads images where features are given or features where there are
            images.
    """
    if name.startswith(TIMM):
        found = Architecture(partial(_timm_net, name.removeprefix(TIMM), weights), TIMM_RECIPE)
    elif name in NETS:
        found = NETS[name]
    else:
        raise UserError(f"--net_name {name}: must be one of {', '.join(NETS)}, or {TIMM}<model>")
    if found.reads_features and not with_features:
        raise UserError(f"--net_name {name} reads features: add --features efficientnet_lite0, or take another network")
    if with_features and not found.reads_features:
        heads = " or ".join(n for n, a in NETS.items() if a.reads_features)
        raise UserError(f"--net_name {name} reads images: with --features it must be {heads}")
    return found
