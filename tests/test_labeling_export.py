"""Labels and picks for other tools: what is written is read again, and nothing of others is touched."""

import csv
import json
import os
import xml.etree.ElementTree as ElementTree
from urllib.parse import unquote

import pytest
from small_run import NAMES

from labeling import export
from labeling.export import (
    Labeled,
    export_csv,
    export_fiftyone,
    export_huggingface,
    export_imagefolder,
    export_labelstudio,
    write_picks,
)
from labeling.ingest import Given, read_labels
from labeling.label_studio import image_url, labeling_config
from labeling.records import Ranked
from utils import UserError

PATHS = ["unlabeled/a.jpg", "unlabeled/deep/a.jpg", "unlabeled/b.jpg", "train/heron/a.jpg", "c%2F.jpg"]
CLASSES = ["heron", "duck"]
LABELED = [
    Labeled(PATHS[0], "heron", "train"),
    Labeled(PATHS[1], "heron", "train"),
    Labeled(PATHS[2], "duck", "val"),
    Labeled(PATHS[3], "heron", "test"),
    Labeled(PATHS[4], "", ""),
]
GIVEN = {Given(e.path, e.label, "", "label") for e in LABELED if e.label}
FOLDERS = {"imagefolder": export_imagefolder, "fiftyone": export_fiftyone, "huggingface": export_huggingface}


