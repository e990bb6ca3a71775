"""A training step recorded as a CUDA graph; the parts that need a GPU are marked so."""

import contextlib
import gc
import weakref
from dataclasses import replace

import pytest
import small
import torch

from training.cuda_graph import captured
from training.loop import train
from utils import UserError, stream

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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
    step = captured(lambda state=state: torch.zeros(()) if state else None)
    del state
    gc.collect()
    assert alive() is not None
    assert step() is step()
    assert fake_graphs[0].replays == 2


def test_a_step_that_cannot_be_recorded_is_reported_with_its_cause(fake_graphs):
    def step():
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    with pytest.raises(UserError, match=r"\(operation not permitted when stream is capturing\); --no-cuda_graph"):
        captured(step)


@pytest.mark.gpu
@ON_GPU
def test_a_training_recorded_as_a_graph_is_the_eager_one_within_rounding(pool):
    device = torch.device("cuda", 0)
    recipe = replace(small.RECIPE, min_steps=20, bf16=False, dropout=0.0)
    graph, eager = (
        train(small.build(), pool, replace(recipe, cuda_graph=on), device, stream(0, "train")) for on in (True, False)
    )
    torch.testing.assert_close(graph.probs(pool.inputs), eager.probs(pool.inputs), atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
@ON_GPU
def test_a_recorded_training_drops_out_differently_at_every_step(pool):
    device = torch.device("cuda", 0)
    recipe = replace(small.RECIPE, min_steps=20, bf16=False, dropout=0.5)
    graph, again, eager = (
        train(small.build(), pool, replace(recipe, cuda_graph=on), device, stream(0, "train")).probs(pool.inputs)
        for on in (True, True, False)
    )
    torch.testing.assert_close(graph, again, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(graph, eager, atol=1e-3, rtol=1e-2)


@pytest.mark.gpu
@ON_GPU
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
    probs = [learner.probs(pool.inputs) for learner in (trained, eager)]
    assert (probs[0] - probs[1]).abs().mean() < 0.05


@pytest.mark.gpu
@ON_GPU
def test_deterministic_trainings_are_equal_bit_by_bit(pool):
    device = torch.device("cuda", 0)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            train(small.build("ResNet9"), pool, replace(small.RECIPE, min_steps=30), device, stream(0, "train"))
            for _ in range(2)
        )
        assert torch.equal(first.probs(pool.inputs), second.probs(pool.inputs))
    finally:
        torch.use_deterministic_algorithms(False)
