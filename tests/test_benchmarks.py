"""The benchmarks still run: their numbers mean nothing here, what they compare is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "cases", "checks"),
    [
        (
            "selection",
            ["k-means", "k-center", "BADGE", "DeepFool"],
            ["25 of 25 picks as in float64", "Spearman 1.0000"],
        ),
        (
            "training",
            ["training", "scoring", "BALD"],
            [r"probabilities within \de-0[789]", r"scores within \de-0[678]"],
        ),
        ("scale", ["second start", "ClusterBasedSelection", "BADGE"], []),
        ("gpu", ["training", "query, AdversarialBIM", "demo.py, ResNet9"], ["same class for 100.00 %"]),
    ],
)
def test_benchmark_runs_in_its_tiny_mode(name, cases, checks, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--tiny", "--data_dir", tmp_path]
    if name == "scale":
        command = command[:3]
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[1])[0] in ("case", "strategy")
    assert all(any(line.startswith(case) for line in lines) for case in cases), done.stdout
    assert all(re.search(check, done.stdout) for check in checks), done.stdout
