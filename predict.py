"""Predict the classes of new images by a model.pt of DalMax: `python predict.py MODEL FOLDER --out predictions.csv`.

Images that cannot be read are left out with a note; files are written whole, at the end.
"""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import io
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data import channels_first
from features.backbones import Backbone, load_backbone
from features.embedding import embed
from features.sources import ImageFiles
from files import replacing, to_csv, write_atomic
from images.batches import decoded_batches
from images.listing import File, list_images
from training.learner import Learner
from training.model_file import read_model
from utils import Parser, UserError, configure, exit_code, pick_device, printable, warn

COLUMNS = ("path", "class", "confidence", "second", "second_confidence", "third", "third_confidence")
N_BEST = 3  # classes an image
N_NAMED = 3  # unreadable images that a note names


def parser() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("model", type=Path, metavar="MODEL", help="the model.pt of a run, or of label.py")
    p.add_argument("folder", type=Path, metavar="FOLDER", help="images, anywhere below it; or a single image")
    p.add_argument("--out", type=Path, default=Path("predictions.csv"), metavar="FILE", help="where to write them")
    p.add_argument(
        "--embed", type=Path, metavar="FILE.npy", help="write the images' features too, and their paths beside it"
    )
    p.add_argument("--weights", type=Path, metavar="FILE", help="weights of the backbone, where none are downloaded")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<number> or mps")
    return p


class Predicted(NamedTuple):
    """Some consecutive images.

    Attributes:
        start, stop: their positions.
        features: of the readable ones: of the backbone, or else what the network's head reads. Shape (R, D).
        probs: of their classes. Shape (R, C).
        unreadable: the reason by position.
    """

    start: int
    stop: int
    features: Tensor
    probs: Tensor
    unreadable: dict[int, str]


@dataclass(frozen=True)
class Model:
    """A model.pt, ready to predict images.

    Attributes:
        learner: the network.
        classes: names.
        img_size: side of the images that it reads.
        crop: whether these are the middle squares of the images.
        backbone: whose features it reads; None where it reads pixels.
    """

    learner: Learner
    classes: Sequence[str]
    img_size: int
    crop: bool
    backbone: Backbone | None

    def predicted(self, root: Path, files: Sequence[File]) -> Generator[Predicted]:
        """Predictions of all files, in order, in batches."""
        return self._of_pixels(root, files) if self.backbone is None else self._of_features(root, files, self.backbone)

    def _of_pixels(self, root: Path, files: Sequence[File]) -> Generator[Predicted]:
        for b in decoded_batches(root, files, self.img_size, self.crop):
            features = probs = torch.empty(0)
            if len(b.pixels):
                features = self.learner.embeddings(channels_first(torch.from_numpy(b.pixels)))
                probs = self._head(features)
            yield Predicted(b.start, b.stop, features, probs, b.unreadable)

    def _of_features(self, root: Path, files: Sequence[File], backbone: Backbone) -> Generator[Predicted]:
        for b in embed(ImageFiles(root, files, backbone.transform), backbone, self.learner.device):
            features = torch.from_numpy(b.rows)
            probs = self.learner.probs(features) if len(features) else torch.empty(0)
            yield Predicted(b.start, b.stop, features.float(), probs, b.unreadable)

    def _head(self, embeddings: Tensor) -> Tensor:
        """What `Learner.probs` makes of embeddings, in batches of the same size."""
        head = self.learner.net.head
        return torch.cat([head(part).softmax(1) for part in embeddings.split(self.learner.batch_size)])


def read(path: Path, weights: Path | None, device: torch.device) -> Model:
    """A model.pt with its backbone, where it has one.

    Raises:
        UserError: it is no model.pt, or the backbone is not at hand, or not the one that it was trained with.
    """
    learner, content = read_model(path, device)
    backbone = _backbone(path, content, weights) if len(content.get("shape", ())) == 1 else None
    if backbone is None and weights is not None:
        raise UserError(f"--weights {weights}: {path} holds all weights of its network; leave them out")
    classes = [str(name) for name in content["classes"]]
    return Model(learner, classes, content["img_size"], content.get("resize") == "crop", backbone)


def _backbone(path: Path, content: dict[str, Any], weights: Path | None) -> Backbone:
    """The backbone that a model.pt names."""
    name, size = content.get("features"), content.get("features_size")
    if not isinstance(name, str) or type(size) is not int:
        raise UserError(f"{path} reads features, but does not name the backbone that makes them")
    backbone = load_backbone(name, size, weights)
    wrong = [key for key, value in backbone.facts.items() if content.get(key) != value]
    if "features_weights" in wrong:
        own, theirs = backbone.facts["features_weights"], content.get("features_weights")
        raise UserError(
            f"{path} was trained on features of {name} with the weights {theirs}, and these are {own}: give the file "
            "that it was trained with by --weights"
        )
    if wrong or content["shape"] != [backbone.n_features]:
        raise UserError(f"{path} was trained on other features of {name}: {', '.join(wrong) or 'shape'} differ")
    return backbone


