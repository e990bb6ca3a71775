"""Round 0, trained once for all strategies of a seed and kept in `.round0/` of the results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data import Idxs
from files import alone, write_atomic, writing
from images.records import read_record, write_record
from runs.format import config_hash
from training.learner import Learner, has_finite_weights
from training.model_file import model_bytes, read_model
from utils import UserError, environment, warn

ROOT = Path(__file__).resolve().parent.parent
# Files and folders whose code round 0 depends on: after a change to any of them it is trained again.
CODE = ("demo.py", "utils.py", "data.py", "subsets.py", "nets.py", "images", "features", "training")
FIRST_LABELS_CODE = (*(c for c in CODE if c not in ("nets.py", "training")), "strategies", "strategies/kernels")
# Settings that have no part in round 0.
QUERY_SETTINGS = ("strategy_name", "strategy_args", "n_query", "score_bf16", "screen", "candidates", "candidates_by")


class Trained(NamedTuple):
    """A learner and the seconds that its training took."""

    learner: Learner
    seconds: float


def shared_first_round(
    path: Path, device: torch.device, train: Callable[[], Trained], facts: dict[str, Any]
) -> Trained:
    """Read the learner from a file; where there is none yet, train it and write the file.

    Processes that need the same file wait for the first of them.

    Args:
        path: `.round0/<key>.pt` of the results; see `first_round_key`.
        device: where to put a learner that is read.
        train: trains it.
        facts: `net_name`, `classes` and `img_size` of the network. A file that says otherwise, holds the weights of
            another key or has been changed is not used: the network is trained again, and a note says so.
    """
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    with alone(path.with_suffix(".lock"), "training the same round 0"):
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        if path.exists() and path.stat().st_size:
            try:
                return _read(path, device, facts)
            except UserError as damage:
                warn(f"{damage}; training round 0 again")
        trained = train()
        notes: dict[str, Any] = {
            "train_seconds": trained.seconds,
            "key": path.stem,
            "digest": weights_digest(trained.learner),
        }
        write_atomic(path, model_bytes(trained.learner, **facts, **notes))
        return trained


def _read(path: Path, device: torch.device, facts: dict[str, Any]) -> Trained:
    learner, content = read_model(path, device)
    seconds = content.get("train_seconds")
    expected = {**facts, "key": path.stem, "digest": weights_digest(learner)}
    wrong = [name for name, value in expected.items() if content.get(name) != value]
    if wrong or not isinstance(seconds, float) or not has_finite_weights(learner.net):
        reason = f" (another {', '.join(wrong)})" if wrong else ""
        raise UserError(f"{path} is not this shared round 0{reason}")
    return Trained(learner, seconds)


def weights_digest(learner: Learner) -> str:
    """Identifies the network's weights, bit by bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(learner.net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def shared_first_labels(path: Path, draw: Callable[[], Idxs]) -> Idxs:
    """Read the first images to label from a file; where there is none yet, choose them and write the file.

    Args:
        path: `.round0/<key>.json` of the results; see `first_labels_key`. A file that holds anything else is not used.
        draw: chooses them.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_suffix(".lock"), "choosing the same first images"):
        found = read_record(path)
        if found.get("key") == path.stem:
            return np.array(found["idxs"], np.int64)
        if path.exists() and path.stat().st_size:
            warn(f"{path} holds other images than this run's first ones; choosing them again")
        chosen = draw()
        write_record(path, {"key": path.stem, "idxs": chosen.tolist()})
        return chosen


def first_labels_key(config: dict[str, Any], device: torch.device) -> str:
    """Eight hexadecimal digits that identify everything that a first draw by features depends on."""
    data = ("seed", "n_init_labeled", "initial_strategy", "n_train", "data_digest", "n_val", "imbalance")
    settings = {k: v for k, v in config.items() if k in data or k.startswith("features")}
    return config_hash({"first labels of": settings, "code": code(FIRST_LABELS_CODE), "numerics": _numerics(device)})


def first_round_key(config: dict[str, Any], device: torch.device) -> str:
    """Eight hexadecimal digits that identify everything that round 0 depends on.

    That is the configuration without the settings of queries, the code, and what else changes numerical results:
    versions, device, number of threads.
    """
    settings = {k: v for k, v in config.items() if k not in QUERY_SETTINGS}
    return config_hash({"config": settings, "code": code(), "numerics": _numerics(device)})


def _numerics(device: torch.device) -> dict[str, Any]:
    """What changes numerical results beside the configuration and the code: versions, device, number of threads."""
    return {k: v for k, v in environment(device).items() if k not in ("git_commit", "command")}


def code(names: Sequence[str] = CODE) -> list[str]:
    """The text of every source file of some files and folders."""
    paths = [p for name in names for p in (sorted((ROOT / name).glob("*.py")) or [ROOT / name])]
    return [p.read_text("utf-8") for p in paths]
