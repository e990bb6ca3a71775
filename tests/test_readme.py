"""Every command of the README works, and its names and links exist."""

import re
import shlex
from pathlib import Path

import fake_results
import pytest
import small

import compare
import demo
import plot
import sweep
from strategies import GROUPS, STRATEGIES

ROOT = Path(demo.__file__).parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("python ")]
SMALL = [
    "--n_round", "1", "--n_query", "4", "--n_init_labeled", "6", "--n_epoch", "1", "--min_steps", "2",
    "--net_name", "SmallCNN", "--img_size", "16",
]  # fmt: skip


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python demo.py")])
def test_demo_command_runs_on_a_small_scale(command, tmp_path):
    small.image_folder(tmp_path / "DATA" / "CIFAR10")
    small.image_folder(tmp_path / "DATA" / "DaninhasDataset")
    where = ["--data_dir", str(tmp_path / "DATA"), "--results_dir", str(tmp_path / "results"), "--device", "cpu"]
    assert demo.main([*shlex.split(command)[2:], *SMALL, *where]) == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python sweep.py")])
def test_sweep_command_is_understood(command, tmp_path, capsys):
    small.image_folder(tmp_path / "DATA" / "CIFAR10")
    where = ["--data_dir", str(tmp_path / "DATA"), "--results_dir", str(tmp_path / "results"), "--dry_run"]
    sizes = [] if "Digits" in command else ["--n_init_labeled", "6", "--n_query", "4"]
    words = [*shlex.split(command)[2:], *sizes, *where]
    given = sweep.parser().parse_known_args(words)[0]
    assert sweep.main(words) == 0
    n_runs = len(GROUPS[given.strategy_name[0]]) * len(sweep.seeds(given.seed))
    assert n_runs >= 50
    assert capsys.readouterr().out.count("demo.py") == n_runs


@pytest.mark.parametrize("script", [plot, compare])
def test_plot_and_compare_commands_run(script, tmp_path):
    name = script.__name__
    fake_results.write_run(tmp_path / "results", "RandomSampling", 1, [0.5, 0.6])
    commands = [c for c in COMMANDS if c.startswith(f"python {name}.py")]
    assert commands
    for command in commands:
        words = shlex.split(command)[2:]
        out = ["--out", str(tmp_path / "out")]
        assert (
            script.main([str(tmp_path / "results"), *[w for w in words[1:] if w not in ("--out", "report")], *out]) == 0
        )


def test_readme_shows_commands():
    assert len(COMMANDS) >= 3
    assert "make demo" in README
    assert "make test" in README


def test_readme_names_only_strategies_and_flags_that_exist(capsys):
    """The other way round would demand an edit of the README for every new member."""
    named = re.findall(r"^\| `(\w+)` \|", README.split("## Strategies")[1].split("\n## ")[0], re.MULTILINE)
    assert len(named) >= 11
    assert set(named) <= set(STRATEGIES)
    flags = set(re.findall(r"`?(--[a-z_]+)", "".join(re.findall(r"`[^`\n]+`", README))))
    helps = "".join(script.parser().format_help() for script in (demo, sweep))
    for script in (plot, compare):
        with pytest.raises(SystemExit):
            script.main(["--help"])
    helps += capsys.readouterr().out
    assert flags
    assert all(flag in helps for flag in flags), flags


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_a_document_links_are_there(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), target
