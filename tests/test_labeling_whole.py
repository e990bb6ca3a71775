"""label.py as a person uses it, from a folder of real images to a model, with a crash in the middle."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import defects, opened
from labeling_person import Person
from PIL import Image

from images.digits import digit_images
from labeling.log import read_log, standing
from runs.format import MODEL

ROOT = Path(__file__).parent.parent
N = 150
CLASSES = [str(i) for i in range(10)]


@contextmanager
def labeling(folder, *flags):
    """label.py in a process of its own, which is killed in the end; the page's address and the process."""
    command = [sys.executable, "label.py", str(folder / "DATA" / "digits"), "--results_dir", str(folder / "results")]
    command += ["--port", "0", "--no_browser", "--device", "cpu", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=settings(folder)) as process:
        try:
            yield process.stdout.readline().rpartition(" ")[2].strip(), process
        finally:
            process.kill()


def settings(folder):
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "home")}


def run(folder, script, *args):
    """The lines that another script prints."""
    command = [sys.executable, script, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings(folder), timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of digits without labels, and the class of each path."""
    folder = tmp_path_factory.mktemp("whole")
    images, labels, _ = digit_images(8)
    (folder / "DATA" / "digits" / "unlabeled").mkdir(parents=True)
    truth = {}
    for i in range(N):
        truth[f"unlabeled/{i:03}.png"] = int(labels[i])
        Image.fromarray(images[i]).save(folder / "DATA" / "digits" / "unlabeled" / f"{i:03}.png")
    return folder, truth


def decisions(folder):
    """(path, action, label) of what stands, in any order."""
    votes = standing(read_log(folder / "results" / "labeling" / "digits" / "labels.csv")).votes
    return sorted((d.path, d.action, int(d.label) if d.label else None) for v in votes.values() for d in v.values())


def test_from_a_folder_to_a_model_through_a_crash(chromium, digits):
    folder, truth = digits
    flags = ["--classes", *CLASSES, "--features_size", "64", "--n_query", "20", "--n_val", "10"]
    with labeling(folder, *flags) as (url, process), opened(chromium, url) as visit:
        ada = Person(visit, "Ada", truth=truth.get)
        for k in range(30):
            ada.label()
            if k % 10 == 9:
                ada.undo()
            if k % 10 == 5 and k < 20:
                ada.command("skip", "s")
        for _ in range(15):  # while it trains
            ada.label()
        visit.page.locator("#curve circle").first.wait_for(timeout=100_000)
        visit.page.locator("#next", has_text="MarginSampling").wait_for()
        shown = grid(ada, truth)
        assert defects(visit) == []
        ada.settled()
        assert decisions(folder) == sorted(ada.done)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len({path for path, *_ in ada.done if path in shown}) == 12

    with labeling(folder) as (url, process), opened(chromium, url, 390, touch=True) as visit:
        later = Person(visit, "Ada", touch=True, truth=truth.get)
        for _ in range(5):
            later.label()
        later.undo()
        later.settled()
        assert defects(visit) == []
        assert decisions(folder) == sorted(ada.done + later.done)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130

    result = folder / "results" / "labeling" / "digits"
    run(folder, "label.py", "export", folder / "DATA" / "digits", "--results_dir", folder / "results",
        "--format", "imagefolder", "--out", folder / "export")  # fmt: skip
    exported = {str(p.relative_to(folder / "export")) for p in (folder / "export").rglob("*.png")}
    assert exported == {f"{label}/{path}" for path, action, label in decisions(folder) if action == "label"}
    unlabeled = folder / "DATA" / "digits" / "unlabeled"
    run(folder, "predict.py", result / MODEL, unlabeled, "--out", folder / "predictions.csv", "--device", "cpu")
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == N + 1


def grid(ada, truth):
    """Correct two images of a grid of twelve and all that are wrong, accept the rest; the paths shown."""
    images = ada.open_grid()
    assert len(images) == 12
    suggestion = int(ada.page.locator("#group").input_value())
    paths = {i: f"unlabeled/{i:03}.png" for i in images}
    wrong = [i for i in images if truth[paths[i]] != suggestion]
    chosen = (wrong + [i for i in images if i not in wrong])[: max(2, len(wrong))]
    for i in chosen:
        ada.page.click(f"#thumbs [data-index='{i}']")
        ada.page.click(f"#marked-classes [data-class='{truth[paths[i]]}']")
        ada.page.locator(f"#thumbs [data-index='{i}']").wait_for(state="detached")
    if len(chosen) < 12:
        ada.page.keyboard.press("Enter")
    ada.done += [(path, "label", truth[path]) for path in paths.values()]
    return {*paths.values()}
