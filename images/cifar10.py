"""CIFAR-10, downloaded and written as image files."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from files import alone
from images.cache import cache_folders, first_writable
from images.listing import folder_of
from utils import UserError, warn


def cifar10_folder(data_dir: Path) -> Path:
    """The folder of CIFAR-10: DATA_CIFAR10/ or CIFAR10/, or else CIFAR10/ after a download, in PNG files."""
    if folder := folder_of("CIFAR10", data_dir):
        return folder
    with alone(first_writable(cache_folders(data_dir)) / "CIFAR10.lock", "downloading CIFAR-10"):
        if not (data_dir / "CIFAR10").is_dir():
            _download(data_dir)
    return data_dir / "CIFAR10"


def _download(data_dir: Path) -> None:
    """Write the images to `data_dir`/CIFAR10 in the layout train/<class>/*, test/<class>/*.

    The files that torchvision downloads are removed, unless they existed before.

    Raises:
        UserError: the download failed, or the images cannot be written. Nothing is left behind then.
    """
    from torchvision.datasets import CIFAR10

    warn(f"no CIFAR-10 in {data_dir}/DATA_CIFAR10 or {data_dir}/CIFAR10; downloading it into {data_dir} (170 MB)")
    for leftover in data_dir.glob(".CIFAR10.*.tmp"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    before = set(data_dir.glob("cifar-10-*"))
    temporary = data_dir / f".CIFAR10.{secrets.token_hex(8)}.tmp"
    source, images = data_dir if before else temporary, temporary / "CIFAR10"
    try:
        temporary.mkdir(parents=True)
        for part in ("train", "test"):
            dataset = CIFAR10(str(source), train=part == "train", download=True)
            for name in dataset.classes:
                (images / part / name).mkdir(parents=True)
            bar = tqdm(dataset.data, desc=f"writing {part}", unit="image", disable=None)
            for i, (pixels, label) in enumerate(zip(bar, dataset.targets, strict=True)):
                Image.fromarray(pixels).save(images / part / dataset.classes[label] / f"{i:05d}.png")
        os.replace(images, data_dir / "CIFAR10")
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        advice = f"place its images as {data_dir / 'DATA_CIFAR10'}/train/<class>/* and .../test/<class>/*"
        raise UserError(f"CIFAR-10 could not be downloaded ({' '.join(str(e).split())}); {advice}") from e
    finally:
        for path in {temporary, *data_dir.glob("cifar-10-*")} - before:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
