"""Each example of docs/extending.md, pasted into a copy of the repository, passes ruff, mypy and the contract tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "extending.md").read_text("utf-8")
EDIT = re.compile(
    r"(?:Write the new file|In) `(?P<path>[^`]+)`"
    r"(?:, (?P<how>after|before|replace) the line `(?P<line>[^`\n]+)`,? (?:add|by)"
    r"(?P<gap> with two empty lines after it)?)?:\n\n"
    r"```(?:python|text|html)\n(?P<code>.*?)```\n",
    re.DOTALL,
)
# The files with the contract tests of what the guide adds.
CONTRACTS = (
    "test_strategies.py", "test_nets.py", "test_training_recipe.py", "test_runs_metrics.py", "test_data.py",
    "test_report_text.py", "test_runs_old_results.py", "test_architecture.py", "test_demo_first_round.py",
)  # fmt: skip


class Edit(NamedTuple):
    """One step of an example: a new file, or lines added to or replaced in an old one."""

    path: str
    how: str | None
    line: str | None
    code: str


def edits():
    """All steps of the guide, in order, by section."""
    sections = {}
    for section in re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]:
        found = [
            Edit(m["path"], m["how"], m["line"], m["code"] + "\n\n" * bool(m["gap"])) for m in EDIT.finditer(section)
        ]
        if found:
            sections[section.splitlines()[0]] = found
    return sections


def paste(root, edit):
    """Do one step in a copy of the repository, as a reader would."""
    path = root / edit.path
    if edit.how is None:
        assert not path.exists()
        path.write_text(edit.code, "utf-8")
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.rstrip("\n") == edit.line]
    assert len(places) == 1, f"{edit.path}: {len(places)} lines are {edit.line!r}"
    start, stop = {"after": (1, 1), "before": (0, 0), "replace": (0, 1)}[edit.how]
    lines[places[0] + start : places[0] + stop] = [edit.code]
    path.write_text("".join(lines), "utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with every example pasted."""
    root = tmp_path_factory.mktemp("copy") / "dalmax"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "DATA", "results", "*.pyc")
    shutil.copytree(ROOT, root, ignore=skipped)
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
    for steps in edits().values():
        for edit in steps:
            paste(root, edit)
    return root


def run(root, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_guide_has_an_example_for_every_kind_of_extension():
    titles = list(edits())
    assert titles == [
        "A strategy", "A network", "A metric", "A data set", "A training option", "A report view",
    ]  # fmt: skip
    n_blocks = len(re.findall(r"^```(?:python|text|html)$", GUIDE, re.MULTILINE))
    assert sum(map(len, edits().values())) == n_blocks  # no code that is not tested


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_pasted_examples_pass(tool, copy):
    done = run(copy, *tool)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_pasted_examples_pass_the_contract_tests(copy):
    names = "VariationRatio or AllCNN or brier or Galaxies or label_smoothing or old or architecture or view"
    tests = [f"tests/{name}" for name in CONTRACTS]
    done = run(copy, "pytest", "-x", "-p", "no:cacheprovider", "-k", names, *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 25
