"""A backbone that needs no timm and is done at once."""

import torch
from torch import nn

from features.backbones import Backbone
from features.transform import Transform
from features.weights import hash_of_weights

TRANSFORM = Transform(8, 8, "bicubic", False, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Toy(nn.Module):
    """A convolution whose features are means over the image."""

    def __init__(self, n_features):
        super().__init__()
        self.conv = nn.Conv2d(3, n_features, 3)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


def toy(seed=0, n_features=6, **transform):
    """Its weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Toy(n_features)
    chosen = TRANSFORM._replace(**transform)
    return Backbone("toy", "none", chosen, hash_of_weights(network.state_dict()), n_features, lambda: network)
