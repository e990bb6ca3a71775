"""What a labeling project is set to: recorded in its config.json, and changed by the flags of a later start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from images.listing import is_plain
from runs.format import check_type
from utils import UserError

MAX_CLASSES = 1000
PIXELS = "none"  # for --features: train a network on pixels


@dataclass(frozen=True)
class Settings:
    """The settings of a project. Each is a flag of label.py.

    Attributes:
        classes: names, in the order of their keys.
        strategy_name: picks the images that come next.
        strategy_args: its hyperparameters, as KEY=VALUE.
        initial_strategy: picks the first images, before there is a network.
        seed: of all random draws.
        n_query: labels between two trainings.
        n_val: images drawn at random that measure the network and never train it.
        features: the frozen backbone whose features are used, or none to train a network on pixels.
        features_size: what the backbone reads, in pixels; None for its own.
        weights: file of the backbone's weights, where none are downloaded.
        net_name: the network; auto is Linear on features, and SmallCNN on pixels.
        img_size: side of the images in pixels, without features.
        target: accuracy that the forecast is for.
    """

    classes: tuple[str, ...] = ()
    strategy_name: str = "MarginSampling"
    strategy_args: tuple[str, ...] = ()
    initial_strategy: str = "auto"
    seed: int = 1
    n_query: int = 20
    n_val: int = 50
    features: str = "efficientnet_lite0"
    features_size: int | None = None
    weights: str | None = None
    net_name: str = "auto"
    img_size: int = 32
    target: float | None = None

    def check(self) -> None:
        """Check what needs no torch.

        Raises:
            UserError: a value is not allowed.
        """
        for name, least in (("n_query", 1), ("n_val", 0), ("seed", 0), ("img_size", 8)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be {least} or more")
        if self.target is not None and not 0 < self.target < 1:
            raise UserError(f"--target {self.target}: must be between 0 and 1, such as 0.9")
        check_classes(self.classes)

    @property
    def on_pixels(self) -> bool:
        """Whether a network is trained on pixels."""
        return self.features == PIXELS

    @property
    def first_strategy(self) -> str:
        """The strategy of the first images: TypiClust by default, at random where there are no features."""
        default = "RandomSampling" if self.on_pixels else "TypiClust"
        return default if self.initial_strategy == "auto" else self.initial_strategy

    def recorded(self) -> dict[str, Any]:
        """As config.json holds it."""
        return {k: [*v] if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def check_classes(classes: Sequence[str]) -> None:
    """Check class names. Each will be the name of a folder.

    Raises:
        UserError: there are fewer than two, one occurs twice, or one can be no folder's name.
    """
    if len(classes) < 2:
        raise UserError(f"--classes {' '.join(classes)}: give two or more, such as --classes heron duck gull")
    if len(classes) > MAX_CLASSES:
        raise UserError(f"--classes: {len(classes)} of them, at most {MAX_CLASSES} are possible")
    for name in classes:
        if not is_plain(name) or len(name) > 100 or name != name.strip() or "\0" in name:
            raise UserError(f"--classes {name!r}: a class name must be usable as the name of a folder")
        if classes.count(name) > 1:
            raise UserError(f"--classes: {name!r} is there twice")


def read_settings(path: Path, content: Mapping[str, Any]) -> Settings:
    """The settings that a config.json holds; what it lacks has its default.

    Raises:
        UserError: a value has another type than it should have.
    """
    known: dict[str, Any] = {}
    for f in fields(Settings):
        if f.name not in content:
            continue
        value = content[f.name]
        if isinstance(f.default, tuple):
            check_type(path, {**content}, f.name, list)
            if not all(isinstance(v, str) for v in value):
                raise UserError(f"{path} is damaged: {f.name} is {value!r}")
            value = tuple(value)
        elif f.default is not None:
            check_type(path, {**content}, f.name, type(f.default))
        elif value is not None:
            kind = {"features_size": int, "weights": str, "target": float}[f.name]
            check_type(path, {**content}, f.name, kind)
        known[f.name] = value
    return Settings(**known)
