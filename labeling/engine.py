"""Trains on the labels so far, chooses the next images, and says what the network takes images for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from data import Inputs, Pool, channels_first
from features.backbones import Backbone, load_backbone
from features.cache import cached_features
from features.rows import feature_stats
from files import write_atomic
from images.cache import cached_images
from labeling.advice import kappa
from labeling.records import Measured
from labeling.work import Result, Setup, Suggestion, Task
from nets import Net, architecture
from runs.format import MODEL, VALIDATION, Round
from runs.metrics import METRICS
from strategies import STRATEGIES, resolve
from strategies.base import Idxs, ScoreStrategy
from strategies.initial import RANDOM, Untrained, resolve_initial
from training.learner import Learner
from training.loop import train
from training.model_file import model_bytes, read_model
from training.recipe import default_recipe
from utils import UserError, configure, pick_device, stream

FIRST_CANDIDATES = 5000  # images that the first draw looks at, at most: a query without labels is the slowest
N_RANKED = 10  # classes named for an image
GROUP = 60  # images of a class in a grid, at most
STOP_SET = 2000  # images on which successive networks are compared
N_FOLDS = 5


@dataclass(frozen=True)
class Doubt:
    """A labeled image and what a network that never saw its label takes it for.

    Attributes:
        index: position in the project's images.
        probability: of its own label.
        suggestion: the network's.
    """

    index: int
    probability: float
    suggestion: Suggestion


class Engine:
    """The training side of a project.

    Args:
        setup: the project.

    Raises:
        UserError: a setting is not usable.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        s = self.settings = setup.settings
        self._strategy, self._strategy_args = resolve(s.strategy_name, [*s.strategy_args])
        self._strategy(None, None, None, **self._strategy_args)  # type: ignore[arg-type]  # checks the values
        self._initial = resolve_initial(s.first_strategy, not s.on_pixels)
        default = "SmallCNN" if s.on_pixels else "Linear"
        self._net_name = default if s.net_name == "auto" else s.net_name
        self._architecture = architecture(self._net_name, not s.on_pixels)
        self._recipe = default_recipe(self._architecture, False)
        if self._strategy.needs_dropout and self._recipe.dropout == 0:
            raise UserError(f"{self._strategy.__name__} needs a network with dropout")
        self.device = pick_device(setup.device)
        configure(self.device, deterministic=False)
        self._backbone: Backbone | None = None
        if not s.on_pixels:
            weights = Path(s.weights) if s.weights else None
            self._backbone = load_backbone(s.features, s.features_size, weights)
        self._learner: Learner | None = None

    def load(self, report: Callable[[int, int], None] = lambda done, total: None) -> dict[int, str]:
        """Prepare the images: from the cache or, the first time, by reading all of them.

        Args:
            report: called with how many images are embedded, and of how many.

        Returns:
            The reason by index of each image of "train" that cannot be read.

        Raises:
            UserError: none can be read, or the cache cannot be written.
        """
        root, listing, data_dir = self.setup.root, self.setup.listing, self.setup.data_dir
        if self._backbone:
            features = cached_features(root, listing, data_dir, self._backbone, self.device, report)
            x, unreadable = features.x, dict(features.unreadable)
        else:
            pixels = cached_images(root, listing, data_dir, self.settings.img_size)
            x, unreadable = channels_first(torch.from_numpy(pixels.x)), dict(pixels.unreadable)
        n = {name: len(files) for name, files in listing.splits.items()}
        readable = np.array([i not in unreadable for i in range(sum(n.values()))])
        rows = np.cumsum(readable) - 1  # of each file
        self._rows = rows[: n["train"]]
        n_rows = int(readable[: n["train"]].sum())
        if n_rows == 0:
            raise UserError(f"{root}: no image can be read; the first one: {unreadable[0]}")
        self._indices = np.flatnonzero(readable[: n["train"]])  # of each row
        self._inputs = Inputs(x[:n_rows])
        if self._backbone:
            self._mean, self._std = feature_stats(x[:n_rows])
        else:
            self._mean, self._std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
        self._splits: dict[str, tuple[Inputs, Idxs]] = {}
        start = n["train"]
        for name in list(n)[1:]:
            here = np.arange(start, start + n[name])[readable[start : start + n[name]]]
            labels = np.array([listing.files[i].label for i in here], np.int64)
            self._splits[name] = Inputs(x)[rows[here]], labels
            start += n[name]
        return {i: why for i, why in unreadable.items() if i < n["train"]}

    def run(self, task: Task) -> Result:
        """Do what the labeling process asks for.

        Raises:
            UserError: a training diverged, or model.pt cannot be written or read.
        """
        if task.train:
            return self._trained(task)
        if task.n:
            idxs = self._first(task)
            return Result(picks=[int(i) for i in self._indices[idxs]])
        self._learner = self._learner or self._read_learner()
        if self._learner is None:  # classes were added, or the file is gone
            rng = stream(self.settings.seed, "train", task.round - 1)
            self._learner = train(self._build, self._pool(task.labels), self._recipe, self.device, rng)
            self._write(self._learner)
        return self._with_suggestions(self._learner, task, Result())

    def doubts(self, labels: dict[int, int]) -> list[Doubt]:
        """How much networks that were trained without a label doubt it, by cross-validation; the most doubtful first.

        Source: Northcutt, Jiang, Chuang, "Confident learning", JAIR 2021: out-of-sample probabilities, ranked by that
        of the given label (self-confidence).

        Args:
            labels: class by index; of two classes at least.

        Raises:
            UserError: a training diverged.
        """
        idxs = np.array([i for i in labels if self._is_readable(i)], np.int64)
        classes = np.array([labels[int(i)] for i in idxs], np.int64)
        order = stream(self.settings.seed, "folds").permutation(len(idxs))
        order = order[np.argsort(classes[order], kind="stable")]  # every fold gets its share of each class
        fold = np.empty(len(idxs), np.int64)
        fold[order] = np.arange(len(idxs)) % N_FOLDS
        found: list[Doubt] = []
        for k in range(N_FOLDS):
            out = np.flatnonzero(fold == k)
            known = {int(i): int(c) for i, c in zip(idxs[fold != k], classes[fold != k], strict=True)}
            if not len(out) or not known:
                continue
            rng = stream(self.settings.seed, "fold", k)
            learner = train(self._build, self._pool(known), self._recipe, self.device, rng)
            probs = learner.probs(self._inputs[self._rows[idxs[out]]])
            of_label = probs[torch.arange(len(out)), torch.from_numpy(classes[out])].cpu().tolist()
            rows = zip(idxs[out], of_label, suggestions(probs), strict=True)
            found += [Doubt(int(i), p, s) for i, p, s in rows]
        return sorted(found, key=lambda d: (d.probability, d.index))

    # Training

    def _pool(self, labels: dict[int, int]) -> Pool:
        pool = Pool(self._inputs, len(self.settings.classes))
        idxs = np.array([*labels], np.int64)
        pool.label(self._rows[idxs], np.array([*labels.values()], np.int64))
        return pool

    def _build(self) -> Net:
        net = self._architecture.build(self._inputs.shape, len(self.settings.classes), self._recipe.dropout, False)
        net.set_input_stats(self._mean, self._std)
        return net

    def _trained(self, task: Task) -> Result:
        seed, start = self.settings.seed, time.perf_counter()
        pool = self._pool(task.labels)
        before = self._learner or self._read_learner()
        learner = train(self._build, pool, self._recipe, self.device, stream(seed, "train", task.round))
        trained = time.perf_counter()
        stop_set = self._inputs[stream(seed, "stop set").permutation(len(self._inputs))[:STOP_SET]]
        agreement = None
        if before:
            a, b = (x.probs(stop_set).argmax(1).cpu().numpy() for x in (before, learner))
            agreement = kappa(a, b, pool.n_classes)
        metrics, n_val, n_correct = self._measure(learner, task.validation)
        measured = time.perf_counter()
        picks, scores = np.empty(0, np.int64), None
        if task.n:
            among = np.sort(self._rows[np.array(task.candidates)])
            strategy = self._strategy(
                pool, learner.configured(False, True), stream(seed, "query", task.round), **self._strategy_args
            )
            picks = strategy.query(task.n, among)
            scores = strategy.score(picks).tolist() if isinstance(strategy, ScoreStrategy) else None
        seconds = trained - start, measured - trained, time.perf_counter() - measured
        row = Round(task.round, len(task.labels), metrics, *seconds)
        chosen = [int(i) for i in self._indices[picks]]
        result = Result(chosen, scores, measured=Measured(row, n_val, n_correct, agreement))
        result = self._with_suggestions(learner, task, result)
        self._write(learner)
        self._learner = learner
        return result

    def _measure(self, learner: Learner, validation: dict[int, int]) -> tuple[dict[str, float], int, int]:
        """Metrics by column, and how many validation images there are and are classified correctly."""
        metrics: dict[str, float] = {}
        idxs = np.array([i for i in validation if self._is_readable(i)], np.int64)
        probs, labels = [np.empty((0, len(self.settings.classes)))], [np.empty(0, np.int64)]
        if len(idxs):
            probs.append(learner.probs(self._inputs[self._rows[idxs]]).cpu().numpy())
            labels.append(np.array([validation[int(i)] for i in idxs], np.int64))
        if "val" in self._splits:
            inputs, known = self._splits["val"]
            probs.append(learner.probs(inputs).cpu().numpy())
            labels.append(known)
        p, y = np.concatenate(probs), np.concatenate(labels)
        if len(y):
            metrics |= {VALIDATION + m.name: m.function(p.astype(np.float32), y) for m in METRICS.values()}
        if "test" in self._splits:
            inputs, known = self._splits["test"]
            on_test = learner.probs(inputs).cpu().numpy()
            metrics |= {m.name: m.function(on_test, known) for m in METRICS.values()}
        return metrics, len(y), int((p.argmax(1) == y).sum()) if len(y) else 0

    def _is_readable(self, index: int) -> bool:
        row = self._rows[index]
        return row >= 0 and self._indices[row] == index

    # Choosing

    def _first(self, task: Task) -> Idxs:
        """Rows of images to label before there is a network."""
        rng = stream(self.settings.seed, "initial", len(task.labels))
        among = np.sort(self._rows[np.array(task.candidates)])
        if len(among) > FIRST_CANDIDATES:
            among = np.sort(rng.choice(among, FIRST_CANDIDATES, replace=False))
        n = min(task.n, len(among))
        if self._initial == RANDOM:
            return rng.choice(among, n, replace=False)
        learner = cast("Learner", Untrained(self._mean, self._std, self.device))
        return STRATEGIES[self._initial](self._pool(task.labels), learner, rng).query(n, among)

    def _with_suggestions(self, learner: Learner, task: Task, result: Result) -> Result:
        """A result with suggestions for the picks, or the candidates where there are none, and with groups."""
        if not task.candidates:
            return result
        candidates = np.array(task.candidates)
        probs = learner.probs(self._inputs[self._rows[candidates]])
        sure, predicted = (t.cpu().numpy() for t in probs.max(1))
        order = np.argsort(-sure, kind="stable")
        groups = {}
        for c in range(len(self.settings.classes)):
            members = order[predicted[order] == c][:GROUP]
            if len(members):
                groups[c] = [int(i) for i in candidates[members]]
        position = {int(i): k for k, i in enumerate(candidates)}
        shown = [*result.picks] if task.n else [int(i) for i in candidates[np.argsort(sure)[:GROUP]]]
        wanted = {*shown, *task.queued, *(i for idxs in groups.values() for i in idxs)} & {*position}
        ordered = sorted(wanted)
        found = suggestions(probs[[position[i] for i in ordered]])
        return replace(result, suggestions=dict(zip(ordered, found, strict=True)), groups=groups)

    # model.pt

    @property
    def _model(self) -> Path:
        return self.setup.folder / MODEL

    def _write(self, learner: Learner) -> None:
        size = self._backbone.size if self._backbone else self.settings.img_size
        notes: dict[str, Any] = {}
        if self._backbone:
            notes = {"shape": list(self._inputs.shape), **self._backbone.facts}
        write_atomic(self._model, model_bytes(learner, self._net_name, [*self.settings.classes], size, **notes))

    def _read_learner(self) -> Learner | None:
        """The network of model.pt, unless it was trained for other classes, or on other features."""
        if not self._model.exists():
            return None
        learner, facts = read_model(self._model, self.device)
        same = facts["classes"] == [*self.settings.classes] and facts["net_name"] == self._net_name
        expected = self._backbone.facts if self._backbone else {}
        return learner if same and all(facts.get(k) == v for k, v in expected.items()) else None


def suggestions(probs: Tensor) -> list[Suggestion]:
    """What a network takes some images for, from its probabilities. Shape (n, C)."""
    values, classes = probs.topk(min(N_RANKED, probs.shape[1]), dim=1)
    return [
        Suggestion(int(c[0]), float(v[0]), tuple(int(i) for i in c))
        for v, c in zip(values.cpu(), classes.cpu(), strict=True)
    ]
