"""Files of weights: read, and identified by a hash."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils import UserError

WITHIN = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
)  # where checkpoints hold weights, as timm looks for them
WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")  # of torch.compile and of distributed training
UNLOADABLE = (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name: .safetensors, or what torch.save wrote. Nothing in the file is run.

    Of a checkpoint of a training, the model's, averaged if it was; the prefixes of torch's wrappers are removed.

    Raises:
        UserError: the file is missing, damaged, or holds no weights.
    """
    try:
        content: Any = (
            _safetensors(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except OSError as e:
        raise UserError(f"--weights {path}: {e.strerror or e}") from e
    except UNLOADABLE as e:
        why = " ".join(str(e).split())[:120]
        raise UserError(f"--weights {path} is damaged or no file of weights ({why or type(e).__name__})") from e
    if isinstance(content, dict):
        content = next((content[key] for key in WITHIN if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise UserError(f"--weights {path} holds no weights: expected a dictionary of tensors")
    return {WRAPPERS.sub("", str(name)): t for name, t in content.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as e:  # not derived from any of Python's
        raise ValueError(str(e)) from e


def hash_of_weights(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, in hex: the same for every file format and order of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
