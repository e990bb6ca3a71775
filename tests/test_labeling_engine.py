"""The training side of label.py: on features and on pixels, with images that cannot be read, through a process."""

import queue
from pathlib import Path

import numpy as np
import pytest
import torch
from labeling_projects import CLASSES, make_folder, truth
from PIL import Image

from labeling.commands import setup_of
from labeling.engine import Engine
from labeling.project import Project
from labeling.work import Checked, Failed, Preparing, Ready, Result, Task
from labeling.worker import TrainingProcess
from training.model_file import read_model
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
FEATURES = {"features_size": 32}
PIXELS = {"features": "none", "img_size": 8}


def project(tmp_path, n=60, **given):
    root = tmp_path / "DATA" / "birds"
    if not root.exists():
        make_folder(root, n)
    return Project(root, tmp_path / "results", {"classes": CLASSES, "n_query": 4, "n_val": 0, **given})


@pytest.fixture
def opened(tmp_path):
    """Makes a project and its engine with its images."""
    made = []

    def make(**given):
        p = project(tmp_path, **given)
        made.append(p)
        p.save()
        engine = Engine(setup_of(p, "cpu"))
        return p, engine, engine.load()

    yield make
    for p in made:
        p.close()


def task(p, labels, n=8, train=True, round=0, unreadable=(), **more):
    candidates = [i for i in range(len(p.files)) if i not in labels and i not in unreadable]
    return Task(round, labels, {}, candidates, n, train, **more)


def known(p, idxs):
    return {int(i): truth(p.files[i].path) for i in idxs}


@pytest.mark.parametrize("given", [FEATURES, PIXELS], ids=["features", "pixels"])
def test_it_learns_picks_and_suggests(opened, given):
    p, engine, unreadable = opened(**given)
    assert unreadable == {}
    first = engine.run(task(p, {}, train=False))
    assert len({*first.picks}) == 8
    assert not first.suggestions
    labels = known(p, range(24))
    validation = known(p, range(24, 36))
    result = engine.run(Task(0, labels, validation, [*range(36, 60)], 8, True))
    assert len({*result.picks}) == 8
    assert {*result.picks} <= {*range(36, 60)}
    assert result.scores == sorted(result.scores, reverse=True)
    right = [s.label == truth(p.files[i].path) for i, s in result.suggestions.items()]
    assert len(right) >= 8
    assert np.mean(right) > 0.8
    assert all(s.ranked[0] == s.label and sorted(s.ranked) == [0, 1, 2] for s in result.suggestions.values())
    for c, members in result.groups.items():
        assert all(result.suggestions[i].label == c for i in members)
        sure = [result.suggestions[i].probability for i in members]
        assert sure == sorted(sure, reverse=True)
    measured = result.measured
    assert (measured.row.round, measured.row.n_labeled, measured.n_val) == (0, 24, 12)
    assert measured.row.metrics["val_accuracy"] == pytest.approx(measured.n_correct / 12)
    assert measured.agreement is None
    again = engine.run(Task(1, labels, validation, [*range(36, 60)], 8, True))
    assert again.measured.agreement > 0.8
    _, facts = read_model(p.folder / "model.pt", torch.device("cpu"))
    assert facts["classes"] == [*CLASSES]
    assert facts.get("features") == ("efficientnet_lite0" if given is FEATURES else None)


def test_suggestions_without_a_training_come_from_the_saved_network(opened):
    p, engine, _ = opened(**FEATURES)
    labels = known(p, range(24))
    trained = engine.run(task(p, labels))
    saved = (p.folder / "model.pt").read_bytes()
    other = Engine(setup_of(p, "cpu"))
    other.load()
    result = other.run(task(p, labels, n=0, train=False, round=1, queued=trained.picks))
    assert result.measured is None
    assert {i: result.suggestions[i] for i in trained.picks} == {i: trained.suggestions[i] for i in trained.picks}
    assert (p.folder / "model.pt").read_bytes() == saved
    (p.folder / "model.pt").unlink()
    third = Engine(setup_of(p, "cpu"))
    third.load()
    again = third.run(task(p, labels, n=0, train=False, round=1, queued=trained.picks))
    assert again.suggestions == result.suggestions


@pytest.mark.parametrize("given", [FEATURES, PIXELS], ids=["features", "pixels"])
def test_images_that_cannot_be_read_are_named_and_never_picked(opened, tmp_path, given):
    root = make_folder(tmp_path / "DATA" / "birds", 30)
    for i in (0, 7, 29):
        (root / "unlabeled" / f"{i:03}.png").write_bytes(b"no image")
    p, engine, unreadable = opened(**given)
    assert sorted(unreadable) == [0, 7, 29]
    assert all(unreadable.values())
    labels = known(p, [i for i in range(15) if i not in unreadable])
    result = engine.run(task(p, labels, n=12, unreadable=unreadable))
    right = [s.label == truth(p.files[i].path) for i, s in result.suggestions.items()]
    assert np.mean(right) > 0.8  # rows and indices are not confused
    assert len(result.picks) == 12
    assert not {*result.picks} & {*unreadable}


