"""The training recipe of a network, and the schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from nets import Architecture
from runs.options import added
from utils import UserError

MAX_ROWS = 1_000_000_000  # read by one training, three times ImageNet's 300 epochs; each takes 9 bytes of memory


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
        clip: scale a step's gradient down to this L2 norm where it is longer; 0 for no clipping.
        schedule: one_cycle (up to lr over a quarter of the steps, then down to 0 on a cosine) or constant.
        min_steps: train at least this many steps, however few labels there are.
        flip: mirror half of the images in training. Off by default where it would change the class (Digits).
        translate: shift training images by up to this share of their side in both directions.
        dropout: probability before the head.
        cuda_graph: on CUDA, record a step once and replay it: the same results up to rounding, faster.
        compile: compile the network with torch.compile, which takes a minute at first.
        bf16: compute in bfloat16 in training where the device does so fast: CUDA, CPUs with AVX512-BF16 or AMX.
        class_weight: weights of the classes in the loss: none, or balanced (inverse to their labels).
        keep: the weights of the last step, or the best of ten moments of the training by validation images (best);
            on features also of three values of weight_decay: a tenth of it, itself, and ten times it.
        calibrate: divide the logits by the temperature with the highest likelihood on validation images.
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
    class_weight: str = added("none")
    keep: str = added("last")
    calibrate: bool = added(False)

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
            "class_weight": (self.class_weight in ("none", "balanced"), "none or balanced"),
            "keep": (self.keep in ("last", "best"), "last or best"),
            "nesterov": (not self.nesterov or self.momentum > 0, "off (--no-nesterov) when --momentum is 0"),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise UserError(f"--{name} {getattr(self, name)}: must be {allowed}")

    def check_size(self, n_labeled: int) -> None:
        """Raise a UserError if a training on so many images is larger than anyone can mean."""
        n_rows = self.n_steps(n_labeled) * self.batch_size
        if n_rows > MAX_ROWS:
            given = f"--n_epoch {self.n_epoch} --batch_size {self.batch_size} --min_steps {self.min_steps}"
            raise UserError(f"{given}: a training would read {n_rows:,} images; at most {MAX_ROWS:,} are possible")

    def check_validation(self, has_validation: bool) -> None:
        """Raise a UserError if validation images are needed and there are none."""
        for flag, needed in (("--keep best", self.keep == "best"), ("--calibrate", self.calibrate)):
            if needed and not has_validation:
                raise UserError(f"{flag} needs validation images: add --n_val, or a val/ folder to the data set")

    def n_steps(self, n_labeled: int) -> int:
        """Steps of one training on this many labeled images."""
        return max(self.min_steps, math.ceil(self.n_epoch * n_labeled / self.batch_size))


def one_cycle(step: int, n_steps: int) -> float:
    """Share of the peak learning rate: linear up over the first quarter, cosine down to 0."""
    warm = 0.25 * n_steps
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (n_steps - warm)))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"one_cycle": one_cycle, "constant": lambda step, n_steps: 1.0}


def default_recipe(net: Architecture, pretrained: bool) -> Recipe:
    """The recipe that suits a network; pretrained weights need smaller steps."""
    recipe = Recipe(**net.recipe)
    return replace(recipe, lr=0.2 * recipe.lr) if pretrained else recipe
