"""The trained network: probabilities, embeddings and dropout passes, whatever the batch size and the memory."""

import copy

import numpy as np
import pytest
import reference
import small
import torch
from small import CPU

import training.learner
from data import Inputs
from training.learner import Learner
from training.loop import train
from utils import UserError, stream

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_batch_size_changes_nothing_beyond_rounding(pool, learner, batch_size):
    other = Learner(learner.net, CPU, batch_size)
    torch.testing.assert_close(other.probs(pool.inputs), learner.probs(pool.inputs))
    torch.testing.assert_close(other.embeddings(pool.inputs), learner.embeddings(pool.inputs))
    drawn = [x.dropout_probs(pool.inputs, 4, stream(0)) for x in (other, learner)]
    torch.testing.assert_close(*drawn)


def test_probs_are_the_networks_softmax_in_evaluation_mode(pool):
    resnet = small.learner(pool, "ResNet18", min_steps=2)
    before = copy.deepcopy(resnet.net.state_dict())
    probs = resnet.probs(pool.inputs)
    logits = resnet.net(resnet.net.normalize(pool.inputs.x))
    torch.testing.assert_close(probs, logits.softmax(1))
    torch.testing.assert_close(resnet.net.head(resnet.embeddings(pool.inputs)), logits)
    assert probs.dtype == torch.float32
    assert all(torch.equal(before[k], v) for k, v in resnet.net.state_dict().items())


def test_bf16_embeds_in_bfloat16_on_request_alone(pool, learner, monkeypatch):
    monkeypatch.setattr(training.learner, "has_fast_bf16", lambda device: True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = learner.net.embed(learner.net.normalize(pool.inputs.x)).float()
    rough = Learner(learner.net, CPU, bf16=True)
    torch.testing.assert_close(rough.embeddings(pool.inputs), expected)
    torch.testing.assert_close(rough.probs(pool.inputs), learner.net.head(expected).softmax(1))
    assert rough.embeddings(pool.inputs).dtype == torch.float32
    exact = learner.net.embed(learner.net.normalize(pool.inputs.x))
    torch.testing.assert_close(learner.embeddings(pool.inputs), exact, rtol=1e-5, atol=1e-6)
    assert (expected - exact).abs().max() > 1e-4
    monkeypatch.setattr(training.learner, "has_fast_bf16", lambda device: False)
    torch.testing.assert_close(rough.embeddings(pool.inputs), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.5, 0.2])
def test_dropout_probs_equal_one_masked_pass_after_the_other(pool, dropout):
    learner = small.learner(pool, dropout=dropout)
    got = learner.dropout_probs(pool.inputs, 5, stream(3))
    masks = stream(3).random((5, 50)) >= dropout  # kept with probability 1 - dropout
    assert got.shape == (5, 60, 4)
    head = learner.net.head
    for k in range(5):
        for i, h in enumerate(learner.embeddings(pool.inputs)[:10]):
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

    got = other.dropout_probs(pool.inputs, 5, stream(3), reduce)
    torch.testing.assert_close(got, learner.dropout_probs(pool.inputs, 5, stream(3)).mean(0))
    assert max(s[1] for s in shapes) == 7


def test_dropout_passes_run_the_body_once(pool, learner, monkeypatch):
    seen = []
    embed = learner.net.embed
    monkeypatch.setattr(learner.net, "embed", lambda x: seen.append(len(x)) or embed(x))
    learner.dropout_probs(pool.inputs, 50, stream(0))
    assert sum(seen) == len(pool.inputs)


def broken(learner, where):
    """The same network with some weights of its head NaN, or of its body infinite."""
    net = copy.deepcopy(learner.net)
    weights = {"body": next(net.body.parameters()), "head": net.head.weight}
    weights[where][0] = torch.nan if where == "head" else torch.inf
    return Learner(net, CPU, 7)


@pytest.mark.parametrize("where", ["body", "head"])
def test_a_broken_network_is_an_error_whatever_is_made_of_its_outputs(where, pool, learner):
    """Votes hide NaN, and so may a strategy."""
    wrong = broken(learner, where)
    with pytest.raises(UserError, match="NaN or infinite: the training diverged"):
        wrong.probs(pool.inputs)
    with pytest.raises(UserError, match="NaN or infinite: the training diverged"):
        wrong.dropout_probs(pool.inputs, 9, stream(0), lambda probs: probs.argmax(-1).float().mean(0))
    if where == "body":
        with pytest.raises(UserError, match="NaN or infinite: the training diverged"):
            wrong.embeddings(pool.inputs)