@dataclass
class Features:
    """The rows of a .npy file that is being written; how many there are is known at the end.

    Attributes:
        file: empty, open for writing.
        n_features: D.
        n: rows so far.
    """

    file: BinaryIO
    n_features: int
    n: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.file.write(self._header())

    def add(self, rows: Tensor) -> None:
        """Append rows. Shape (R, D)."""
        self.n += len(rows)
        self.file.write(rows.cpu().numpy().astype("<f4").tobytes())

    def finish(self) -> None:
        """Write the number of rows, and all to the disk."""
        self.file.seek(0)
        self.file.write(self._header())
        self.file.flush()
        os.fsync(self.file.fileno())

    def _header(self) -> bytes:
        """As numpy leaves room in it for any number of rows, its length never changes."""
        header = io.BytesIO()
        shape = (self.n, self.n_features)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return header.getvalue()


def images_of(folder: Path) -> tuple[Path, list[File]]:
    """The folder that the paths of images are relative to, and the images: all of a folder, or a single one.

    A note says what else the folder holds.

    Raises:
        UserError: there are none, or the folder cannot be read.
    """
    if folder.is_file():
        return folder.parent, [File(folder.name, -1, -1, -1)]
    try:
        files, passed_over = list_images(folder)
    except OSError as e:
        raise UserError(f"cannot read {e.filename or folder}: {e.strerror or e}") from e
    if not files:
        raise UserError(f"{folder} holds no images" + (f"; passed over: {passed_over}" if str(passed_over) else ""))
    if str(passed_over):
        warn(f"passed over in {folder}: {passed_over}")
    return folder, files


def check_targets(out: Path, embed: Path | None) -> None:
    """Raise a UserError where the results could not be written in the end."""
    for flag, path, suffix in (("--out", out, ".csv"), ("--embed", embed, ".npy")):
        if path is None:
            continue
        if path.suffix != suffix:
            raise UserError(f"{flag} {path}: the name must end in {suffix}")
        if not path.parent.is_dir():
            raise UserError(f"{flag} {path}: there is no folder {path.parent}")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(f"{flag} {path}: " + ("is a folder" if path.is_dir() else f"{path.parent} is not writable"))


def best(classes: Sequence[str], probs: Tensor) -> list[list[str]]:
    """The most probable classes of each image and their probabilities, as cells of COLUMNS. Shape of probs (R, C)."""
    values, idxs = (t[:, :N_BEST].cpu().tolist() for t in probs.sort(dim=1, descending=True, stable=True))
    missing = [""] * 2 * max(0, N_BEST - len(classes))
    return [
        [cell for p, i in zip(*row, strict=True) for cell in (classes[i], f"{p:.6f}")] + missing
        for row in zip(values, idxs, strict=True)
    ]


def predict(args: argparse.Namespace) -> None:
    """Do what the flags say."""
    check_targets(args.out, args.embed)
    root, files = images_of(args.folder)
    device = pick_device(args.device)
    configure(device, deterministic=False)
    model = read(args.model, args.weights, device)
    n_features = model.backbone.n_features if model.backbone else model.learner.net.head.in_features
    rows: list[list[str]] = []
    unreadable: dict[int, str] = {}
    with ExitStack() as stack:
        features = None
        if args.embed:
            features = Features(stack.enter_context(replacing(args.embed)), n_features)
        batches = stack.enter_context(closing(model.predicted(root, files)))
        with tqdm(total=len(files), desc="predicting", unit="image", disable=None) as bar:
            for batch in batches:
                unreadable |= batch.unreadable
                if len(batch.probs):
                    paths = [files[i].path for i in range(batch.start, batch.stop) if i not in batch.unreadable]
                    cells = best(model.classes, batch.probs)
                    rows += [[path, *of_path] for path, of_path in zip(paths, cells, strict=True)]
                    if features:
                        features.add(batch.features)
                bar.update(batch.stop - batch.start)
        report_unreadable(root, files, unreadable)
        if features:
            features.finish()
    if args.embed:
        write_atomic(args.embed.with_suffix(".paths.csv"), to_csv(COLUMNS[:1], (row[:1] for row in rows)))
    write_atomic(args.out, to_csv(COLUMNS, rows))
    print(f"{len(rows)} images predicted; the classes are in {printable(args.out)}")


def report_unreadable(root: Path, files: Sequence[File], unreadable: dict[int, str]) -> None:
    """Name the first images that cannot be read.

    Raises:
        UserError: none can be read.
    """
    if not unreadable:
        return
    named = [f"{root / files[i].path}: {unreadable[i]}" for i in sorted(unreadable)[:N_NAMED]]
    more = [f"and {len(unreadable) - N_NAMED} more"] * (len(unreadable) > N_NAMED)
    if len(unreadable) == len(files):
        raise UserError(f"none of the {len(files)} images can be read:", *named, *more)
    warn(f"{len(unreadable)} of {len(files)} images cannot be read and are left out: {'; '.join(named + more)}")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    args = parser().parse_args(argv)
    return exit_code(lambda: predict(args), "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