def test_labels_in_folders_train_and_measure(opened, tmp_path):
    root = make_folder(tmp_path / "DATA" / "birds", 30)
    for part, idxs in (("train", range(12)), ("val", range(12, 18)), ("test", range(18, 24))):
        for i in idxs:
            folder = root / part / CLASSES[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (root / "unlabeled" / f"{i:03}.png").rename(folder / f"{i:03}.png")
    p, engine, _ = opened(**FEATURES)
    assert [f.path for f in p.files[:6]] == [f"unlabeled/{i:03}.png" for i in range(24, 30)]
    labels = p.labels()
    assert sorted(labels.values()) == [0] * 4 + [1] * 4 + [2] * 4
    result = engine.run(task(p, labels, n=3))
    assert result.measured.n_val == 6
    assert result.measured.row.metrics["accuracy"] > 0.6
    assert {*result.picks} <= {*range(6)}


def test_wrong_labels_are_doubted_first(opened):
    p, engine, _ = opened(**FEATURES)
    labels = known(p, range(60))
    wrong = {5: (labels[5] + 1) % 3, 31: (labels[31] + 2) % 3}
    doubts = engine.doubts(labels | wrong)
    assert len(doubts) == 60
    assert {d.index for d in doubts[:2]} == {*wrong}
    assert all(d.suggestion.label != wrong[d.index] for d in doubts[:2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy_name": "Nonsense"}, "--strategy_name Nonsense"),
        ({"strategy_args": ("k=3",)}, "--strategy_args k=3"),
        ({"initial_strategy": "MarginSampling"}, "--initial_strategy MarginSampling"),
        ({"net_name": "ResNet9"}, "--net_name ResNet9"),
        ({"features": "nothing"}, "--features nothing"),
        ({**PIXELS, "initial_strategy": "TypiClust"}, "needs --features"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_not_recorded(tmp_path, given, message):
    p = project(tmp_path, 12, **given)
    with pytest.raises(UserError, match=message):
        Engine(setup_of(p, "cpu"))
    assert not (p.folder / "config.json").exists()
    p.close()


def events_of(worker_queue, until, seconds=120):
    """Events up to the first of a kind."""
    found = []
    while not found or not isinstance(found[-1], until):
        found.append(worker_queue.get(timeout=seconds))
    return found


def test_the_training_process_does_tasks_and_ends_with_its_owner(tmp_path):
    p = project(tmp_path, 30, **FEATURES)
    events = queue.Queue()
    worker = TrainingProcess(setup_of(p, "cpu"), events.put)
    started = events_of(events, Ready)
    assert isinstance(started[0], Checked)
    assert all(isinstance(e, Preparing) for e in started[1:-1])
    worker.submit(task(p, known(p, range(12))))
    assert isinstance(events_of(events, Result)[-1], Result)
    worker._process.kill()
    failed = events_of(events, Failed)[-1]
    assert failed.final
    assert "was killed; is the memory full? Start label.py again" in failed.text
    worker.close()
    p.close()


def test_an_error_in_the_training_process_is_no_kill(tmp_path, capfd):
    p = project(tmp_path, 6, **FEATURES)
    events = queue.Queue()
    worker = TrainingProcess(setup_of(p, "cpu"), events.put)
    worker.submit("nonsense")
    failed = events_of(events, Failed)[-1]
    assert failed.final
    assert "ended by an error, which the terminal shows. Start label.py again" in failed.text
    worker.close()
    assert "AttributeError" in capfd.readouterr().err
    p.close()


def test_the_training_process_says_why_it_cannot_start(tmp_path):
    p = project(tmp_path, 6, strategy_name="Nonsense")
    events = queue.Queue()
    worker = TrainingProcess(setup_of(p, "cpu"), events.put)
    failed = events_of(events, Failed)[-1]
    assert failed.final
    assert "--strategy_name Nonsense" in failed.text
    worker._listener.join(30)
    assert events.empty()  # no other message replaces it
    worker.close()
    p.close()


def test_model_names_its_backbone(opened):
    p, engine, _ = opened(**FEATURES)
    engine.run(task(p, known(p, range(12))))
    content = torch.load(Path(p.folder / "model.pt"), weights_only=True)
    assert content["features_size"] == 32
    assert content["shape"] == [1280]


def test_sizes_of_images_may_differ(opened, tmp_path):
    root = make_folder(tmp_path / "DATA" / "birds", 12)
    Image.new("L", (50, 20)).save(root / "unlabeled" / "grey.png")
    _, _, unreadable = opened(**FEATURES)
    assert unreadable == {}
