"""model.pt: a trained network and what is needed to use it."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from files import open_regular
from nets import architecture
from training.learner import Learner
from utils import UserError

UNLOADABLE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def model_bytes(learner: Learner, net_name: str, classes: list[str], img_size: int, **notes: Any) -> bytes:
    """The content of a model.pt: weights, what is needed to use them on new images, and any notes."""
    content = {
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in learner.net.state_dict().items()},
        "net_name": net_name,
        "classes": classes,
        "img_size": img_size,
        "dropout": learner.net.dropout.p,
        "mean": learner.net.mean.tolist(),
        "std": learner.net.std.tolist(),
        **notes,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read_model(path: Path | str, device: torch.device) -> tuple[Learner, dict[str, Any]]:
    """A learner from a model.pt, and all that was saved with it: classes, img_size and more.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open_regular(Path(path)) as f:
            with zipfile.ZipFile(f) as records:
                if damaged := records.testzip():  # torch itself does not verify checksums
                    raise ValueError(f"the checksum of {damaged} does not match")
            f.seek(0)
            content = torch.load(f, map_location="cpu", weights_only=True)
        shape = tuple(content.get("shape", (3, content["img_size"], content["img_size"])))
        if not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"its rows have shape {shape}")
        found = architecture(content["net_name"], with_features=len(shape) == 1)
        net = found.build(shape, len(content["classes"]), content["dropout"], False)
        net.load_state_dict(content["state_dict"])
    except (*UNLOADABLE, UserError) as e:
        raise UserError(f"{path} is not a model.pt of DalMax: {' '.join(str(e).split())}") from e
    return Learner(net.to(device).to(memory_format=torch.channels_last), device), content
