"""Who may import whom, and what each library is for."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [p for p in [*ROOT.glob("*.py"), *(ROOT / "strategies").glob("*.py")] if not p.name.startswith(".")]
LAYERS = [
    "utils", "data", "nets", "strategies.scores", "strategies.base", "strategies.*", "strategies", "demo", "sweep",
]  # fmt: skip
HOME = {"matplotlib": {"plot.py"}, "PIL": {"data.py"}}
SCRIPTS = {"utils.py", "demo.py", "plot.py", "compare.py", "sweep.py"}


def imported(path):
    """Names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def layer(name):
    if name in LAYERS:
        return LAYERS.index(name)
    return LAYERS.index("strategies.*") if name.startswith("strategies.") else None


def own_name(path):
    if path.parent.name == "strategies":
        return "strategies" if path.name == "__init__.py" else f"strategies.{path.stem}"
    return path.stem


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_imports_point_down_the_layers(path):
    own = layer(own_name(path))
    if own is None:  # plot, compare, runs: beside the experiment, on utils
        allowed = {"utils", "runs", "plot", "compare", "data"}
        ours = {p.stem for p in ROOT.glob("*.py")} | {"strategies"}
        assert {n.split(".")[0] for n in imported(path)} & ours <= allowed
        return
    for name in imported(path) - {"strategies"} if own_name(path).startswith("strategies.") else imported(path):
        other = layer(name)
        if other is not None and name != own_name(path):
            assert other < own or (other == own == LAYERS.index("strategies.*")), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_libraries_stay_where_they_belong(path):
    top = {name.split(".")[0] for name in imported(path)}
    for library, homes in HOME.items():
        assert library not in top or path.name in homes
    assert "argparse" not in top or path.name in SCRIPTS
    assert "pickle" not in top or path.name == "nets.py"  # for the name of the error that torch.load raises


def test_no_strategy_names_a_device():
    for path in (ROOT / "strategies").glob("*.py"):
        text = path.read_text()
        assert ".cuda()" not in text
        assert 'device="' not in text