def test_one_broken_image_is_an_error(pool, learner, monkeypatch):
    rows = pool.inputs.x.float()
    rows[37, 0, 3, 3] = torch.nan
    one = Inputs(rows)
    for f in (
        learner.probs,
        learner.embeddings,
        lambda x: learner.dropout_probs(x, 9, stream(0), lambda p: p.argmax(0)),
    ):
        with pytest.raises(UserError, match="NaN or infinite"):
            f(one)
        f(Inputs(rows[:37]))


def test_out_of_memory_halves_the_batch_and_goes_on(pool, learner):
    sizes = []

    def hungry(x):
        sizes.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError
        return learner.net(x)

    other = Learner(learner.net, CPU, 64)
    torch.testing.assert_close(other.map(hungry, pool.inputs), learner.map(learner.net, pool.inputs))
    assert other.batch_size == 8
    assert sizes[:4] == [60, 32, 16, 8]


def test_out_of_memory_half_way_keeps_what_is_done(pool, learner):
    calls = []

    def once_hungry(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return learner.net(x)

    other = Learner(learner.net, CPU, 16)
    torch.testing.assert_close(other.map(once_hungry, pool.inputs), learner.map(learner.net, pool.inputs))
    assert calls == [16, 16, 16, 8, 8, 8, 4]


def test_not_one_image_fits(pool, learner):
    def hungry(x):
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="does not hold one image"):
        Learner(learner.net, CPU, 4).map(hungry, pool.inputs)


def test_learner_takes_plain_tensors_and_views_alike(pool, learner):
    idxs = np.array([5, 3, 50])
    expected = learner.probs(pool.inputs)[idxs]
    torch.testing.assert_close(learner.probs(pool.inputs[idxs]), expected)
    torch.testing.assert_close(learner.probs(pool.inputs.x[idxs]), expected)
    torch.testing.assert_close(learner.probs(pool.inputs[np.arange(60)][idxs]), expected)


def test_batches_for_another_device_are_gathered_ahead_and_in_order(pool, monkeypatch):
    images = pool.inputs[np.arange(50)[::-1]]
    spans = []
    real = Inputs.batch

    def recording(self, start, stop, device, pin=False):
        spans.append((start, stop))
        return real(self, start, stop, CPU)  # as if the other device were this one

    monkeypatch.setattr(Inputs, "batch", recording)
    coming = images.batches(5, 10, torch.device("meta"))
    first = next(coming)
    rest = list(coming)
    assert spans == [(5, 15), (15, 25), (25, 35), (35, 45), (45, 50)]
    assert torch.equal(torch.cat([first, *rest]), pool.inputs.x[torch.arange(44, -1, -1)])


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_logits_fill_batches_up_on_cuda(n, pool, learner, monkeypatch):
    x = learner.net.normalize(pool.inputs.x[:n]).requires_grad_()
    sizes = []
    embed = learner.net.embed
    monkeypatch.setattr(learner.net, "embed", lambda x: sizes.append(len(x)) or embed(x))
    filling = Learner(learner.net, torch.device("cuda"))
    torch.testing.assert_close(filling.logits(x), learner.logits(x))
    assert sizes == [{1: 1, 2: 2, 5: 8, 8: 8, 9: 16}[n], n]
    (gradient,) = torch.autograd.grad(filling.logits(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(learner.logits(x).sum(), x)[0])


@pytest.mark.gpu
@ON_GPU
def test_cuda_predicts_as_the_cpu_does(pool, learner):
    device = torch.device("cuda")
    on_gpu = Learner(copy.deepcopy(learner.net).to(device), device)
    images = Inputs(pool.inputs.x).to(device)
    torch.testing.assert_close(on_gpu.probs(images).cpu(), learner.probs(pool.inputs), atol=1e-4, rtol=1e-3)
    trained = train(small.build(), pool, small.RECIPE, device, stream(0, "train"))
    assert torch.isfinite(trained.probs(images)).all()


@pytest.mark.gpu
@ON_GPU
def test_images_streamed_to_the_gpu_give_what_images_on_it_give(pool, learner):
    device = torch.device("cuda", 0)
    on_gpu = Learner(copy.deepcopy(learner.net).to(device), device, batch_size=7)
    torch.testing.assert_close(on_gpu.probs(pool.inputs), on_gpu.probs(pool.inputs.to(device)))
