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
            ["training", "scoring", "MarginSampling, screened", "BALD"],
            [r"100 of 100 picks the same", r"probabilities within \de-0[789]", r"scores within \de-0[678]"],
        ),
        ("scale", ["second start", "ClusterBasedSelection", "BADGE"], []),
        ("accuracy", ["training, SmallCNN"], ["test accuracy 0"]),
        ("many_runs", ["2 runs by sweep.py", "overhead of each run"], ["2 of 2 runs with the same picks"]),
        (
            "noise",
            ["normal", "50 test images", "a gain of 0.5 points", "gain found with 80 %", "a gain of 1 point, skewed"],
            ["288 of 288 tables as compare_strategies has them"],
        ),
        (
            "features",
            ["embedding", "second start", "linear probe"],
            [r"least cosine with other 0\.99", "the same digest", "test accuracy"],
        ),
        (
            "modern_candidates",
            ["DropQuery", "ALFAMix", "FALCUN", "MarginSampling, noise=power"],
            ["100.00 % of images the same"],
        ),
        (
            "modern_coverage",
            ["TypiClust", "MaxHerding / all kernels, float64", "UHerding, whole pool", "ClusterMargin, whole pool"],
            ["5 of 5 picks the same"],
        ),
        (
            "modern_information",
            ["BAIT", "query, BAIT", "EPIG", "BatchBALD", "query, BatchBALD"],
            ["1 of 1 picks as in float64", "scores within .e-0[789]", "4 of 4 picks the same"],
        ),
        ("simulated_annotator", ["RandomSampling", "MarginSampling"], [r"MarginSampling +mean +\d+\.\d"]),
        ("gpu", ["training", "query, AdversarialBIM", "demo.py, ResNet9"], ["same class for 100.00 %"]),
    ],
)
def test_benchmark_runs(name, cases, checks, tmp_path):
    words = {"scale": ["--tiny"], "accuracy": ["SmallCNN", "--dataset_name", "Digits", "--n_labeled", "30"]}
    words["noise"] = ["--tiny", "--figure", str(tmp_path / "noise.png")]
    words["modern_candidates"] = words["modern_information"] = words["modern_coverage"] = ["--tiny"]
    words["many_runs"] = ["--n_runs", "2", "--min_steps", "2"]
    arguments = words.get(name, ["--tiny", "--data_dir", str(tmp_path)])
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[1])[0] in ("case", "strategy")
    assert all(any(line.startswith(case) for line in lines) for case in cases), done.stdout
    assert all(re.search(check, done.stdout) for check in checks), done.stdout
