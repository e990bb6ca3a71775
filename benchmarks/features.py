"""Frozen features: CPU-time of embedding and of a second start, and what a linear probe reaches with them.

Usage: features.py [--tiny] [--data_dir DIR] [--dataset_name NAME] [--size PIXELS] [--n N]

The other column is a plain loop over files with timm's transform and network in float32. The probe is scikit-learn's
logistic regression with a penalty chosen by cross-validation on its labels alone; it is measured on the test images.
Without the data set, or with --tiny, small noise images are used, and accuracies mean nothing.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from measuring import Timer, header, on_cpu, row
from PIL import Image

from features.backbones import Backbone, load_backbone
from features.cache import CachedFeatures, cached_features
from features.embedding import embed
from features.sources import ImageFiles
from images.listing import File, Listing, folder_of, list_folder
from utils import stream

CPU = torch.device("cpu")
PENALTIES = (1e-3, 1e-2, 1e-1)


@contextmanager
def noise(n: int) -> Iterator[Path]:
    """A folder of JPEG files of 32 x 32 pixels in two classes."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            path = Path(folder, "noise", ("train", "test")[i % 4 == 0], f"class{i // 4 % 2}", f"{i}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        yield Path(folder, "noise")


def embed_files(root: Path, files: list[File], backbone: Backbone) -> np.ndarray:
    """Features as the cache computes them. Shape (n, D)."""
    return np.concatenate([block.rows for block in embed(ImageFiles(root, files, backbone.transform), backbone, CPU)])


@torch.no_grad()
def embed_plainly(root: Path, files: list[File], backbone: Backbone) -> np.ndarray:
    """Features by timm's transform and the network in float32, batch after batch. Shape (n, D)."""
    from timm.data import create_transform

    t = backbone.transform
    transform = create_transform(
        (3, t.size, t.size), interpolation=t.interpolation, crop_pct=t.size / t.resize_to, mean=t.mean, std=t.std
    )
    images = (transform(Image.open(root / f.path).convert("RGB")) for f in files)
    batches = (torch.stack([next(images) for _ in range(min(32, len(files) - i))]) for i in range(0, len(files), 32))
    return np.concatenate([backbone.network(x.to(memory_format=torch.channels_last)).numpy() for x in batches])


def embedding_case(timer: Timer, root: Path, listing: Listing, backbone: Backbone, n: int) -> None:
    """CPU-milliseconds an image, decode included."""
    idxs = stream(0, "benchmark").choice(len(listing.files), min(n, len(listing.files)), replace=False)
    files = [listing.files[i] for i in idxs]
    _ = backbone.network
    seconds, other, peak, rows, others = timer.compare(
        lambda: embed_files(root, files, backbone), lambda: embed_plainly(root, files, backbone)
    )
    cosines = (rows * others).sum(1) / np.linalg.norm(rows.astype(np.float32), axis=1) / np.linalg.norm(others, axis=1)
    size, remark = f"{len(files)} images, {backbone.size} px", f"least cosine with other {cosines.min():.4f}"
    row("embedding, ms an image / plain loop", size, 1e3 * seconds / len(files), 1e3 * other / len(files), peak, remark)


def cache_case(timer: Timer, root: Path, size: int) -> tuple[Listing, CachedFeatures]:
    """From the listing to the features, which are computed first where they are not in the cache."""

    def start() -> tuple[Listing, CachedFeatures]:
        listing = list_folder(root)
        return listing, cached_features(root, listing, root.parent, load_backbone(backbone_name, size), CPU)

    backbone_name = "efficientnet_lite0"
    seconds, (listing, features), peak = timer.once(start)
    row("start", f"{len(listing.files)} images", seconds, None, peak, "computed where not in the cache")
    seconds, (listing, again), peak = timer.once(start)
    remark = "the same digest" if again.digest == features.digest else "another digest"
    row("second start", f"{len(listing.files)} images", seconds, None, peak, remark)
    return listing, again


def probe_case(timer: Timer, listing: Listing, features: CachedFeatures, n_labeled: int, n_seeds: int) -> None:
    """Accuracy on the test images with random labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import normalize

    readable = listing.without(features.unreadable).splits
    n_train = len(readable["train"])
    x, x_test = (
        normalize(part.float().numpy()) for part in (features.x[:n_train], features.x[-len(readable["test"]) :])
    )
    y, y_test = (np.array([f.label for f in readable[part]]) for part in ("train", "test"))
    scale = x.shape[1] ** 0.5

    def accuracy(seed: int) -> float:
        idxs = stream(seed, "initial").choice(n_train, min(n_labeled, n_train), replace=False)
        search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": PENALTIES}, cv=3)
        return search.fit(scale * x[idxs], y[idxs]).score(scale * x_test, y_test)

    seconds, reached, peak = timer.once(lambda: [accuracy(seed) for seed in range(1, n_seeds + 1)])
    remark = f"test accuracy {np.mean(reached):.4f}, {n_seeds} seeds {min(reached):.4f} to {max(reached):.4f}"
    row("linear probe", f"{n_labeled} labels", seconds / n_seeds, None, peak, remark)


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tiny", action="store_true", help="a few images only")
    flags.add_argument("--data_dir", type=Path, default=Path("DATA"))
    flags.add_argument("--dataset_name", default="CIFAR10")
    flags.add_argument("--size", type=int, default=128, help="pixels a side that the backbone reads")
    flags.add_argument("--n", type=int, default=1000, help="images to embed in the first case")
    flags.add_argument("--repeats", type=int, default=3, help="times the first case is run")
    args = flags.parse_args()
    torch.set_num_threads(1)
    root = None if args.tiny else folder_of(args.dataset_name, args.data_dir)
    with noise(40 if args.tiny else 2000) as made:
        if root is None and not args.tiny:
            print("noise images; accuracies mean nothing")
        timer = Timer(1, 1 if args.tiny else args.repeats)
        header(on_cpu(1))
        size = 32 if args.tiny else args.size
        listing = list_folder(root or made)
        embedding_case(timer, root or made, listing, load_backbone("efficientnet_lite0", size), args.n)
        listing, features = cache_case(timer, root or made, size)
        for n_labeled in (20,) if args.tiny else (300, 1000):
            probe_case(timer, listing, features, n_labeled, 1 if args.tiny else 5)


if __name__ == "__main__":
    main()
