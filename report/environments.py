"""Where the runs of a table were made, and what differs between these places that may affect the numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from report.comparison import Comparison
from runs.reading import Run

MOST_NAMED = 3  # runs in a note


def environment_notes(c: Comparison) -> list[str]:
    """What differs between the runs of a table, then between the starts of one run, a line each."""
    runs = [(f"{label}, seed {run.seed}", run) for label, of in c.runs.items() for run in of]
    return [*_notes_between([run for _, run in runs]), *_notes_within(runs)]


def _notes_between(runs: list[Run]) -> list[str]:
    found = [_facts(run.environment, run.config) for run in runs]
    notes = []
    for key in dict.fromkeys(k for facts in found for k in facts):
        values = Counter(facts[key] for facts in found if key in facts)
        unknown = len(runs) - values.total()
        if len(values) > 1:  # a value that is not recorded, by an older version, may be the same
            shown = [f"{n} x {v}" for v, n in values.most_common()] + [f"{unknown} x not recorded"] * (unknown > 0)
            notes.append(f"The runs differ in {key}, which may affect the numbers: {'; '.join(shown)}.")
    return notes


def _notes_within(runs: list[tuple[str, Run]]) -> list[str]:
    changed: dict[str, list[str]] = {}
    for name, run in runs:
        earlier = [start for start in run.environment.get("earlier", []) if isinstance(start, dict)]
        starts = [_facts(start, run.config) for start in [*earlier, run.environment]]
        for key in dict.fromkeys(k for facts in starts for k in facts):
            values = dict.fromkeys(facts[key] for facts in starts if key in facts)
            if len(values) > 1:
                changed.setdefault(key, []).append(f"{name} ({', then '.join(values)})")
    return [
        f"The starts of one run differ in {key}, which may affect its numbers: {'; '.join(names[:MOST_NAMED])}"
        + (f"; and {len(names) - MOST_NAMED} more." if len(names) > MOST_NAMED else ".")
        for key, names in changed.items()
    ]


def _facts(environment: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What numbers may depend on beside the configuration, by its name for a reader, as far as it is recorded."""
    facts = {name: environment.get(name) for name in ("device_name", "git_commit")}
    if environment.get("device") == "cpu":
        facts |= {"the CPU's model": environment.get("cpu"), "the number of threads": environment.get("threads")}
    if config.get("bf16") or config.get("score_bf16"):
        is_fast = environment.get("bfloat16")
        facts["the use of bfloat16"] = ("used" if is_fast else "not used") if isinstance(is_fast, bool) else None
    packages = environment.get("packages")
    facts |= packages if isinstance(packages, dict) else {}
    known = {name: str(value) for name, value in facts.items() if value is not None}
    return {name: re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}", r"\1", text) for name, text in known.items()}  # commits
