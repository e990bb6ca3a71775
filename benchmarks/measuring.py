"""What the benchmarks share: a clock, peak memory, and the format of the table."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import ImageData
from nets import NETS, Net

LONG_SECONDS = 30  # anything slower is timed once


def on_cpu(threads: int) -> str:
    """Threads, CPU features and unit of time, for `header`."""
    clock = "CPU-seconds" if threads == 1 else "seconds"
    return f"{threads} threads, {torch.backends.cpu.get_cpu_capability()}, {clock}"


def cpu_seconds() -> float:
    """User and system time of this process and of its ended children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def forget_peak() -> None:
    """Measure the peak memory from here on, where the system can (Linux)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Most memory this process held since `forget_peak`, mapped files included, in GB."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e6


def built(name: str, data: ImageData, dropout: float) -> Net:
    """A new network of NETS for the images of a data set, which knows their statistics."""
    net = NETS[name].build(data.train.inputs.shape, len(data.classes), dropout, False)
    net.set_input_stats(data.mean, data.std)
    return net


class Timer:
    """Seconds and peak memory of a call: CPU-seconds with one thread, else seconds on the wall."""

    def __init__(self, threads: int, repeats: int) -> None:
        self.clock = cpu_seconds if threads == 1 else time.perf_counter
        self.repeats = repeats

    def once(self, f: Callable[[], Any]) -> tuple[float, Any, float]:
        """Seconds, the result, and the peak memory in GB."""
        forget_peak()
        start = self.clock()
        result = f()
        return self.clock() - start, result, peak_memory()

    def compare(self, ours: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float, float, Any, Any]:
        """Run both in turn. Returns median seconds of ours and of the other, peak memory of ours, both results."""
        times: list[tuple[float, float]] = []
        while len(times) < self.repeats:
            our_seconds, our_result, peak = self.once(ours)
            other_seconds, other_result, _ = self.once(other)
            times.append((our_seconds, other_seconds))
            if other_seconds > LONG_SECONDS:
                break
        our_seconds, other_seconds = np.median(times, axis=0)
        return our_seconds, other_seconds, peak, our_result, other_result


def header(machine: str) -> None:
    """The first lines of a table."""
    print(f"torch {torch.__version__}, {machine}")
    print(f"{'case':<47} {'size':<32} {'ours':>9} {'other':>9} {'ratio':>7} {'GB':>6}", flush=True)


def row(case: str, size: str, ours: float, other: float | None, peak: float, remark: str) -> None:
    """One line of the table; `other` is None where there is nothing to compare with."""
    compared = f"{'-':>9} {'-':>7}" if other is None else f"{other:>9.3g} {other / ours:>7.2f}"
    print(f"{case:<47} {size:<32} {ours:>9.3g} {compared} {peak:>6.2f}  {remark}", flush=True)
