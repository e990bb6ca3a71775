"""The rows that a map of a run's pool is drawn from: cached features, or embeddings by the run's own network."""

from __future__ import annotations

from pathlib import Path

import torch

from data import ImageData, fingerprint, load
from features.rows import Frozen, standardised
from images.listing import folder_of
from report.map import Idxs, PoolRows, Rows
from runs.format import CONFIG, MODEL
from runs.reading import Run
from subsets import as_configured
from training.model_file import read_model
from utils import UserError, configure, pick_device


def pool_rows(run: Run, data_dir: Path, weights: Path | None = None) -> PoolRows:
    """The pool of a run. Features that are not in the cache are computed first.

    Args:
        run: its settings say what the pool is made of.
        data_dir: the folder that holds the data sets' folders.
        weights: file of the backbone's weights, where they are neither at hand nor downloaded.

    Raises:
        UserError: the images or the run's network are missing, or they are not those of the run.
    """
    device = pick_device("auto")
    configure(device, deterministic=False)
    data = _data(run, data_dir, weights, device)
    if "features" in run.config:
        space = f"features of {run.config['features']} at {data.backbone['features_size']} pixels"

        def read(idxs: Idxs) -> Rows:
            x = data.train.inputs[idxs].batch(0, len(idxs), torch.device("cpu"))
            return standardised(x, data.mean, data.std).numpy()

    else:
        space = "embeddings of the run's last network"
        learner, content = read_model(run.folder / MODEL, device)
        img_size, of_features = run.config.get("img_size"), "shape" in content
        if of_features or (content["classes"], content["img_size"]) != (data.classes, img_size):
            raise UserError(f"{run.folder / MODEL} is of another run: its classes or images differ")

        def read(idxs: Idxs) -> Rows:
            return learner.embeddings(data.train.inputs[idxs]).cpu().numpy()

    return PoolRows(space, data.classes, data.train.labels, data.train.paths, read)


def _data(run: Run, data_dir: Path, weights: Path | None, device: torch.device) -> ImageData:
    """The data of a run, never downloaded.

    Raises:
        UserError: it is not there, or not the same.
    """
    c = run.config
    name = c["dataset_name"]
    if name != "Digits" and folder_of(name, data_dir) is None:
        raise UserError(f"the images of {name} are not in {data_dir} (--data_dir)")
    imbalance, n_val = c.get("imbalance", 1.0), c.get("n_val", 0)
    if not 0 < imbalance <= 1 or n_val < 0:
        raise UserError(f"{run.folder / CONFIG} is damaged: imbalance is {imbalance}, n_val is {n_val}")
    frozen = Frozen(c["features"], c.get("features_size"), weights, device) if "features" in c else None
    crop = c.get("resize") == "crop"
    data = load(name, data_dir, c.get("img_size", 32), skip_unreadable=True, frozen=frozen, crop=crop)
    data = as_configured(data, imbalance, n_val, run.seed)
    differ = [key for key, value in fingerprint(data).items() if c.get(key) != value]
    if differ:
        raise UserError(f"the images of {name} in {data_dir} are not those of {run.folder}: {', '.join(differ)} differ")
    return data
