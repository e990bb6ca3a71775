"""What validation images decide: which weights of a training are kept, and the temperature of its logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import Split
from nets import Net

N_CHECKS = 10  # times in one training that the weights are compared on the validation images
BATCH_SIZE = 512
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


class Quality(NamedTuple):
    """How good a network is on validation images: by accuracy, then by likelihood. Larger tuples are better."""

    accuracy: float
    log_likelihood: float


WORST = Quality(-1.0, -math.inf)


class Best:
    """The best weights seen so far in one training.

    Args:
        net: the network that is being trained.
        validation: labeled images that no training reads.
        device: where the network is.
    """

    def __init__(self, net: Net, validation: Split, device: torch.device) -> None:
        self.quality = WORST
        self._net = net
        self._validation = validation
        self._device = device
        self._weights: dict[str, Tensor] = {}

    def check(self) -> None:
        """Compare the present weights with the best; equally good later ones count as better."""
        self._net.eval()
        quality = quality_of(*logits_of(self._net, self._validation, self._device))
        self._net.train()
        if quality >= self.quality:
            self.quality = quality
            self._weights = {name: t.clone() for name, t in self._net.state_dict().items()}

    def restore(self) -> None:
        """Give the network its best weights back."""
        self._net.load_state_dict(self._weights)


@torch.no_grad()
def logits_of(net: Net, validation: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits of the validation images, without dropout, and their classes. Shapes (V, C) and (V,)."""
    batches = validation.inputs.batches(0, BATCH_SIZE, device)
    logits = torch.cat([net(net.normalize(batch)).float() for batch in batches])
    return logits, torch.from_numpy(validation.labels).to(device)


def quality_of(logits: Tensor, labels: Tensor) -> Quality:
    """Accuracy and mean log-likelihood; of logits that are not finite, the worst there is. Shapes (V, C) and (V,)."""
    if not logits.isfinite().all():
        return WORST
    accuracy = (logits.argmax(1) == labels).double().mean()
    return Quality(float(accuracy), -float(F.cross_entropy(logits, labels)))


def most_likely_temperature(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits by so that their probabilities have the highest likelihood.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.

    Args:
        logits: of validation images. Shape (V, C).
        labels: their classes. Shape (V,).

    Returns:
        From 0.05 to 20.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = logits.double().cpu(), labels.cpu()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))


def calibrate(net: Net, validation: Split, device: torch.device) -> None:
    """Divide the logits by their best temperature, which is folded into the head: no class changes its rank."""
    net.eval()
    divisor = most_likely_temperature(*logits_of(net, validation, device))
    with torch.no_grad():
        net.head.weight.div_(divisor)
        net.head.bias.div_(divisor)
