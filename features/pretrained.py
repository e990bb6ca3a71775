"""Networks of timm with pretrained weights: from the internet, or from a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.weights import read_weights
from utils import UserError, warn

# What a model raises whose parts do not fit to the size of its input.
UNFIT = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)


def import_timm() -> Any:
    """The package timm; importing it takes two seconds.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm
    except ImportError as e:
        raise UserError(f"pretrained backbones need the package timm ({e}); install it: pip install timm") from e
    return timm


def known_model(model: str) -> None:
    """Raise a UserError where timm knows no such model, or no such tag of it."""
    timm = import_timm()
    name, _, tag = model.partition(".")
    if "/" in name or ":" in name or not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), 3) or timm.list_models("vit_small*")[:3]
        raise UserError(f"timm:{model}: timm {timm.__version__} has no model {name}; similar: {', '.join(similar)}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        has = f"it has {', '.join(tags)}" if tags else "it has none"
        raise UserError(f"timm:{model}: {name} has no weights {tag}; {has}")


def timm_model(model: str, weights: Path | None, pretrained: bool, n_classes: int = 0) -> nn.Module:
    """A network of timm for images of its own size.

    Args:
        model: <model> or <model>.<tag>. Without a tag, timm chooses one; `full_name` says which.
        weights: file of the weights; None to download them.
        pretrained: whether to load weights at all. Random ones are drawn from torch's global stream.
        n_classes: of a random network; 0 and every pretrained one are without a classifier.

    Raises:
        UserError: an unknown model, no weights, or weights of another architecture.
    """
    timm = import_timm()
    known_model(model)
    if not pretrained:
        return timm.create_model(model, num_classes=n_classes)
    if weights is not None:
        return _from_tensors(model, read_weights(weights), weights)
    cfg = timm.get_pretrained_cfg(model)
    if not cfg or not cfg.has_weights:
        raise UserError(f"timm:{model}: there are no weights to download; give a file by --weights")
    cached = _downloaded(cfg)
    if cached is not None:
        return _from_tensors(model, read_weights(cached), cached)
    warn(f"downloading timm:{model} (licence: {licence_of(cfg.to_dict())}) from {_address(cfg)}")
    try:
        network = timm.create_model(model, pretrained=True)
    except (OSError, RuntimeError, ValueError) as e:
        cause = f"{type(e).__name__}: {' '.join(str(e).split())}"[:160]
        raise UserError(
            f"timm:{model} could not be downloaded ({cause}); fetch {_address(cfg)} on a machine with a network "
            "and give the file by --weights"
        ) from e
    network.reset_classifier(0)
    return network


def _downloaded(cfg: Any) -> Path | None:
    """The file of an earlier download: it is used without asking the server, which a machine may not reach."""
    from huggingface_hub import try_to_load_from_cache

    if not cfg.hf_hub_id or cfg.hf_hub_filename or cfg.custom_load or "@" in cfg.hf_hub_id:
        return None
    path = try_to_load_from_cache(cfg.hf_hub_id, "model.safetensors")
    return Path(path) if isinstance(path, str) else None


def _address(cfg: Any) -> str:
    """Where to fetch a file of weights by hand."""
    if cfg.hf_hub_id:
        return f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or 'model.safetensors'}"
    return str(cfg.url)


def _from_tensors(model: str, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A network with all its weights from a file, which may have any number of classes or none.

    timm compares names and shapes only while the number of classes stays as it is; otherwise a file of another
    architecture loads nothing, without an error. So the network is built with the classes of the file.
    """
    timm = import_timm()
    cfg = timm.create_model(model).pretrained_cfg
    heads = cfg.get("classifier") or ()
    head = f"{heads if isinstance(heads, str) else next(iter(heads), '')}.weight"
    candidates = [len(tensors[head])] if head in tensors else [cfg["num_classes"], 0]
    for n_classes in candidates:
        overlay = dict(state_dict=dict(tensors), num_classes=n_classes, label_offset=0, custom_load=False)
        try:
            network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=n_classes)
        except (RuntimeError, LookupError, ValueError, AttributeError, TypeError, AssertionError):
            continue
        network.reset_classifier(0)
        network.pretrained_cfg.pop("state_dict", None)  # as large as the network
        return network
    own = timm.create_model(model, num_classes=0).state_dict()
    n_fit = sum(name in tensors and tensors[name].shape == t.shape for name, t in own.items())
    raise UserError(
        f"--weights {path} does not hold the weights of {model}: of its {len(own)} tensors without the classifier, "
        f"the file has {n_fit} of the same name and shape"
    )


def embedded_classifier(tensors: Mapping[str, Tensor], path: Path | None) -> nn.Module:
    """EfficientNet-Lite0 for the classes of ImageNet, from tensors of timm's names or of the original's.

    The names of the original differ; its order is the same, and so are all shapes.

    Raises:
        UserError: the tensors are not of this network; `path` is their file.
    """
    network = timm_model("tf_efficientnet_lite0", None, pretrained=False, n_classes=1000)
    own = network.state_dict()
    if tensors.keys() != own.keys():
        tensors = dict(zip(own, tensors.values(), strict=False))
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in own.items()}:
        raise UserError(f"--weights {path} does not hold the {len(own)} tensors of EfficientNet-Lite0")
    network.load_state_dict(tensors)
    return network


def full_name(network: nn.Module) -> str:
    """timm:<model>.<tag> of a network of timm."""
    cfg: Any = network.pretrained_cfg
    return f"timm:{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else f"timm:{cfg['architecture']}"


def licence_of(cfg: Mapping[str, Any]) -> str:
    """The licence of weights, by the name that timm records."""
    return cfg.get("license") or "unknown"


def fit_to_size(network: Any, size: int, name: str) -> int:
    """Prepare a network for images of another size than its own; returns the number of its features.

    Raises:
        UserError: it cannot take this size.
    """
    own = network.pretrained_cfg["input_size"][-1]
    try:
        if size != own and hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(size, size))  # resamples the position embeddings
        was_training = network.training
        with torch.no_grad():
            features = network.eval()(torch.zeros(2, 3, size, size))
        network.train(was_training)
    except UNFIT as e:
        why = " ".join(str(e).split())[:120]
        raise UserError(
            f"{name} cannot take images of {size} pixels ({why or type(e).__name__}); its own are {own}"
        ) from e
    if features.dim() != 2:
        raise UserError(f"{name} gives outputs of shape {tuple(features.shape)}, not one row of features an image")
    return features.shape[1]
