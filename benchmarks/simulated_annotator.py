"""label.py with a simulated annotator: what 300 labels buy, by an active strategy and by chance.

Usage: simulated_annotator.py [--tiny] [--data_dir DIR] [--dataset_name NAME] [--features_size PIXELS] [--n N]
                              [--error SHARE] [--seeds N] [--strategies NAME ...]

The training images of a data set become a folder of unlabeled images with names that say nothing. For each seed and
strategy, label.py is started and answered over HTTP like a page does: with the true class, or with another one in
`--error` of the answers. The annotator waits for a training that is due, as a person would be slower than it. N labels
train; those of validation images come on top. In the end predict.py classifies the test images, which label.py never
saw. RandomSampling also draws its first images at random; the others start with TypiClust.

Without the data set, or with --tiny, small noise images are used, and accuracies mean nothing.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measuring  # noqa: F401  # makes the product importable
import numpy as np
from PIL import Image
from scipy import stats

from images.listing import folder_of

ROOT = Path(__file__).parent.parent
Truth = dict[str, str]  # class name by path


class Client:
    """Talks to a label.py that it starts.

    Args:
        arguments: of label.py.
        folder: where it runs.

    Attributes:
        url: the page's address, with its token.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        command = [sys.executable, str(ROOT / "label.py"), *arguments, "--port", "0", "--no_browser"]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"(http://[^/]+)/#token=(\S+)", self._process.stdout.readline())
        if not found:
            sys.exit("label.py did not start")
        self.url, self._address, self._token = found[0], found[1], found[2]

    def call(self, path: str, content: Any = None) -> Any:
        """What the server answers to a GET, or to a POST where there is content."""
        headers = {"Authorization": f"Bearer {self._token}", "Origin": self._address}
        data = None if content is None else json.dumps(content).encode()
        if data:
            headers["Content-Type"] = "application/json"
        with urllib.request.urlopen(urllib.request.Request(self._address + path, data, headers)) as response:
            return json.load(response)

    def close(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()


def unlabeled_folder(images: Path, target: Path) -> tuple[Truth, list[str]]:
    """Links to the training images under names that say nothing. Returns the truth by path, and the class names."""
    truth: Truth = {}
    (target / "unlabeled").mkdir(parents=True)
    for path in sorted((images / "train").rglob("*.*")):
        name = hashlib.sha256(str(path.relative_to(images)).encode()).hexdigest()[:16] + path.suffix
        os.symlink(path.resolve(), target / "unlabeled" / name)
        truth[f"unlabeled/{name}"] = path.relative_to(images / "train").parts[0]
    return truth, sorted({*truth.values()})


def annotate(client: Client, truth: Truth, classes: list[str], n: int, error: float, rng: random.Random) -> int:
    """Answer until n labels train. Returns the answers given."""
    n_answers = 0
    while True:
        progress = client.call("/api/progress?annotator=robot")
        if progress["work"]["state"] == "failed":
            sys.exit(f"label.py failed: {progress['work']['text']}")
        if progress["work"]["state"] != "idle":
            time.sleep(0.05)
            continue
        if progress["n_labeled"] - progress["validation"]["done"] >= n:
            return n_answers
        (item,) = client.call("/api/items?annotator=robot&n=1")["items"]
        label = classes.index(truth[item["path"]])
        if rng.random() < error:
            label = rng.choice([c for c in range(len(classes)) if c != label])
        answer = {"key": item["key"], "action": "label", "label": label, "seconds": 1.0}
        client.call("/api/answers", {"annotator": "robot", "answers": [answer]})
        n_answers += 1


def one_run(
    project: Path, images: Path, truth: Truth, classes: list[str], flags: argparse.Namespace, *which: Any
) -> float:
    """Accuracy on the test images after one session of labeling."""
    strategy, seed = which
    folder = project.parent.parent
    shutil.rmtree(folder / "results", ignore_errors=True)
    initial = "RandomSampling" if strategy == "RandomSampling" else "TypiClust"
    settings = ["--strategy_name", strategy, "--initial_strategy", initial, "--seed", str(seed)]
    settings += ["--features_size", str(flags.features_size), "--n_query", "20", "--n_val", str(flags.n_val)]
    client = Client([str(project), "--classes", *classes, *settings], folder)
    annotate(client, truth, classes, flags.n, flags.error, random.Random(seed))
    client.close()
    model, out = folder / "results" / "labeling" / project.name / "model.pt", folder / "predictions.csv"
    predict = [sys.executable, str(ROOT / "predict.py"), str(model), str(images / "test"), "--out", str(out)]
    subprocess.run(predict, check=True, capture_output=True)
    with open(out, newline="") as f:
        right = [row["class"] == row["path"].split("/")[0] for row in csv.DictReader(f)]
    return float(np.mean(right))


@contextmanager
def noise() -> Iterator[Path]:
    """A small data set of noise."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(40):
            path = Path(folder, "noise", ("train", "test")[i % 4 == 0], f"class{i // 4 % 2}", f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        yield Path(folder, "noise")


def main() -> None:
    """Read the flags, and find the images."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tiny", action="store_true")
    p.add_argument("--data_dir", type=Path, default=ROOT / "DATA")
    p.add_argument("--dataset_name", default="seedlings")
    p.add_argument("--features_size", type=int, default=160)
    p.add_argument("--n", type=int, default=300)
    p.add_argument("--n_val", type=int, default=50)
    p.add_argument("--error", type=float, default=0.01)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--strategies", nargs="+", default=["RandomSampling", "MarginSampling"])
    flags = p.parse_args()
    images = folder_of(flags.dataset_name, flags.data_dir)
    if flags.tiny or images is None:
        flags.n, flags.n_val, flags.seeds, flags.features_size = 20, 4, 1, 32
        with noise() as images:
            compare(images, flags)
    else:
        compare(images, flags)


def compare(images: Path, flags: argparse.Namespace) -> None:
    """Print the accuracy of each run, and each strategy against the first."""
    print(f"{images.name}, {flags.n} labels, {flags.error:.0%} of them wrong, {flags.features_size} px")
    print(f"{'strategy':<24} {'seed':>4}  accuracy on the test images, %")
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary, "DATA", "images")
        truth, classes = unlabeled_folder(images, project)
        found: dict[str, list[float]] = {}
        for strategy in flags.strategies:
            for seed in range(1, flags.seeds + 1):
                found.setdefault(strategy, []).append(one_run(project, images, truth, classes, flags, strategy, seed))
                print(f"{strategy:<24} {seed:>4}  {100 * found[strategy][-1]:.2f}", flush=True)
    first = np.array(found[flags.strategies[0]])
    for strategy, values in found.items():
        line = f"{strategy:<24} mean  {100 * np.mean(values):.2f}"
        if strategy != flags.strategies[0] and flags.seeds > 1:
            test = stats.ttest_rel(values, first)
            low, high = test.confidence_interval()
            line += f", {100 * np.mean(np.array(values) - first):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            line += f" against {flags.strategies[0]}, p = {test.pvalue:.3f}"
        print(line)


if __name__ == "__main__":
    main()
