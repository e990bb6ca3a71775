import contextlib
import copy
import gc
import math
import random
import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import reference
import small
import torch
import torchvision
from small import CPU

import nets
from data import Images
from nets import NETS, Learner, Recipe, augmented, batch_order, one_cycle, train
from utils import UserError, stream


def weights(learner):
    return torch.cat([v.flatten().double() for v in learner.net.state_dict().values()])


# Networks


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("img_size", [8, 20, 32, 40, 64, 96])
def test_every_net_embeds_and_classifies_every_size(name, img_size):
    if img_size > 40 and name == "ResNet50":
        pytest.skip("slow, and nothing that ResNet18 does not show")
    net = NETS[name].build(7, img_size, 0.5, False).eval()
    x = torch.randn(2, 3, img_size, img_size)
    h = net.embed(x)
    assert h.shape == (2, net.head.in_features)
    assert torch.equal(net(x), net.head(h))
    assert net(x).shape == (2, 7)


def test_small_cnn_is_deepals_network():
    net = NETS["SmallCNN"].build(10, 32, 0.5, False)
    shapes = [tuple(p.shape) for p in net.parameters()]
    assert shapes == [
        (32, 3, 5, 5), (32,), (32, 32, 5, 5), (32,), (64, 32, 5, 5), (64,), (50, 1024), (50,), (10, 50), (10,),
    ]  # fmt: skip


def test_resnet9_has_nine_layers_and_begins_as_the_identity():
    net = NETS["ResNet9"].build(10, 32, 0.5, False).eval()
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) + 1 == 9
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(net.body[0](x)[:, :3], x, atol=1e-4)  # but for the normalisation's epsilon
    for conv in convs:
        n_in = conv.in_channels
        x = torch.randn(1, n_in, 4, 4)
        assert torch.equal(conv(x)[:, :n_in], x)
        assert n_in == conv.out_channels or conv.weight[n_in:].std() > 0.01


@pytest.mark.parametrize(("img_size", "kernel", "pools"), [(32, 3, False), (64, 3, False), (65, 7, True)])
def test_resnet_stem_fits_the_image(img_size, kernel, pools):
    body = NETS["ResNet18"].build(10, img_size, 0.5, False).body
    assert body.conv1.kernel_size == (kernel, kernel)
    assert isinstance(body.maxpool, torch.nn.MaxPool2d) == pools


def test_normalize_gives_mean_0_and_deviation_1():
    net = small.build()()
    x = small.pixels(50)
    share = x.double() / 255
    net.set_pixel_stats(share.mean((0, 2, 3)), share.std((0, 2, 3), correction=0))
    out = net.normalize(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


# Pretrained weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_pretrained_weights_are_loaded_from_the_hub_folder(hub, monkeypatch):
    given = torchvision.models.resnet18(weights=None)
    torch.save(given.state_dict(), hub / "resnet18-f37072fd.pth")
    large = NETS["ResNet18"].build(5, 96, 0.5, True)
    assert torch.equal(large.body.conv1.weight, given.conv1.weight)
    assert torch.equal(large.body.layer4[1].conv2.weight, given.layer4[1].conv2.weight)
    assert large.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    small_image = NETS["ResNet18"].build(5, 32, 0.5, True)
    assert torch.equal(small_image.body.conv1.weight, given.conv1.weight[:, :, 2:5, 2:5])


def test_failed_download_says_where_to_place_the_weights(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise nets.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError, match=r"(?s)no network.*place it as .*checkpoints/resnet50-0676ba61.pth"):
        NETS["ResNet50"].build(5, 32, 0.5, True)


def test_small_cnn_has_no_pretrained_weights():
    with pytest.raises(UserError, match="use ResNet18"):
        NETS["SmallCNN"].build(5, 32, 0.5, True)


# Recipe


def test_every_default_recipe_is_allowed():
    for architecture in NETS.values():
        architecture.recipe.check()
    assert nets.default_recipe("ResNet18", True).lr < nets.default_recipe("ResNet18", False).lr


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_epoch": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"momentum": 1.0},
        {"weight_decay": -1.0}, {"schedule": "none"}, {"min_steps": -1}, {"translate": 0.5}, {"dropout": 1.0},
        {"momentum": 0.0}, {"dropout": math.nan},
    ],
)  # fmt: skip
def test_meaningless_recipe_is_refused_by_name(wrong):
    with pytest.raises(UserError, match="must be"):
        replace(Recipe(), **wrong).check()


