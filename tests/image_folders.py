"""Folders of noise images, what loading them must give, and a count of what was decoded."""

import os

import numpy as np
from PIL import Image

from images import decoding

SIDE = 8  # the smallest size allowed: images of it are not resized


def noise(seed, *shape):
    """Random uint8 pixels, by default one image."""
    return np.random.default_rng(seed).integers(0, 256, shape or (SIDE, SIDE, 3), np.uint8)


def paint(path, pixels, **settings):
    """Save an image file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


def folder(root, classes=("ant", "bee", "cat"), n_train=5, n_test=3, n_val=0):
    """A data set of noise, different in each image. Returns path -> pixels."""
    pixels = {}
    for part, n in (("train", n_train), ("test", n_test), ("val", n_val)):
        for name in classes:
            for i in range(n):
                path = f"{part}/{name}/{i}.png"
                pixels[path] = noise(len(pixels))
                paint(root / path, pixels[path])
    return pixels


def flat(root, sizes):
    """A data set without train/ and test/, from the number of images of each class. Returns path -> pixels."""
    pixels = {}
    for name, n in sizes.items():
        for i in range(n):
            pixels[f"{name}/{i:03d}.png"] = noise(len(pixels))
            paint(root / f"{name}/{i:03d}.png", pixels[f"{name}/{i:03d}.png"])
    return pixels


def many(root, n=1100):
    """A data set that is large enough for several processes: links to few files."""
    pixels = folder(root, n_train=7)
    for i in range(n):
        source = f"train/bee/{i % 7}.png"
        os.link(root / source, root / f"train/bee/x{i:04d}.png")
        pixels[f"train/bee/x{i:04d}.png"] = pixels[source]
    return pixels


def pixels_of(loaded):
    """Path -> pixels of a loaded data set."""
    splits = loaded.splits.values()
    x = [image for s in splits for image in s.inputs.x.permute(0, 2, 3, 1).numpy()]
    return dict(zip([path for s in splits for path in s.paths], x, strict=True))


def check(loaded, pixels):
    """What was loaded is what was painted, in order, with the right classes."""
    for name, split in loaded.splits.items():
        assert split.paths == sorted(p for p in pixels if p.startswith(f"{name}/"))
        assert [loaded.classes[i] for i in split.labels] == [p.split("/")[1] for p in split.paths]
    found = pixels_of(loaded)
    assert found.keys() == pixels.keys()
    for path, expected in pixels.items():
        assert (found[path] == expected).all(), path


def count_decodes(monkeypatch):
    """A list that grows by the path of each image that this process decodes from now on."""
    decode, paths = decoding.decode, []

    def counted(path, img_size, *more):
        paths.append(path)
        return decode(path, img_size, *more)

    monkeypatch.setattr(decoding, "decode", counted)
    return paths


def cache_files(data_dir):
    """Names of the files in a cache."""
    return {p.name for p in (data_dir / ".cache").iterdir()}
