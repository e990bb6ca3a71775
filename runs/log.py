"""What demo.py prints: a header that says what will run, and a line for each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runs.format import Round
from runs.metrics import METRICS
from utils import printable


def header(
    config: Mapping[str, Any], recipe: Mapping[str, Any], device: object, n_round: int, folder: Path, n_done: int
) -> str:
    """What will run, for a reader of the log.

    Args:
        config: of the run, as in config.json.
        recipe: how networks are trained, by the names of its fields.
        device: where.
        n_round: rounds of querying.
        folder: the run's.
        n_done: rounds that are committed already.
    """
    c = config
    columns = [f"{'round':>5}", f"{'labeled':>8}", *(f"{m:>9}" for m in METRICS), " train_s", "  eval_s", " query_s"]
    arguments = "".join(f" {k}={v}" for k, v in c["strategy_args"].items())
    steps = ", ".join(f"{name}={value}" for name, value in recipe.items())
    features = f", features of {c['features']}" if "features" in c else ""
    first = f" by {c['initial_strategy']}" if "initial_strategy" in c else ""
    lines = [
        f"# {c['dataset_name']}: {c['n_train']} training and {c['n_test']} test images of {c['img_size']} pixels"
        f"{features}, {c['n_classes']} classes",
        f"# {c['strategy_name']}{arguments}: {c['n_init_labeled']} labels{first}, then {n_round} x {c['n_query']}",
        f"# {c['net_name']}{' (pretrained)' if c['pretrained'] else ''} on {device}: {steps}",
        f"# seed {c['seed']}, results in {folder}" + (f"; {n_done} rounds are done already" if n_done else ""),
        "  ".join(columns),
    ]
    return "\n".join(map(printable, lines))


def line(r: Round) -> str:
    """One round, for a reader of the log."""
    metrics = (f"{r.metrics.get(m, float('nan')):9.4f}" for m in METRICS)
    seconds = (f"{s:8.1f}" for s in (r.train_seconds, r.eval_seconds, r.query_seconds))
    return "  ".join([f"{r.round:5d}", f"{r.n_labeled:8d}", *metrics, *seconds])