@pytest.fixture
def birds(tmp_path, no_fsync):
    """The folder of a data set."""
    root = tmp_path / "DATA" / "birds"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def files(folder):
    """Content by path below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_was_exported_is_ingested_whole(birds, tmp_path, make):
    before = files(birds)
    make(LABELED, birds, tmp_path / "out")
    assert {*read_labels(tmp_path / "out", CLASSES, PATHS)} == GIVEN
    assert files(birds) == before
    assert {p.name for p in tmp_path.iterdir()} == {"DATA", "out"}


def test_each_tool_gets_the_folders_that_it_reads(birds, tmp_path):
    for name, make in FOLDERS.items():
        make(LABELED, birds, tmp_path / name)
    by_class = {f"{e.label}/{e.path}": e.path.encode() for e in LABELED if e.label}
    assert files(tmp_path / "imagefolder") == by_class
    assert files(tmp_path / "fiftyone") == {**by_class, f"_unlabeled/{PATHS[4]}": PATHS[4].encode()}
    assert files(tmp_path / "huggingface") == {
        "train/heron/unlabeled%2Fa.jpg": PATHS[0].encode(),
        "train/heron/unlabeled%2Fdeep%2Fa.jpg": PATHS[1].encode(),
        "validation/duck/b.jpg": PATHS[2].encode(),
        "test/heron/train%2Fheron%2Fa.jpg": PATHS[3].encode(),
    }


def test_names_that_differ_in_case_do_not_meet(birds, tmp_path):
    for name in ("x/d.jpg", "y/D.JPG"):
        (birds / name).parent.mkdir()
        (birds / name).write_bytes(b"other")
    labeled = [Labeled("x/d.jpg", "heron", "train"), Labeled("y/D.JPG", "heron", "train")]
    export_huggingface(labeled, birds, tmp_path / "out")
    names = [p.name.casefold() for p in (tmp_path / "out/train/heron").iterdir()]
    assert len({*names}) == 2


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_the_same_export_twice_changes_nothing_and_another_is_refused(birds, tmp_path, make):
    out = tmp_path / "out"
    out.mkdir()  # empty
    make(LABELED, birds, out)
    stamps = {p: os.stat(p).st_mtime_ns for p in [out, *out.rglob("*")]}
    make(LABELED, birds, out)
    assert {p: os.stat(p).st_mtime_ns for p in [out, *out.rglob("*")]} == stamps
    for other in (LABELED[:-3], [*LABELED[1:], Labeled(PATHS[0], "duck", "train")]):
        with pytest.raises(UserError, match="exists and is something else"):
            make(other, birds, out)
    assert {p: os.stat(p).st_mtime_ns for p in [out, *out.rglob("*")]} == stamps
    changed = next(p for p in out.rglob("*b.jpg"))
    changed.unlink()
    changed.write_bytes(b"other")
    with pytest.raises(UserError, match="is another image"):
        make(LABELED, birds, out)


def test_images_are_links_or_copies(birds, tmp_path, monkeypatch):
    export_imagefolder(LABELED, birds, tmp_path / "linked")
    assert os.path.samefile(tmp_path / "linked/heron" / PATHS[0], birds / PATHS[0])

    def no_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    export_imagefolder(LABELED, birds, tmp_path / "copied")
    assert files(tmp_path / "copied") == files(tmp_path / "linked")
    assert not os.path.samefile(tmp_path / "copied/heron" / PATHS[0], birds / PATHS[0])
    export_imagefolder(LABELED, birds, tmp_path / "copied")


def test_a_link_in_the_data_set_is_exported_as_its_image(birds, tmp_path):
    (birds / "unlabeled/link.jpg").symlink_to("b.jpg")
    export_imagefolder([Labeled("unlabeled/link.jpg", "duck", "train")], birds, tmp_path / "out")
    exported = tmp_path / "out/duck/unlabeled/link.jpg"
    assert exported.read_bytes() == PATHS[2].encode()
    assert not exported.is_symlink()


def test_an_export_that_fails_leaves_nothing(birds, tmp_path):
    (birds / PATHS[3]).unlink()
    with pytest.raises(UserError, match=r"cannot read .*train/heron/a\.jpg"):
        export_imagefolder(LABELED, birds, tmp_path / "out")
    os.mkfifo(birds / PATHS[3])
    with pytest.raises(UserError, match="not a regular file"):
        export_imagefolder(LABELED, birds, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"DATA"}


def test_what_a_killed_export_left_is_removed(birds, tmp_path):
    (tmp_path / ".out.0123456789abcdef.tmp" / "heron").mkdir(parents=True)
    export_imagefolder(LABELED, birds, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"DATA", "out"}


@pytest.mark.parametrize("label", ["a/b", "..", ".hidden", ""])
def test_names_that_lead_elsewhere_are_refused(birds, tmp_path, label):
    if label:
        with pytest.raises(UserError, match="cannot be the name of a folder"):
            export_imagefolder([Labeled(PATHS[0], label, "train")], birds, tmp_path / "out")
    for path in ("../birds/unlabeled/a.jpg", "/etc/passwd"):
        with pytest.raises(UserError, match="no path within"):
            export_fiftyone([Labeled(path, "", "")], birds, tmp_path / "out")
    with pytest.raises(UserError, match="rename the class _unlabeled"):
        export_fiftyone([Labeled(PATHS[0], "_unlabeled", "train")], birds, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["DATA/birds", "DATA/birds/out", "DATA/birds/unlabeled/deep/out"])
def test_nothing_is_exported_into_the_data_set(birds, tmp_path, out):
    before = files(birds)
    with pytest.raises(UserError, match="lies in"):
        export_imagefolder(LABELED, birds, tmp_path / out)
    assert files(birds) == before


def test_a_missing_folder_is_one_line(birds, tmp_path):
    for write in (export_imagefolder, export_labelstudio):
        with pytest.raises(UserError, match="cannot write"):
            write(LABELED, birds, tmp_path / "missing" / "out")


# Files


def test_a_csv_holds_the_labels_alone(tmp_path, no_fsync):
    out = tmp_path / "out.csv"
    export_csv(LABELED, out)
    assert [*csv.reader(out.read_text().splitlines())][:2] == [["path", "label", "part"], [PATHS[0], "heron", "train"]]
    assert {*read_labels(out, CLASSES, PATHS)} == GIVEN
    stamp = os.stat(out).st_mtime_ns
    export_csv(LABELED, out)
    assert os.stat(out).st_mtime_ns == stamp
    export_csv(LABELED[:2], out)  # of an earlier day: replaced
    assert len(read_labels(out, CLASSES, PATHS)) == 2


def test_files_of_others_are_not_replaced(birds, tmp_path):
    out = tmp_path / "labels.csv"
    out.write_text("time,annotator,path,action,label,seconds,suggestion,probability\n")
    for write in (
        lambda: export_csv(LABELED, out),
        lambda: export_labelstudio(LABELED, birds, out),
        lambda: write_picks(PICKS, "csv", out, birds),
        lambda: write_picks(PICKS, "labelstudio", out, birds),
        lambda: write_picks(PICKS, "folder", out, birds),
    ):
        with pytest.raises(UserError, match="exists and is"):
            write()
    assert out.read_text().startswith("time,")


def test_tasks_with_annotations_are_ingested_whole(birds, tmp_path):
    export_labelstudio(LABELED, birds, tmp_path / "tasks.json")
    assert {*read_labels(tmp_path / "tasks.json", CLASSES, PATHS)} == GIVEN
    export_labelstudio(LABELED, birds, tmp_path / "tasks.json")
    export_labelstudio([], birds, tmp_path / "tasks.json")
    export_labelstudio(LABELED, birds, tmp_path / "tasks.json")
    task = json.loads((tmp_path / "tasks.json").read_text())[0]
    assert task["data"] == {"image": "/data/local-files/?d=birds/unlabeled/a.jpg", "dalmax_path": PATHS[0]}
    result = task["annotations"][0]["result"]
    assert result == [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["heron"]}}]


def test_every_name_survives_label_studio(tmp_path, no_fsync):
    labeled = [Labeled(path, NAMES[-1 - i], "train") for i, path in enumerate(NAMES)]
    export_labelstudio(labeled, tmp_path / "birds", tmp_path / "tasks.json")
    found = read_labels(tmp_path / "tasks.json", NAMES, NAMES)
    assert [(g.path, g.label) for g in found] == [(e.path, e.label) for e in labeled]
    text = (tmp_path / "tasks.json").read_text()
    data = [task["data"] for task in json.loads(text)]
    for d in data:  # a database takes no half of a surrogate pair
        d["dalmax_path"].encode() if "dalmax_path" in d else None
        d["image"].encode("ascii")
    assert sum("dalmax_path" not in d for d in data) == 1


def test_the_storage_is_a_folder_below_the_document_root(birds, tmp_path):
    assert image_url("a b?&#%.jpg", birds) == "/data/local-files/?d=birds/a%20b%3F%26%23%25.jpg"
    assert image_url("a.jpg", birds, tmp_path) == "/data/local-files/?d=DATA/birds/a.jpg"
    for wrong in (birds, birds / "unlabeled", tmp_path / "other"):
        with pytest.raises(UserError, match="must be a folder above"):
            image_url("a.jpg", birds, wrong)


def test_the_config_shows_every_class():
    classes = ['gull "herring"', "<script>alert(1)</script>", "a & b", "'", "new\nline", "tab\t", "鷺"]
    root = ElementTree.fromstring(labeling_config(classes))
    assert [choice.get("value") for choice in root.iter("Choice")] == classes
    controls = {e.get("name"): e for e in root}
    assert controls["label"].get("toName") == "image"
    assert controls["image"].get("value") == "$image"
    for wrong in ("\x1b[2J", "\udcff"):
        with pytest.raises(UserError, match="XML has no such characters"):
            labeling_config(["heron", wrong])


# Picks

PICKS = [
    Ranked(1, 7, PATHS[2], 0.5, "duck", 0.75),
    Ranked(0, 4, PATHS[0], 0.625, "heron", 0.5),
    Ranked(2, 9, PATHS[1], -0.25, "heron", 1.0),
]
IN_ORDER = [PATHS[0], PATHS[2], PATHS[1]]


def test_picks_as_csv_are_in_order(birds, tmp_path):
    write_picks([*PICKS, Ranked(3, 0, PATHS[4])], "csv", tmp_path / "picks.csv", birds)
    lines = (tmp_path / "picks.csv").read_text().splitlines()
    assert lines[0] == "rank,index,path,score,suggestion,probability"
    assert lines[1] == "0,4,unlabeled/a.jpg,0.625,heron,0.5"
    assert lines[4] == "3,0,c%2F.jpg,,,"
    assert [row.split(",")[2] for row in lines[1:4]] == IN_ORDER


def served(out):
    """Paths in the order in which uncertainty sampling serves the tasks: the lowest score first."""
    tasks = json.loads(out.read_text())
    assert len({task["predictions"][0]["score"] for task in tasks}) == len(tasks)
    return [t["data"]["dalmax_path"] for t in sorted(tasks, key=lambda task: task["predictions"][0]["score"])]


def test_label_studio_serves_picks_in_our_order(birds, tmp_path):
    write_picks(PICKS, "labelstudio", tmp_path / "tasks.json", birds)
    assert served(tmp_path / "tasks.json") == IN_ORDER
    first = json.loads((tmp_path / "tasks.json").read_text())[0]
    prediction = first["predictions"][0]
    assert prediction["score"] == -0.625
    assert prediction["result"][0]["value"] == {"choices": ["heron"]}
    assert first["data"]["dalmax_rank"] == 0
    assert read_labels(tmp_path / "tasks.json", CLASSES, PATHS) == []  # suggestions are no labels


@pytest.mark.parametrize("scores", [(None, 0.5, 0.25), (0.1, 0.5, 0.9), (0.5, 0.5, 0.5), (float("nan"), 0.5, 0.2)])
def test_scores_that_give_another_order_are_replaced(birds, tmp_path, scores):
    picks = [Ranked(i, i, path, score) for i, (path, score) in enumerate(zip(IN_ORDER, scores, strict=True))]
    write_picks(picks, "labelstudio", tmp_path / "tasks.json", birds)
    assert served(tmp_path / "tasks.json") == IN_ORDER
    assert all(t["predictions"][0]["result"] == [] for t in json.loads((tmp_path / "tasks.json").read_text()))


def test_a_folder_of_picks_sorts_by_rank_and_is_ingested_by_its_links(birds, tmp_path):
    out = tmp_path / "picks"
    write_picks([*PICKS, Ranked(12000, 1, PATHS[3])], "folder", out, birds)
    names = sorted(p.name for p in out.iterdir())
    assert names == ["00000_a.jpg", "00001_b.jpg", "00002_a.jpg", "12000_a.jpg"]
    assert (out / "00002_a.jpg").read_bytes() == PATHS[1].encode()
    (out / "heron").mkdir()
    for name in names:
        os.rename(out / name, out / "heron" / name)
    found = read_labels(out, CLASSES, PATHS, birds)
    assert [g.path for g in found] == [*IN_ORDER, PATHS[3]]


def test_no_picks_are_an_empty_list(birds, tmp_path):
    write_picks([], "labelstudio", tmp_path / "tasks.json", birds)
    assert json.loads((tmp_path / "tasks.json").read_text()) == []
    write_picks([], "folder", tmp_path / "folder", birds)
    assert [*(tmp_path / "folder").iterdir()] == []


def test_names_become_names_without_loss():
    for path in PATHS + NAMES:
        assert "/" not in export._as_name(path)
        assert unquote(export._as_name(path), errors="surrogateescape") == path
