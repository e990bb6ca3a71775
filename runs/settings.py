"""Which runs may stand in one table: settings equal but for strategy and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runs.reading import Run

BASELINE = "RandomSampling"
NOT_SET = "not set"  # stands for an option that a run does not record: it had its neutral value, or did not exist


@dataclass(frozen=True)
class Setting:
    """The runs that may stand in one table: everything equal but strategy and seed.

    Attributes:
        config: what all its runs share, with n_round and n_labeled (labels of each round).
        runs: by strategy label, RandomSampling first, then by name; seeds ascending, none twice.
        differs: the part of `config` in which the settings of this dataset differ.
    """

    config: dict[str, Any]
    runs: dict[str, list[Run]]
    differs: dict[str, Any]

    @property
    def title(self) -> str:
        """Dataset, budget and network in one line, then what tells this setting from its neighbours."""
        c = self.config
        labels = c["n_labeled"]
        budget = f"{labels[0]:,} labels, trained once"
        if len(labels) > 1:
            budget = f"{labels[0]:,} + {len(labels) - 1} x {labels[1] - labels[0]:,} labels"
        in_title = ("n_init_labeled", "n_query", "n_round", "n_labeled", "net_name", "dataset_name")
        parts = [c["dataset_name"], budget, *([str(c["net_name"])] if "net_name" in c else [])]
        return ", ".join(parts + [f"{k} {v}" for k, v in self.differs.items() if k not in in_title])

    def complete(self) -> dict[str, list[Run]]:
        """The finished runs by strategy label; strategies without any are absent."""
        done = {label: [r for r in runs if r.complete] for label, runs in self.runs.items()}
        return {label: runs for label, runs in done.items() if runs}

    def incomplete(self) -> list[tuple[str, Run]]:
        """The unfinished runs with their labels."""
        return [(label, r) for label, runs in self.runs.items() for r in runs if not r.complete]


def strategy_labels(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """A name for each strategy with its arguments; arguments are shown only where they tell two apart."""
    labels = {}
    for name in sorted({r.strategy[0] for r in runs}):
        variants = sorted({r.strategy[1] for r in runs if r.strategy[0] == name})
        parsed = [json.loads(v) for v in variants]
        keys = [k for k in sorted({k for p in parsed for k in p}) if any(p.get(k) != parsed[0].get(k) for p in parsed)]
        for variant, args in zip(variants, parsed, strict=True):
            shown = ", ".join(f"{k}={args[k]}" for k in keys if k in args)
            labels[name, variant] = f"{name}({shown})" if shown else name
    return labels


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(k for c in configs for k in c)
    return [k for k in keys if any(c.get(k) != configs[0].get(k) for c in configs)]


def group(runs: Sequence[Run]) -> tuple[list[Setting], list[str]]:
    """Sort runs into settings: no two runs of one setting differ in anything but strategy and seed.

    Metrics do not count: runs of an older version, which measured fewer, stand beside new ones. Nor do options at
    their neutral value, as no version records them.

    Returns:
        The settings by dataset, and one line about each run that exists twice.
    """
    labels, problems = strategy_labels(runs), []
    by_key: dict[str, dict[tuple[str, int], Run]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: (not r.complete, r.folder)):
        own = {k: v for k, v in run.config.items() if k not in ("strategy_name", "strategy_args", "seed")}
        config = {**own, "n_round": len(run.budget) - 1, "n_labeled": run.budget}
        key = json.dumps(config, sort_keys=True)
        configs[key] = config
        first = by_key.setdefault(key, {}).setdefault((labels[run.strategy], run.seed), run)
        if first is not run:
            problems.append(f"{run.folder} is the same experiment as {first.folder}; left out")
    settings = []
    for key in sorted(by_key, key=lambda k: (configs[k]["dataset_name"], configs[k]["n_labeled"], k)):
        config = configs[key]
        neighbours = [c for c in configs.values() if c["dataset_name"] == config["dataset_name"]]
        by_label: dict[str, list[Run]] = {}
        for label, seed in sorted(by_key[key], key=lambda k: (k[0] != BASELINE, k)):
            by_label.setdefault(label, []).append(by_key[key][label, seed])
        settings.append(Setting(config, by_label, {k: config.get(k, NOT_SET) for k in _differing(neighbours)}))
    return settings, problems


def differences(settings: Sequence[Setting]) -> list[str]:
    """One line for each way in which settings of one dataset differ, with the numbers of the settings, from 1."""
    lines = []
    for dataset in dict.fromkeys(s.config["dataset_name"] for s in settings):
        numbered = [(i, s) for i, s in enumerate(settings, 1) if s.config["dataset_name"] == dataset]
        for key in numbered[0][1].differs:
            if key == "n_labeled" and numbered[0][1].differs.keys() & {"n_init_labeled", "n_query", "n_round"}:
                continue  # it follows from these
            values: dict[str, list[str]] = {}
            for i, s in numbered:
                values.setdefault(str(s.differs[key]), []).append(str(i))
            lines.append(f"{dataset}: {key} is " + ", ".join(f"{v} in {' and '.join(n)}" for v, n in values.items()))
    return lines
