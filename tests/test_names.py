"""Names that a terminal, a shell or a spreadsheet would obey: printed harmless, kept as they are in files."""

import csv
import json
import subprocess

import image_folders
import pytest
from experiments import Runner

import compare
import plot
import sweep
from sweep import quoted
from utils import UNPRINTABLE

DATASET = "=evil\x1b[2J\nerror: forged"
CLASSES = ("=1+1", "+cmd\x1b]0;x\x07", "@\r\nz")


@pytest.fixture
def evil(own_cache, tmp_path, capsys):
    """A run on images whose names hold all that could do harm, and what it printed."""
    image_folders.folder(tmp_path / "DATA" / DATASET, CLASSES)
    run = Runner(tmp_path / "DATA", tmp_path)
    code, folder = run(dataset_name=DATASET, img_size=image_folders.SIDE, n_init_labeled=3, n_round=1)
    assert code == 0
    return folder, capsys.readouterr(), run.words


def assert_harmless(printed):
    for text in (printed.out, printed.err):
        for line in text.split("\n"):
            assert not UNPRINTABLE.search(line), line
            assert not line.startswith("error: forged")


def test_scripts_print_names_harmless(evil, tmp_path, capsys):
    folder, printed, words = evil
    assert r"=evil\x1b[2J\nerror: forged" in printed.out
    assert_harmless(printed)
    results = tmp_path / "results"
    for script in (
        lambda: compare.main(
            [str(results), "--out", str(results / "\x1breport"), "--data_dir", str(tmp_path / "DATA")]
        ),
        lambda: plot.main([str(results), "--out", str(results / "\x1bfigure")]),
        lambda: plot.main([str(folder)]),
        lambda: sweep.main([*words, "--seed", "1-2", "--strategy_name", "RandomSampling", "--dry_run"]),
    ):
        assert script() == 0
        printed = capsys.readouterr()
        assert r"\x1b" in printed.out
        assert_harmless(printed)
    for wrong in ([str(results / "a\nerror: forged\x1b")], [str(folder), "--metric", "\x1b\nx"]):
        assert compare.main(wrong) == 2
        assert_harmless(capsys.readouterr())


def test_files_hold_names_as_they_are(evil, tmp_path):
    """Even those that a spreadsheet takes for formulas: a sign in front of them would be another name."""
    folder, _, _ = evil
    paths = {str(p.relative_to(tmp_path / "DATA" / DATASET)) for p in (tmp_path / "DATA" / DATASET).rglob("*.png")}
    for name, columns in (("queries.csv", ["label"]), ("predictions.csv", ["label", "predicted"])):
        with open(folder / name, newline="") as f:
            rows = list(csv.DictReader(f))
        assert {row["path"] for row in rows} <= paths
        assert {row[c] for row in rows for c in columns} <= set(CLASSES)
    with open(folder / "confusion_matrix.csv", newline="") as f:
        assert next(csv.reader(f))[1:] == sorted(CLASSES)
    assert json.loads((folder / "config.json").read_text())["dataset_name"] == DATASET
    assert compare.main([str(tmp_path / "results"), "--out", str(tmp_path / "report")]) == 0
    with open(tmp_path / "report" / "compare.csv", newline="") as f:
        assert [row["dataset_name"] for row in csv.DictReader(f)] == [DATASET]


@pytest.mark.parametrize(
    "word",
    ["plain", "a b", "it's", "", "new\nline", "\x1b[2J", "tab\t'quote'\\", "\udcff\udcfe", "é\x9b", "\u2028", "$x`y`"],
)
def test_a_command_to_copy_holds_no_control_character_and_means_the_same(word):
    text = quoted(word)
    assert not UNPRINTABLE.search(text)
    text.encode()
    done = subprocess.run(["bash", "-c", f"printf %s {text}"], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")
