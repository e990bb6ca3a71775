"""Parts of a data set's training images: a validation set held out at random, and a long-tailed training set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data import Idxs, ImageData, Split
from utils import UserError, stream


def part_of(split: Split, idxs: Idxs) -> Split:
    """Some rows of a split, in the order given."""
    return Split(split.inputs[idxs], split.labels[idxs], [split.paths[i] for i in idxs.tolist()])


def as_configured(data: ImageData, imbalance: float, n_val: int, seed: int) -> ImageData:
    """A data set with the training images that --imbalance, --n_val and --seed leave, the same each time.

    Raises:
        UserError: as for `with_validation`.
    """
    if imbalance < 1:
        data = long_tailed(data, imbalance, stream(seed, "imbalance"))
    return with_validation(data, n_val, stream(seed, "validation")) if n_val else data


def with_validation(data: ImageData, n: int, rng: np.random.Generator) -> ImageData:
    """Move n training images, drawn at random, into the validation set.

    Raises:
        UserError: the data set brings a validation set of its own, or no training image would be left.
    """
    if "val" in data.splits:
        raise UserError(f"--n_val {n}: the data set has a val/ folder of {len(data.splits['val'])} images already")
    n_train = len(data.train)
    if n >= n_train:
        raise UserError(f"--n_val {n}: the data set has {n_train} training images, and some must be left to train on")
    held_out = np.zeros(n_train, np.bool_)
    held_out[rng.choice(n_train, n, replace=False)] = True
    train, val = (part_of(data.train, np.flatnonzero(of)) for of in (~held_out, held_out))
    return replace(data, splits={"train": train, "val": val, "test": data.test})


def long_tailed(data: ImageData, ratio: float, rng: np.random.Generator) -> ImageData:
    """A training set whose class sizes fall geometrically from the commonest class to the rarest; others stay whole.

    Which class is how common and which of its images are kept are drawn at random. As many images are kept as the
    smallest classes allow.

    Source: of the sizes: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 5.

    Args:
        data: what to thin out.
        ratio: images of the rarest class to images of the commonest, above 0 and at most 1.
        rng: draws the order of the classes and the images.
    """
    labels, n_classes = data.train.labels, len(data.classes)
    order = rng.permutation(n_classes)  # commonest first
    shares = np.empty(n_classes)
    shares[order] = ratio ** (np.arange(n_classes) / max(n_classes - 1, 1))
    available = np.bincount(labels, minlength=n_classes)
    commonest = (available / shares).min()
    kept = []
    for label in range(n_classes):
        members = np.flatnonzero(labels == label)
        n = min(max(1, round(commonest * shares[label])), len(members))
        kept.append(rng.choice(members, n, replace=False))
    return replace(data, splits={**data.splits, "train": part_of(data.train, np.sort(np.concatenate(kept)))})
