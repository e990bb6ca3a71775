"""Answers that the labeling page's server takes, over HTTP, while it trains and other processes use every core.

Usage: labeling.py [--tiny] [--rate ANSWERS_A_SECOND] [--seconds S] [--annotators N] [--n_images N] [--no_load]

label.py serves a folder of noise with frozen features and trains after every 20 labels, which at this rate means all
the time. Each annotator does what the page does: asks for images, fetches the picture of each, sends an answer, waits
until it is acknowledged, which is when it is on the disk. The load is one busy process a core, as nice as a training.
Seconds are those of the slowest 1 % of the answers (p99); the remark has all others.
"""

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import header, row

from utils import n_cores

ROOT = Path(__file__).parent.parent
BURN = "import os; os.nice(10)\nwhile True: sum(range(1000))"
CLASSES = ("duck", "gull", "heron")


def make_images(folder: Path, n: int) -> None:
    """JPEGs as small cameras make them; the class of image i is i % 3, and its color shows it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = rng.integers(0, 100, (30, 40, 3), np.uint8)
        pixels[..., i % 3] += 100
        Image.fromarray(pixels).resize((640, 480)).save(folder / f"{i:05}.jpg")


class Client:
    """One annotator's connection."""

    def __init__(self, url: str, name: str) -> None:
        self.origin, _, token = url.partition("/#token=")
        self.headers = {"Authorization": f"Bearer {token}", "Origin": self.origin}
        self.connection = http.client.HTTPConnection(self.origin.removeprefix("http://"), timeout=60)
        self.name = name

    def ask(self, path: str, content: object = None) -> tuple[bytes, float]:
        """What came back, and the seconds that it took."""
        headers = self.headers | ({"Content-Type": "application/json"} if content else {})
        body = json.dumps(content) if content else None
        start = time.perf_counter()
        self.connection.request("POST" if content else "GET", path, body, headers)
        reply = self.connection.getresponse()
        read = reply.read()
        assert reply.status == 200, read
        return read, time.perf_counter() - start

    def label(self, n: int, interval: float, seconds: dict[str, list[float]]) -> None:
        """Label n images, one every `interval` seconds or, if that is 0, as fast as possible."""
        items: list[dict] = []
        due = time.perf_counter()
        for _ in range(n):
            if not items:
                read, taken = self.ask(f"/api/items?annotator={self.name}&n=16")
                items = json.loads(read)["items"]
                seconds["items"].append(taken)
                if not items:
                    return
            item = items.pop(0)
            seconds["pictures"].append(self.ask(f"/api/images/{item['index']}")[1])
            due += interval
            time.sleep(max(0.0, due - time.perf_counter()))
            answer = {"key": item["key"], "action": "label", "label": item["index"] % 3, "seconds": 1}
            seconds["answers"].append(self.ask("/api/answers", {"annotator": self.name, "answers": [answer]})[1])


def measure(url: str, case: str, n_annotators: int, rate: float, n: int) -> None:
    """Let some annotators label n images together, and print the line."""
    seconds: dict[str, list[float]] = {"answers": [], "items": [], "pictures": []}
    interval = n_annotators / rate if rate else 0.0
    clients = [Client(url, f"{case.split()[-1]}{i}") for i in range(n_annotators)]
    threads = [threading.Thread(target=c.label, args=(n // n_annotators, interval, seconds)) for c in clients]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    state = json.loads(clients[0].ask(f"/api/progress?annotator={clients[0].name}")[0])
    parts = []
    for name, found in seconds.items():
        p50, p99 = np.percentile(found, (50, 99)) * 1000
        parts.append(f"{name} {p50:.1f}/{p99:.1f}")
    rounds = len(state["curve"])
    remark = (
        f"{len(seconds['answers']) / taken:.1f} answers a second; p50/p99 ms: {', '.join(parts)}; {rounds} trainings"
    )
    p99 = float(np.percentile(seconds["answers"], 99))
    row(case, f"{n_annotators} annotators, {n} answers", p99, None, 0.0, remark)


@contextlib.contextmanager
def serving(folder: Path, n: int):
    """The address of a page whose images are prepared."""
    make_images(folder / "DATA" / "birds" / "unlabeled", n)
    flags = [str(folder / "DATA" / "birds"), "--classes", *CLASSES, "--features_size", "64", "--n_val", "20"]
    flags += ["--n_query", "20", "--port", "0", "--no_browser", "--results_dir", str(folder / "results")]
    command = [sys.executable, "label.py", *flags, "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().rpartition(" ")[2].strip()
            client = Client(url, "x")
            while json.loads(client.ask("/api/progress?annotator=x")[0])["work"]["state"] == "embedding":
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tiny", action="store_true", help="few images, to see that it runs")
    flags.add_argument("--rate", type=float, default=50.0)
    flags.add_argument("--seconds", type=float, default=20.0)
    flags.add_argument("--annotators", type=int, default=4)
    flags.add_argument("--n_images", type=int, default=3000)
    flags.add_argument("--no_load", action="store_true")
    flags.add_argument("--data_dir", help="not used: all images are made")
    args = flags.parse_args()
    if args.tiny:
        args.n_images, args.seconds = 120, 1.0
    n = min(round(args.rate * args.seconds), args.n_images // 3)
    load = "no other load" if args.no_load else f"{n_cores()} busy processes"
    header(f"{n_cores()} cores, {load}, seconds")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(serving(folder, args.n_images))
        for _ in range(0 if args.no_load else n_cores()):
            process = subprocess.Popen([sys.executable, "-c", BURN], env={**os.environ, "OMP_NUM_THREADS": "1"})
            stack.callback(process.kill)
        measure(url, f"answers, {args.rate:.0f} a second", args.annotators, args.rate, n)
        measure(url, "answers, as fast as possible", args.annotators, 0.0, n)


if __name__ == "__main__":
    main()
