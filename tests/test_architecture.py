"""Who may import whom, what each library is for, and how long a file may be: rules, not lists of files."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APART = ("tests", "benchmarks", "docs", "DATA", "results")
MAX_LINES = 420
# Folders and top-level modules from the ground up; what is not named, such as a new script, stands on top of all.
LAYERS = (
    "startup",
    "utils",
    "files",
    "runs",
    "images",
    "features",
    "data",
    "subsets",
    "nets",
    "training",
    "strategies",
    "report",
    "demo",
    "sweep",
)
# Pairs that stand beside each other: neither may import the other.
SEPARATE = (
    ("report", "training"),
    ("report", "strategies"),
    ("report", "nets"),
    ("report", "data"),
    ("report", "demo"),
)
WITHOUT_TORCH = ("startup", "utils", "files", "runs", "images", "report", "compare", "plot", "label", "labeling")
TRAINING = ("labeling.engine",)  # the process that trains is another one than that of the page
# The libraries that only some modules import, by the beginning of the module's name.
HOMES = {
    "matplotlib": ("report.figures",),
    "PIL": ("images.", "features.", "report.pictures", "labeling.pictures"),
    "jinja2": ("report.", "labeling."),
    "filelock": ("files",),
    "ray": ("runs.on_ray",),
    "argparse": ("utils",),  # and scripts
    "pickle": ("training.model_file", "features.weights"),  # for the name of the error that torch.load raises
    "timm": ("features.",),
    "safetensors": ("features.",),
    "starlette": ("labeling.",),
    "uvicorn": ("labeling.connections",),
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_paths():
    """All Python files of the product."""
    paths = sorted(ROOT.rglob("*.py"))
    return [p for p in paths if not {*APART} & {p.relative_to(ROOT).parts[0]} and not hidden(p)]


def hidden(path):
    return any(part.startswith(".") for part in path.relative_to(ROOT).parts)


MODULES = {module_name(p): p for p in source_paths()}
ALL = pytest.mark.parametrize("name", MODULES)


@cache
def tree(name):
    return ast.parse(MODULES[name].read_text("utf-8"))


@cache
def imported(name):
    """Names of all modules that a module imports, inside functions too, but not for types alone."""
    for_types = {
        id(node)
        for block in ast.walk(tree(name))
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    names = set()
    for node in ast.walk(tree(name)):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def ours(name):
    """The modules of the product that a module imports."""
    return {other for other in imported(name) if other in MODULES and other != name}


def is_script(name):
    return "." not in name and "__main__" in MODULES[name].read_text("utf-8")


def layer(name):
    top = name.split(".")[0]
    return LAYERS.index(top) if top in LAYERS else len(LAYERS)


@ALL
def test_a_file_is_short_enough_to_have_one_subject(name):
    assert len(MODULES[name].read_text("utf-8").splitlines()) <= MAX_LINES


@ALL
def test_imports_point_down(name):
    for other in ours(name):
        assert layer(other) <= layer(name), f"{name} imports {other}"
        pair = {name.split(".")[0], other.split(".")[0]}
        assert all(pair != set(separate) for separate in SEPARATE), f"{name} imports {other}"


def test_imports_go_in_no_circle():
    """Packages aside, whose __init__ is imported with every module in them."""
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in ours(name):
            if MODULES[other].name != "__init__.py":
                visit(other)
        path.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_folders_import_each_other_in_one_direction():
    """So strategies never import demo, nor nets the training."""
    above = {(layer(name), layer(other)) for name in MODULES for other in ours(name)}
    assert not [(a, b) for a, b in above if a != b and (b, a) in above]


@ALL
def test_libraries_stay_where_they_belong(name):
    libraries = {other.split(".")[0] for other in imported(name)}
    for library, homes in HOMES.items():
        at_home = name.startswith(homes) or (library == "argparse" and is_script(name))
        assert library not in libraries or at_home, f"{name} imports {library}"


@ALL
def test_errors_are_caught_by_name(name):
    for node in ast.walk(tree(name)):
        caught = [node.type] if isinstance(node, ast.ExceptHandler) else []
        if isinstance(node, ast.Call) and "suppress" in ast.dump(node.func):
            caught = node.args
        for error in caught:
            assert error is not None, "except without a name"
            assert not {"'Exception'", "'BaseException'"} & set(re.findall("'[^']*'", ast.dump(error)))


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("strategies")])
def test_no_strategy_names_a_device(name):
    text = MODULES[name].read_text("utf-8")
    assert ".cuda()" not in text
    assert 'device="' not in text


SHARED_NAMES = {"main", "parser", "run"}  # of scripts, which nobody imports


def test_two_things_never_share_a_name():
    """Public functions and classes of all modules."""
    seen = {}
    for name in MODULES:
        for node in tree(name).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                seen.setdefault(node.name, []).append(name)
    shared = {thing: places for thing, places in seen.items() if len(places) > 1}
    assert {t: p for t, p in shared.items() if t not in SHARED_NAMES} == {}


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_all_modules_import_on_systems_without_fork_and_fcntl():
    code = f"""
import importlib, os, sys
sys.modules["fcntl"] = None
for missing in ("fork", "forkpty", "sched_getaffinity"):
    vars(os).pop(missing, None)
for name in {list(MODULES)}:
    importlib.import_module(name)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_reading_results_and_images_needs_no_torch():
    names = [name for name in MODULES if name.split(".")[0] in WITHOUT_TORCH and name not in TRAINING]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print(*sorted(sys.modules))"
    done = python(code)
    assert set(names) <= set(done.stdout.split()), done.stderr
    assert not {"torch", "torchvision"} & set(done.stdout.split())


def test_reports_start_without_slow_libraries():
    slow = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "jinja2")
    done = python(f"import sys, compare, plot; print([name for name in {slow} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_an_experiment_starts_without_torchvision():
    done = python("import sys, demo; print([m for m in ('torchvision', 'matplotlib', 'sklearn') if m in sys.modules])")
    assert done.stdout == "[]\n", done.stdout + done.stderr