def test_recipe_documents_every_field():
    assert all(f"{f.name}: " in Recipe.__doc__ for f in fields(Recipe))


def test_few_labels_still_get_the_least_steps():
    recipe = Recipe(n_epoch=10, batch_size=50, min_steps=70)
    assert [recipe.n_steps(n) for n in (1, 100, 351, 1000)] == [70, 70, 71, 200]


def test_one_cycle_rises_then_falls_to_nothing():
    rates = [one_cycle(step, 100) for step in range(100)]
    assert max(rates) == rates[25] == 1
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert 0 < rates[0] < 0.05
    assert 0 < rates[-1] < 0.01


# Batches and augmentation


@pytest.mark.parametrize(("n", "n_steps", "batch_size"), [(10, 7, 4), (3, 5, 8), (64, 1, 64), (1, 3, 2)])
def test_batch_order_shows_every_image_once_a_pass(n, n_steps, batch_size):
    order = batch_order(n, n_steps, batch_size, stream(0))
    assert order.shape == (n_steps, batch_size)
    flat = order.ravel()
    for start in range(0, len(flat) - n + 1, n):
        assert sorted(flat[start : start + n]) == list(range(n))
    assert len(set(flat[len(flat) // n * n :].tolist())) == len(flat) % n


def test_augmented_equals_a_loop_over_pixels():
    x = small.pixels(5, 9).permute(0, 2, 3, 1).contiguous()
    idxs = torch.tensor([3, 0, 3, 4])
    flips = torch.tensor([True, False, False, True])
    shifts = torch.tensor([[0, 0], [2, -3], [-4, 4], [1, 2]])
    out = augmented(x, idxs, flips, shifts)

    def reflect(i):
        return abs(i) if i <= 8 else 16 - i

    for b in range(4):
        for i in range(9):
            for j in range(9):
                row = reflect(i + shifts[b, 0].item())
                column = reflect((8 - j if flips[b] else j) + shifts[b, 1].item())
                assert torch.equal(out[b, :, i, j], x[idxs[b], row, column])


# Training


def test_training_twice_gives_the_same_bits_whatever_the_global_generators(pool):
    first = small.learner(pool)
    torch.manual_seed(123)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = torch.get_rng_state()
    assert torch.equal(weights(small.learner(pool)), weights(first))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_depends_on_the_seed_and_learns(pool):
    assert not torch.equal(weights(small.learner(pool, seed=1)), weights(small.learner(pool)))
    long = small.learner(pool, min_steps=300, translate=0.0, flip=False, dropout=0.0)
    predicted = long.probs(pool.images[pool.labeled]).argmax(1).numpy()
    assert (predicted == pool.labels[pool.labeled]).mean() == 1


def test_training_sees_the_labeled_images_alone(pool):
    changed = copy.deepcopy(pool)
    changed.images.x = changed.images.x.clone()
    changed.images.x[torch.from_numpy(pool.unlabeled)] = 0
    assert torch.equal(weights(small.learner(changed)), weights(small.learner(pool)))


def test_every_training_starts_from_new_weights(pool):
    calls = []

    def build():
        calls.append(1)
        return small.build()()

    for _ in range(2):
        train(build, pool, small.RECIPE, CPU, stream(0, "train"))
    assert len(calls) == 2


def test_diverging_training_says_so(pool):
    with pytest.raises(UserError, match=r"diverged.*--lr 1e"):
        small.learner(pool, lr=1e20, min_steps=20)


def test_batch_that_does_not_fit_is_the_users_to_lower(pool, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(nets, "augmented", full)
    with pytest.raises(UserError, match="--batch_size 8 does not fit in"):
        small.learner(pool)


def test_labeled_images_that_do_not_fit_say_so(pool, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Images, "batch", full)
    with pytest.raises(UserError, match=r"^12 labeled images of 16 pixels do not fit .*; lower --img_size$"):
        small.learner(pool)


def test_speed_is_told_once(pool):
    told = []
    train(small.build(), pool, replace(small.RECIPE, min_steps=30), CPU, stream(0), told.append)
    assert len(told) == 1
    assert told[0] > 0


# Learner


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_batch_size_changes_nothing_beyond_rounding(pool, learner, batch_size):
    other = Learner(learner.net, CPU, batch_size)
    torch.testing.assert_close(other.probs(pool.images), learner.probs(pool.images))
    torch.testing.assert_close(other.embeddings(pool.images), learner.embeddings(pool.images))
    drawn = [x.dropout_probs(pool.images, 4, stream(0)) for x in (other, learner)]
    torch.testing.assert_close(*drawn)


def test_probs_are_the_networks_softmax_in_evaluation_mode(pool):
    resnet = small.learner(pool, "ResNet18", min_steps=2)
    before = copy.deepcopy(resnet.net.state_dict())
    probs = resnet.probs(pool.images)
    logits = resnet.net(resnet.net.normalize(pool.images.x))
    torch.testing.assert_close(probs, logits.softmax(1))
    torch.testing.assert_close(resnet.net.head(resnet.embeddings(pool.images)), logits)
    assert probs.dtype == torch.float32
    assert all(torch.equal(before[k], v) for k, v in resnet.net.state_dict().items())


def test_compile_is_used_and_its_failure_told(pool, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda net: calls.append("compile") or net)
    assert torch.equal(weights(small.learner(pool, compile=True)), weights(small.learner(pool)))
    assert calls == ["reset", "compile"]

    def fail(x):
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda net: fail)
    with pytest.raises(UserError, match=r"^--compile: torch.compile failed \(no compiler\); leave it out$"):
        small.learner(pool, compile=True)


def test_bf16_embeds_in_bfloat16_on_request_alone(pool, learner, monkeypatch):
    monkeypatch.setattr(nets, "has_fast_bf16", lambda device: True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = learner.net.embed(learner.net.normalize(pool.images.x)).float()
    rough = Learner(learner.net, CPU, bf16=True)
    torch.testing.assert_close(rough.embeddings(pool.images), expected)
    torch.testing.assert_close(rough.probs(pool.images), learner.net.head(expected).softmax(1))
    assert rough.embeddings(pool.images).dtype == torch.float32
    exact = learner.net.embed(learner.net.normalize(pool.images.x))
    torch.testing.assert_close(learner.embeddings(pool.images), exact, rtol=1e-5, atol=1e-6)
    assert (expected - exact).abs().max() > 1e-4
    monkeypatch.setattr(nets, "has_fast_bf16", lambda device: False)
    torch.testing.assert_close(rough.embeddings(pool.images), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.5, 0.2])
def test_dropout_probs_equal_one_masked_pass_after_the_other(pool, dropout):
    learner = small.learner(pool, dropout=dropout)
    got = learner.dropout_probs(pool.images, 5, stream(3))
    masks = stream(3).random((5, 50)) >= dropout  # kept with probability 1 - dropout
    assert got.shape == (5, 60, 4)
    head = learner.net.head
    for k in range(5):
        for i, h in enumerate(learner.embeddings(pool.images)[:10]):
            logits = reference.masked_logits(
                h.tolist(), head.weight.tolist(), head.bias.tolist(), masks[k].tolist(), learner.net.dropout.p
            )
            np.testing.assert_allclose(got[k, i].numpy(), reference.softmax(logits), atol=1e-5)


def test_dropout_probs_reduce_batch_by_batch(pool, learner):
    other = Learner(learner.net, CPU, 7)
    shapes = []

    def reduce(probs):
        shapes.append(tuple(probs.shape))
        return probs.mean(0)

    got = other.dropout_probs(pool.images, 5, stream(3), reduce)
    torch.testing.assert_close(got, learner.dropout_probs(pool.images, 5, stream(3)).mean(0))
    assert max(s[1] for s in shapes) == 7


def test_dropout_passes_run_the_body_once(pool, learner, monkeypatch):
    seen = []
    embed = learner.net.embed
    monkeypatch.setattr(learner.net, "embed", lambda x: seen.append(len(x)) or embed(x))
    learner.dropout_probs(pool.images, 50, stream(0))
    assert sum(seen) == len(pool.images)


def test_out_of_memory_halves_the_batch_and_goes_on(pool, learner):
    sizes = []

    def hungry(x):
        sizes.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError
        return learner.net(x)

    other = Learner(learner.net, CPU, 64)
    torch.testing.assert_close(other.map(hungry, pool.images), learner.map(learner.net, pool.images))
    assert other.batch_size == 8
    assert sizes[:4] == [60, 32, 16, 8]


def test_not_one_image_fits(pool, learner):
    def hungry(x):
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="does not hold one image"):
        Learner(learner.net, CPU, 4).map(hungry, pool.images)


def test_learner_takes_plain_tensors_and_views_alike(pool, learner):
    idxs = np.array([5, 3, 50])
    expected = learner.probs(pool.images)[idxs]
    torch.testing.assert_close(learner.probs(pool.images[idxs]), expected)
    torch.testing.assert_close(learner.probs(pool.images.x[idxs]), expected)
    torch.testing.assert_close(learner.probs(pool.images[np.arange(60)][idxs]), expected)


# model.pt


@pytest.mark.parametrize("name", ["SmallCNN", "ResNet18"])
def test_saved_model_predicts_the_same(name, tmp_path, pool):
    learner = small.learner(pool, name, min_steps=2)
    (tmp_path / "model.pt").write_bytes(nets.save(learner, name, ["a", "b", "c", "d"], 16))
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["classes"] == ["a", "b", "c", "d"]
    loaded, content = nets.load(tmp_path / "model.pt", CPU)
    assert content["classes"] == ["a", "b", "c", "d"]
    torch.testing.assert_close(loaded.probs(pool.images), learner.probs(pool.images))
    assert loaded.net.dropout.p == learner.net.dropout.p


def test_damaged_model_is_an_error(tmp_path):
    for content in (b"", b"nonsense", b"PK\x03\x04"):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"no model\.pt of DalMax"):
            nets.load(tmp_path / "model.pt", CPU)
    for content in ([1, 2], {"net_name": "SmallCNN", "classes": 4}, {"net_name": ["SmallCNN"]}):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(UserError, match=r"no model\.pt of DalMax"):
            nets.load(tmp_path / "model.pt", CPU)
    with pytest.raises(UserError):
        nets.load(tmp_path / "missing.pt", CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_predicts_as_the_cpu_does(pool, learner):
    device = torch.device("cuda")
    on_gpu = Learner(copy.deepcopy(learner.net).to(device), device)
    images = Images(pool.images.x).to(device)
    torch.testing.assert_close(on_gpu.probs(images).cpu(), learner.probs(pool.images), atol=1e-4, rtol=1e-3)
    trained = train(small.build(), pool, small.RECIPE, device, stream(0, "train"))
    assert torch.isfinite(trained.probs(images)).all()


def test_batches_for_another_device_are_gathered_ahead_and_in_order(pool, monkeypatch):
    images = pool.images[np.arange(50)[::-1]]
    spans = []
    real = Images.batch

    def recording(self, start, stop, device, pin=False):
        spans.append((start, stop))
        return real(self, start, stop, CPU)  # as if the other device were this one

    monkeypatch.setattr(Images, "batch", recording)
    coming = images.batches(5, 10, torch.device("meta"))
    first = next(coming)
    rest = list(coming)
    assert spans == [(5, 15), (15, 25), (25, 35), (35, 45), (45, 50)]
    assert torch.equal(torch.cat([first, *rest]), pool.images.x[torch.arange(44, -1, -1)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_recorded_as_a_graph_is_the_eager_one_within_rounding(pool):
    device = torch.device("cuda", 0)
    recipe = replace(small.RECIPE, min_steps=20, bf16=False, dropout=0.0)
    graph, eager = (
        train(small.build(), pool, replace(recipe, cuda_graph=on), device, stream(0, "train")) for on in (True, False)
    )
    torch.testing.assert_close(graph.probs(pool.images), eager.probs(pool.images), atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_recorded_training_drops_out_anew_at_every_step(pool):
    device = torch.device("cuda", 0)
    recipe = replace(small.RECIPE, min_steps=20, bf16=False, dropout=0.5)
    graph, again, eager = (
        train(small.build(), pool, replace(recipe, cuda_graph=on), device, stream(0, "train")).probs(pool.images)
        for on in (True, True, False)
    )
    torch.testing.assert_close(graph, again, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(graph, eager, atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SmallCNN", {"clip": 2.0}),
        ("ResNet9", {"bf16": True}),
        ("ResNet18", {"bf16": True}),
        ("ResNet9", {"bf16": True, "compile": True}),
    ],
)
def test_what_the_recipes_use_can_be_recorded(pool, name, settings):
    device = torch.device("cuda", 0)
    recipe = replace(small.RECIPE, min_steps=30, **settings)
    trained = train(small.build(name), pool, recipe, device, stream(0, "train"))
    eager = train(small.build(name), pool, replace(recipe, cuda_graph=False), device, stream(0, "train"))
    probs = [learner.probs(pool.images) for learner in (trained, eager)]
    assert (probs[0] - probs[1]).abs().mean() < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_deterministic_trainings_are_equal_bit_by_bit(pool):
    device = torch.device("cuda", 0)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            train(small.build("ResNet9"), pool, replace(small.RECIPE, min_steps=30), device, stream(0, "train"))
            for _ in range(2)
        )
        assert torch.equal(first.probs(pool.images), second.probs(pool.images))
    finally:
        torch.use_deterministic_algorithms(False)


class FakeGraph:
    """Stands in for CUDA's: what is recorded runs once, and again at each replay."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def fake_graphs(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(FakeGraph()) or made[-1])
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return made


def test_a_recorded_step_keeps_alive_what_it_reads(fake_graphs):
    class State:
        pass

    state = State()
    alive = weakref.ref(state)
    step = nets._captured(lambda state=state: torch.zeros(()) if state else None)
    del state
    gc.collect()
    assert alive() is not None
    assert step() is step()
    assert fake_graphs[0].replays == 2


def test_a_step_that_cannot_be_recorded_is_told_with_its_cause(fake_graphs):
    def step():
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    with pytest.raises(UserError, match=r"\(operation not permitted when stream is capturing\); --no-cuda_graph"):
        nets._captured(step)


def test_cudnn_tunes_in_training_alone(pool, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    make = nets._step

    def watched(*args):
        step = make(*args)
        return lambda: seen.append(torch.backends.cudnn.benchmark) or step()

    monkeypatch.setattr(nets, "_step", watched)
    small.learner(pool).probs(pool.images)
    assert set(seen) == {True}
    assert torch.backends.cudnn.benchmark is False
    seen.clear()
    torch.use_deterministic_algorithms(True)
    try:
        small.learner(pool)
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(seen) == {False}


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_logits_fill_batches_up_on_cuda(n, pool, learner, monkeypatch):
    x = learner.net.normalize(pool.images.x[:n]).requires_grad_()
    sizes = []
    embed = learner.net.embed
    monkeypatch.setattr(learner.net, "embed", lambda x: sizes.append(len(x)) or embed(x))
    filling = Learner(learner.net, torch.device("cuda"))
    torch.testing.assert_close(filling.logits(x), learner.logits(x))
    assert sizes == [{1: 1, 2: 2, 5: 8, 8: 8, 9: 16}[n], n]
    (gradient,) = torch.autograd.grad(filling.logits(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(learner.logits(x).sum(), x)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_streamed_to_the_gpu_give_what_images_on_it_give(pool, learner):
    device = torch.device("cuda", 0)
    on_gpu = Learner(copy.deepcopy(learner.net).to(device), device, batch_size=7)
    torch.testing.assert_close(on_gpu.probs(pool.images), on_gpu.probs(pool.images.to(device)))


def test_every_step_takes_its_learning_rate_from_the_schedule(pool, monkeypatch):
    monkeypatch.setitem(nets.SCHEDULES, "constant", lambda step, n_steps: 0.0)
    still = [weights(small.learner(pool, schedule="constant", min_steps=n)) for n in (2, 9)]
    assert torch.equal(*still)
    monkeypatch.setitem(nets.SCHEDULES, "constant", lambda step, n_steps: float(step == n_steps - 1))
    assert not torch.equal(weights(small.learner(pool, schedule="constant", min_steps=9)), still[0])


def test_out_of_memory_half_way_keeps_what_is_done(pool, learner):
    calls = []

    def once_hungry(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return learner.net(x)

    other = Learner(learner.net, CPU, 16)
    torch.testing.assert_close(other.map(once_hungry, pool.images), learner.map(learner.net, pool.images))
    assert calls == [16, 16, 16, 8, 8, 8, 4]
