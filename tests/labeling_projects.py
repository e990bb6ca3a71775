"""Small folders to label, and sessions on them whose trainings are played by hand."""

from pathlib import Path

import numpy as np
from PIL import Image

from labeling.project import Project
from labeling.records import Measured
from labeling.session import Session
from labeling.work import Ready, Result, Suggestion
from runs.format import Round

CLASSES = ("duck", "gull", "heron")


def make_folder(root, n=40, size=8):
    """n images below root/unlabeled; the class of image i is i % 3, and its color shows it."""
    rng = np.random.default_rng(0)
    (root / "unlabeled").mkdir(parents=True)
    for i in range(n):
        pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
        pixels[..., i % 3] += 180
        Image.fromarray(pixels).save(root / "unlabeled" / f"{i:03}.png")
    return root


def truth(path):
    """The class of an image of `make_folder`."""
    return int(Path(path).stem) % 3


class Desk:
    """A project with a session; `answer_task` plays the training process."""

    def __init__(self, tmp_path, n=40, **given):
        self.root = tmp_path / "DATA" / "birds"
        if not self.root.exists():
            make_folder(self.root, n)
        self.results = tmp_path / "results"
        self.tasks = []
        self.now = 0.0
        self.given = {"classes": CLASSES, "n_query": 4, "n_val": 6, **given}
        self.open()

    def open(self, **session):
        """Start again, as after a kill."""
        self.tasks.clear()
        self.project = Project(self.root, self.results, self.given)
        self.project.save()
        self.session = Session(self.project, submit=self.tasks.append, clock=lambda: self.now, **session)

    def ready(self, unreadable=None):
        """The images are prepared; returns the tasks that follow."""
        self.session.receive(Ready(unreadable or {}))
        return self.tasks

    def answer_task(self, picks=None):
        """Answer the oldest task as a training process would that picks from the end, and finds all of class 1."""
        task = self.tasks.pop(0)
        picks = task.candidates[::-1][: task.n] if picks is None else picks
        known = {*picks, *task.candidates, *task.queued} if task.train or not task.n else set()
        suggestions = {i: Suggestion(1, 0.9, (1, 0, 2)) for i in known}
        measured = None
        if task.train:
            n_val = len(task.validation)
            row = Round(task.round, len(task.labels), {"val_accuracy": 0.5} if n_val else {}, 1.0, 0.1, 0.1)
            measured = Measured(row, n_val, n_val // 2, None if task.round == 0 else 0.9)
        groups = {1: [i for i in task.candidates if i not in picks]} if suggestions else {}
        self.session.receive(Result([*picks], None, suggestions, groups, measured))
        return task

    def close(self):
        """Let go of the folder."""
        self.project.close()
