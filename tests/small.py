"""Small real objects for the tests: a pool of images, a trained network, a folder of images."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from data import Inputs, Pool
from nets import NETS
from training.loop import train
from training.recipe import Recipe
from utils import stream

CPU = torch.device("cpu")
RECIPE = Recipe(n_epoch=1, batch_size=8, lr=0.02, min_steps=6)


def pixels(n, img_size=16, seed=0):
    """Random uint8 images, channels last in memory. Shape (n, 3, img_size, img_size)."""
    x = np.random.default_rng(seed).integers(0, 256, (n, img_size, img_size, 3), np.uint8)
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def row_shape(name, img_size=16):
    """Shape of what a network of NETS reads."""
    return (24,) if NETS[name].reads_features else (3, img_size, img_size)


def rows(name, n, img_size=16, seed=0):
    """Noise that a network of NETS reads. Shape (n, 3, img_size, img_size), uint8, or (n, 24), float16."""
    if NETS[name].reads_features:
        return torch.randn(n, *row_shape(name), generator=torch.Generator().manual_seed(seed)).half()
    return pixels(n, img_size, seed)


def pool(n=60, n_labeled=12, n_classes=4, img_size=16, seed=0, labels=None, name="SmallCNN"):
    """A pool of noise that a network reads.

    Its first `n_labeled` shuffled rows are labeled, at random or by `labels` of all rows.
    """
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, n_classes, n)
    made = Pool(Inputs(rows(name, n, img_size, seed)), n_classes)
    first = np.random.default_rng(seed + 1).permutation(n)[:n_labeled]
    made.label(first, np.asarray(labels)[first])
    return made


def build(name="SmallCNN", n_classes=4, img_size=16, dropout=0.5):
    return lambda: NETS[name].build(row_shape(name, img_size), n_classes, dropout, False)


def learner(of, name="SmallCNN", seed=0, **recipe):
    """A network of NETS trained for a few steps on the labels of a pool."""
    made = replace(RECIPE, **recipe)
    builder = build(name, of.n_classes, of.inputs.shape[-1], made.dropout)
    return train(builder, of, made, CPU, stream(seed, "train"))


def image_folder(root, n_train=6, n_test=3, classes=("ant", "bee", "cow"), size=20, seed=0):
    """A dataset of PNG files whose classes differ in colour."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        for part, n in (("train", n_train), ("test", n_test)):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                x = rng.integers(0, 80, (size, size, 3))
                x[..., label % 3] += 150
                Image.fromarray(x.astype(np.uint8)).save(folder / f"{i}.png")
    return root
