"""What the process that labels and the one that trains say to each other. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from images.listing import Listing
from labeling.records import Measured
from labeling.settings import Settings


@dataclass(frozen=True)
class Setup:
    """All that the training process must know of a project.

    Attributes:
        root: the folder of images.
        data_dir: the folder that holds it, for the cache.
        folder: of the project's state, where model.pt is written.
        listing: the image files; indices are positions in its "train".
    """

    root: Path
    data_dir: Path
    folder: Path
    listing: Listing
    settings: Settings
    device: str


@dataclass(frozen=True)
class Task:
    """What is to be done with the labels that there are.

    Attributes:
        round: of the training.
        labels: class by index, of the images to train on.
        validation: class by index, of those to measure on.
        candidates: indices of the images that may be labeled next, ascending.
        n: how many of them to choose; 0 for suggestions alone.
        train: whether to train a network; else the one in model.pt gives suggestions.
        queued: indices of images for which suggestions are wanted beside those that are chosen.
    """

    round: int
    labels: dict[int, int]
    validation: dict[int, int]
    candidates: list[int]
    n: int
    train: bool
    queued: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Suggestion:
    """What the network takes an image for.

    Attributes:
        label: its most probable class.
        probability: of it.
        ranked: the most probable classes, best first, at most ten.
    """

    label: int
    probability: float
    ranked: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What came of a task.

    Attributes:
        picks: indices of the images to label next, best first.
        scores: of the picks, by the strategy; None where it gives none.
        suggestions: by index, for the picks and for the images in `groups`.
        groups: by class, images that the network takes for it, the surest first.
        measured: the row of rounds.csv, where a network was trained.
    """

    picks: list[int] = field(default_factory=list)
    scores: list[float] | None = None
    suggestions: dict[int, Suggestion] = field(default_factory=dict)
    groups: dict[int, list[int]] = field(default_factory=dict)
    measured: Measured | None = None


@dataclass(frozen=True)
class Preparing:
    """How far the preparation of the images is."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The images are prepared.

    Attributes:
        unreadable: reason by index, of the images that cannot be read.
    """

    unreadable: dict[int, str]


@dataclass(frozen=True)
class Checked:
    """The settings are usable."""


@dataclass(frozen=True)
class Failed:
    """What went wrong, in words for the user.

    Attributes:
        final: whether no more tasks can be done.
    """

    text: str
    final: bool


Event = Preparing | Ready | Checked | Failed | Result
