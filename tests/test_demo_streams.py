"""What the randomness of a run depends on, and what a strategy is given."""

import copy
import functools

import numpy as np
import pytest
import torch
from experiments import table
from torch import nn

import demo
from data import ImageData, Pool, Split
from strategies.base import Strategy
from utils import stream


def state(rng):
    return rng.bit_generator.state


@pytest.fixture
def generators(monkeypatch):
    """The state of every generator that a run trains or queries with, before it draws."""
    seen = {"train": [], "query": []}
    train, query = demo.train, Strategy.query

    def watched_train(build, pool, recipe, device, rng, *rest):
        seen["train"].append(state(copy.deepcopy(rng)))
        return train(build, pool, recipe, device, rng, *rest)

    def watched_query(self, n):
        seen["query"].append(state(copy.deepcopy(self.rng)))
        return query(self, n)

    monkeypatch.setattr(demo, "train", watched_train)
    monkeypatch.setattr(Strategy, "query", watched_query)
    return seen


def test_every_training_and_every_query_has_a_stream_of_its_own(run, generators):
    run(n_round=3)
    assert len(generators["train"]) == 4
    assert len(generators["query"]) == 3
    states = [str(s) for s in generators["train"] + generators["query"]]
    assert len(set(states)) == len(states)


def test_streams_depend_on_the_seed_the_purpose_and_the_round_alone(run, generators):
    """As in version 0.1.0, so that its runs are continued as they would have gone on."""
    run(n_round=3, seed=5)
    run("other", n_round=2, seed=5, n_query=7, strategy_name="BADGE", lr=0.01, n_init_labeled=9)
    expected = {purpose: [state(stream(5, purpose, r)) for r in range(4)] for purpose in ("train", "query")}
    assert generators["train"] == expected["train"] + expected["train"][:3]
    assert generators["query"] == expected["query"][:3] + expected["query"][:2]


def test_a_continued_run_goes_on_with_the_streams_of_its_rounds(run, generators):
    run(n_round=1)
    run(n_round=3)
    assert generators["train"] == [state(stream(1, "train", r)) for r in (0, 1, 1, 2, 3)]
    assert generators["query"] == [state(stream(1, "query", r)) for r in range(3)]


@pytest.mark.parametrize(
    "flags",
    [
        {"n_query": 7}, {"n_round": 0}, {"n_round": 2}, {"strategy_name": "RandomSampling"}, {"lr": 0.01},
        {"net_name": "ResNet9"}, {"img_size": 8},
    ],
    ids=str,
)  # fmt: skip
def test_the_initial_draw_depends_on_the_seed_and_the_pool_alone(run, flags):
    _, folder = run(**{"n_round": 1, **flags})
    first = [int(row["index"]) for row in table(folder / "queries.csv")[:6]]
    assert first == stream(1, "initial").choice(36, 6, replace=False).tolist()


def test_the_initial_draw_depends_on_the_seed(run):
    draws = [[r["index"] for r in table(run(f"{seed}", n_round=0, seed=seed)[1] / "queries.csv")] for seed in (1, 2)]
    assert draws[0] != draws[1]


# What a strategy is given


def reachable(value, found):
    """All objects that code which holds `value` can get at without imports: attributes, items, closures."""
    if id(value) in found or isinstance(value, type | str | bytes | int | float | None):
        return found
    found[id(value)] = value
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    else:
        names = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
        parts = [getattr(value, n) for n in names if isinstance(n, str) and hasattr(value, n)]
        parts += [vars(value)] if hasattr(value, "__dict__") else []
        parts += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        parts += [getattr(value, n, None) for n in ("__self__", "__func__", "base", "_base")]
    for part in parts:
        reachable(part, found)
    return found


def as_numbers(value):
    """A one-dimensional array of whole numbers, if that is what the value is or holds."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple) and value and all(isinstance(v, int | np.integer) for v in value):
        value = np.array(value)
    is_row = isinstance(value, np.ndarray) and value.ndim == 1 and np.issubdtype(value.dtype, np.number)
    return value if is_row else None


def leaks(strategy, labels):
    """What a strategy can reach and must not: hidden labels, paths (they name the class), the data set."""
    hidden = strategy.pool.unlabeled
    found = list(reachable(strategy, {}).values())
    data = [v for v in found if isinstance(v, ImageData | Split)]
    rows = [v for v in map(as_numbers, found) if v is not None]
    answers = [v for v in rows if len(v) == len(labels) and np.array_equal(v[hidden], labels[hidden])]
    answers += [v for v in rows if len(v) == len(hidden) and np.array_equal(v, labels[hidden])]
    paths = [v for v in found if isinstance(v, list | tuple) and len(v) >= len(hidden) and isinstance(v[0], str)]
    return data + answers + paths


@pytest.fixture
def queried(monkeypatch):
    """All strategies of a run, and what they could reach and must not at the moment of their query."""
    strategies, leaked, labels = [], [], []
    query, experiment = Strategy.query, demo.experiment

    def watched_experiment(args):
        e = experiment(args)
        labels.append(e.data.train.labels)
        return e

    def watched_query(self, n):
        strategies.append(self)
        leaked.extend(leaks(self, labels[-1]))
        return query(self, n)

    monkeypatch.setattr(demo, "experiment", watched_experiment)
    monkeypatch.setattr(Strategy, "query", watched_query)
    return strategies, leaked


def test_a_strategy_cannot_reach_labels_nobody_paid_for(run, queried):
    run(n_round=2)
    strategies, leaked = queried
    assert len(strategies) == 2
    assert leaked == []
    for strategy in strategies:
        assert vars(strategy).keys() == {"pool", "learner", "rng", "noise", "beta"}
        assert type(strategy.pool) is Pool
        assert isinstance(strategy.learner.net, nn.Module)


@pytest.mark.parametrize(
    "leak",
    [
        lambda pool, data: setattr(pool, "_targets", data.train.labels),
        lambda pool, data: setattr(pool.inputs, "labels", torch.from_numpy(data.train.labels)),
        lambda pool, data: setattr(pool, "answers", {"all": data.train.labels.tolist()}),
        lambda pool, data: setattr(pool, "oracle", lambda i: data.train.labels[i]),
        lambda pool, data: setattr(pool, "paths", data.train.paths),
        lambda pool, data: setattr(pool, "source", [data]),
    ],
    ids=["array", "tensor", "list", "closure", "paths", "data"],
)
def test_labels_that_a_strategy_could_reach_are_found(leak, run, queried, monkeypatch):
    """Or the test above could not fail."""
    replay = demo.replay

    def leaking(e, folder, pool):
        leak(pool, e.data)
        return replay(e, folder, pool)

    monkeypatch.setattr(demo, "replay", leaking)
    run(n_round=1)
    assert queried[1]
