"""What every network of NETS is held to, and what each of them is."""

import socket
from dataclasses import replace

import pytest
import small
import torch
import torchvision
from small import CPU
from torch import nn

import nets
from features.rows import feature_stats
from nets import NETS, architecture
from training.loop import train
from training.recipe import Recipe
from utils import UserError, stream

ALL = pytest.mark.parametrize("name", NETS)
LARGE = 20_000_000  # parameters; such a network is slow here on images of more than 40 pixels, and shows nothing more


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of pretrained weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


# The contract


@ALL
@pytest.mark.parametrize("img_size", [8, 20, 32, 40, 64, 96])
def test_every_net_embeds_and_classifies_every_size(name, img_size):
    shape = small.row_shape(name, img_size)
    net = NETS[name].build(shape, 7, 0.5, False).eval()
    if img_size > 40 and sum(p.numel() for p in net.parameters()) > LARGE:
        pytest.skip("slow, and nothing that a smaller network of its family does not show")
    x = torch.randn(2, *shape)
    h = net.embed(x)
    assert h.shape == (2, net.head.in_features)
    assert torch.equal(net(x), net.head(h))
    assert net(x).shape == (2, 7)


@ALL
def test_every_net_has_a_linear_head_that_reads_the_embedding_after_dropout(name):
    net = small.build(name, dropout=0.25)().eval()
    assert isinstance(net.head, nn.Linear)
    assert isinstance(net.dropout, nn.Dropout)
    assert net.dropout.p == 0.25
    net.dropout.train()
    read = []
    net.head.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    x = torch.randn(8, *small.row_shape(name))
    net(x)
    h = net.embed(x)
    ratio = (read[0] / h)[h.abs() > 1e-6]
    dropped = ratio == 0
    assert 0.1 < dropped.double().mean() < 0.4
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 1 / 0.75))


@ALL
def test_every_net_reads_each_image_alone(name):
    net = small.build(name)().eval()
    x = torch.randn(3, *small.row_shape(name))
    alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(net(x), alone, rtol=1e-4, atol=1e-5)


@ALL
def test_every_recipe_is_allowed(name):
    Recipe(**NETS[name].recipe).check()


@ALL
def test_every_net_refuses_pretrained_weights_or_says_that_they_cannot_be_had(name, hub, monkeypatch):
    def unreachable(*arguments, **settings):
        raise OSError("no network")

    monkeypatch.setenv("HF_HOME", str(hub))
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(UserError, match=r"^--pretrained: .*(no pretrained weights for|could not be downloaded)"):
        NETS[name].build(small.row_shape(name, 32), 5, 0.5, True)


@ALL
def test_every_net_trains(name):
    pool = small.pool(name=name)
    nets_built, before = [], []

    def build():
        nets_built.append(small.build(name)())
        before.extend(p.detach().clone() for p in nets_built[0].parameters())
        return nets_built[0]

    learner = train(build, pool, replace(small.RECIPE, lr=1e-3, min_steps=3), CPU, stream(0))
    assert nets_built == [learner.net]
    assert not any(torch.equal(a, b) for a, b in zip(before, learner.net.parameters(), strict=True))
    probs = learner.probs(pool.inputs)
    torch.testing.assert_close(probs.sum(1), torch.ones(60))
    assert probs.std(0).max() > 1e-6


# Each of them


def test_small_cnn_is_deepals_network():
    net = NETS["SmallCNN"].build((3, 32, 32), 10, 0.5, False)
    shapes = [tuple(p.shape) for p in net.parameters()]
    assert shapes == [
        (32, 3, 5, 5), (32,), (32, 32, 5, 5), (32,), (64, 32, 5, 5), (64,), (50, 1024), (50,), (10, 50), (10,),
    ]  # fmt: skip


def test_resnet9_has_nine_layers_and_begins_as_the_identity():
    net = NETS["ResNet9"].build((3, 32, 32), 10, 0.5, False).eval()
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) + 1 == 9
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(net.body[0](x)[:, :3], x, atol=1e-4)  # but for the normalisation's epsilon
    for conv in convs:
        n_in = conv.in_channels
        x = torch.randn(1, n_in, 4, 4)
        assert torch.equal(conv(x)[:, :n_in], x)
        assert n_in == conv.out_channels or conv.weight[n_in:].std() > 0.01


@pytest.mark.parametrize(("img_size", "kernel", "has_max_pool"), [(32, 3, False), (64, 3, False), (65, 7, True)])
def test_resnet_stem_fits_the_image(img_size, kernel, has_max_pool):
    body = NETS["ResNet18"].build((3, img_size, img_size), 10, 0.5, False).body
    assert body.conv1.kernel_size == (kernel, kernel)
    assert isinstance(body.maxpool, torch.nn.MaxPool2d) == has_max_pool


def test_normalize_gives_mean_0_and_deviation_1():
    net = small.build()()
    x = small.pixels(50)
    share = x.double() / 255
    net.set_input_stats(share.mean((0, 2, 3)), share.std((0, 2, 3), correction=0))
    out = net.normalize(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_head_reads_features_with_mean_0_and_deviation_1():
    net = NETS["Linear"].build((24,), 3, 0.5, False).eval()
    x = (5 + 3 * torch.randn(500, 24)).half()
    net.set_input_stats(*feature_stats(x))
    out = net.normalize(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(24), atol=1e-4, rtol=0)
    assert torch.equal(net.embed(out), out)
    assert sum(p.numel() for p in net.parameters()) == 3 * 24 + 3


def test_mlp_has_one_hidden_layer():
    net = NETS["MLP"].build((24,), 3, 0.5, False)
    assert [tuple(p.shape) for p in net.parameters()] == [(256, 24), (256,), (3, 256), (3,)]
    assert (net.embed(torch.randn(9, 24)) >= 0).all()


def test_a_network_is_found_by_name_and_by_what_it_reads():
    assert architecture("ResNet9", with_features=False) is NETS["ResNet9"]
    assert architecture("Linear", with_features=True) is NETS["Linear"]
    with pytest.raises(UserError, match=r"^--net_name Nonsense: must be one of SmallCNN, ResNet9,"):
        architecture("Nonsense", with_features=False)
    with pytest.raises(UserError, match=r"^--net_name Linear reads features: add --features"):
        architecture("Linear", with_features=False)
    with pytest.raises(UserError, match=r"^--net_name ResNet9 reads images: with --features it must be Linear or MLP$"):
        architecture("ResNet9", with_features=True)


# Pretrained weights


def test_pretrained_weights_are_loaded_from_the_hub_folder(hub):
    given = torchvision.models.resnet18(weights=None)
    torch.save(given.state_dict(), hub / "resnet18-f37072fd.pth")
    large = NETS["ResNet18"].build((3, 96, 96), 5, 0.5, True)
    assert torch.equal(large.body.conv1.weight, given.conv1.weight)
    assert torch.equal(large.body.layer4[1].conv2.weight, given.layer4[1].conv2.weight)
    assert large.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    small_image = NETS["ResNet18"].build((3, 32, 32), 5, 0.5, True)
    assert torch.equal(small_image.body.conv1.weight, given.conv1.weight[:, :, 2:5, 2:5])


def test_failed_download_says_where_to_place_the_weights(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise nets.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError, match=r"(?s)no network.*place it as .*checkpoints/resnet50-0676ba61.pth"):
        NETS["ResNet50"].build((3, 32, 32), 5, 0.5, True)


def test_small_cnn_has_no_pretrained_weights():
    with pytest.raises(UserError, match="use ResNet18"):
        NETS["SmallCNN"].build((3, 32, 32), 5, 0.5, True)
