"""Labels from elsewhere: what each kind of file says, and that what does not fit is refused with its line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from damage import bytes_of
from small_run import NAMES

from files import to_csv
from labeling import ingest
from labeling.export import Labeled, export_csv
from labeling.ingest import Given, read_labels
from utils import UserError

EXPORTS = Path(__file__).parent / "data" / "label_studio"
GULL = 'gull "herring", adult'
CLASSES = ["heron", "duck", GULL]
PATHS = [f"unlabeled/{name}.jpg" for name in ("a", "b", "c", 'com,ma "quoted"', "müwe 7", "deep/a", "d")]
LOG = ("time", "annotator", "path", "action", "label", "seconds", "suggestion", "probability")


def given(path, label, annotator="", action="label"):
    return Given(f"unlabeled/{path}.jpg", label, annotator, action)


LABELS_OF_EXPORTS = {
    given("a", "heron", "1"),
    given("b", "duck", "1"),
    given("b", "duck", "2"),
    given('com,ma "quoted"', GULL, "2"),
    given("müwe 7", "duck", "1"),
    given("deep/a", "heron", "1"),
    given("deep/a", GULL, "2"),
}


@pytest.fixture
def write(tmp_path):
    """Writes a file of a text, of rows of CSV, or of JSON."""

    def written(content, name="labels.csv"):
        if isinstance(content, list) and content and isinstance(content[0], tuple):
            content = to_csv(content[0], content[1:])
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return written


def refused(source, *words, classes=CLASSES, paths=PATHS, root=None):
    """The refusal of a source, which holds some words; in few lines."""
    with pytest.raises(UserError) as e:
        read_labels(source, classes, paths, root)
    message = str(e.value)
    for word in words:
        assert word in message
    assert message.count("\n") <= ingest.MOST_PROBLEMS + 1
    return message


# Label Studio


@pytest.mark.parametrize("name", ["export.json", "export_min.json", "export.csv"])
def test_an_export_of_label_studio_gives_all_its_labels(name):
    found = read_labels(EXPORTS / name, CLASSES, PATHS)
    assert {g for g in found if g.action == "label"} == LABELS_OF_EXPORTS
    assert len(found) == len(set(found))
    skipped = [given("c", "", "1", "skip")] if name == "export.json" else []  # the other two leave them out
    assert [g for g in found if g.action != "label"] == skipped


@pytest.mark.parametrize("name", ["export.json", "export_min.json"])
def test_an_annotator_may_be_an_address(write, name):
    text = (EXPORTS / name).read_text("utf-8")
    text = text.replace('"completed_by": 1', '"completed_by": {"id": 1, "email": "ann@example.org"}')
    text = text.replace('"annotator": 1', '"annotator": "ann@example.org"')
    found = read_labels(write(text, name), CLASSES, PATHS)
    assert {g.annotator for g in found} == {"ann@example.org", "2"}


@pytest.mark.parametrize(("name", "where"), [("export.json", "task 12"), ("export.csv", "line 3")])
def test_unknown_classes_and_images_are_refused_with_their_place(write, name, where):
    refused(EXPORTS / name, where, "no class 'duck'", classes=["heron", GULL])
    refused(EXPORTS / name, where, "no image unlabeled/b.jpg", paths=[p for p in PATHS if p != "unlabeled/b.jpg"])


def task(data, *annotations, **more):
    choices = [
        {"result": [{"type": "choices", "from_name": "label", "value": {"choices": [a]}}], "completed_by": i}
        for i, a in enumerate(annotations)
    ]
    return {"id": 7, "data": data, "annotations": choices, **more}


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/local-files/?d=unlabeled/a.jpg", "unlabeled/a.jpg"),
        ("/data/local-files/?d=birds/unlabeled/m%C3%BCwe%207.jpg", "unlabeled/müwe 7.jpg"),
        ("/data/local-files/?d=work/birds/unlabeled/deep/a.jpg&x=1", "unlabeled/deep/a.jpg"),
        ("s3://bucket/unlabeled/b.jpg", "unlabeled/b.jpg"),
        ("https://example.org/birds/unlabeled/b.jpg?token=1", "unlabeled/b.jpg"),
        ("/data/upload/3/5f3a1b2c-b.jpg", "unlabeled/b.jpg"),
        ("b.jpg", "unlabeled/b.jpg"),
    ],
)
def test_an_image_without_our_path_is_found_by_its_address(write, url, path):
    assert read_labels(write([task({"image": url}, "duck")]), CLASSES, PATHS) == [Given(path, "duck", "0", "label")]


@pytest.mark.parametrize("url", ["a.jpg", "/data/upload/3/5f3a1b2c-a.jpg"])
def test_an_address_that_fits_to_two_images_is_refused(write, url):
    refused(write([task({"image": url}, "duck")]), "task 7", "2 images fit to")


def test_the_folder_tells_apart_paths_that_end_alike(write):
    paths = ["a.jpg", "x/a.jpg", "x/x/a.jpg"]
    source = write([task({"image": "/data/local-files/?d=birds/x/a.jpg"}, "duck")])
    refused(source, "2 images fit to", paths=paths)
    assert read_labels(source, CLASSES, paths, Path("/data/birds"))[0].path == "x/a.jpg"
    assert read_labels(source, CLASSES, paths, Path("/data/birds/x"))[0].path == "a.jpg"


def test_our_path_is_believed_before_the_address(write):
    data = {"dalmax_path": "unlabeled/d.jpg", "image": "/data/local-files/?d=birds/unlabeled/a.jpg"}
    assert read_labels(write([task(data, "duck")]), CLASSES, PATHS)[0].path == "unlabeled/d.jpg"
    refused(write([task({**data, "dalmax_path": "../d.jpg"}, "duck")]), "task 7: no image ../d.jpg")


def test_tasks_and_records_without_annotations_say_nothing(write):
    path = {"dalmax_path": "unlabeled/a.jpg"}
    assert read_labels(write([task(path), {"id": 1, "data": path}]), CLASSES, PATHS) == []
    assert read_labels(write([{**task(path), "annotations": [{"result": []}]}]), CLASSES, PATHS) == []
    records = [{**path, "id": 1, "annotator": 1}, {**path, "id": 2, "annotator": 1, "choice": "heron"}]
    assert read_labels(write(records), CLASSES, PATHS) == [given("a", "heron", "1")]
    refused(write([{**path, "id": 1, "bird": "heron"}]), "no record has a label or choice")


def test_two_classes_in_one_annotation_are_refused(write):
    result = [{"type": "choices", "from_name": "label", "value": {"choices": ["heron", "duck"]}}]
    data = {"dalmax_path": "unlabeled/a.jpg"}
    refused(write([{"id": 3, "data": data, "annotations": [{"result": result}]}]), "task 3: it has 2 classes")
    refused(write([{"id": 3, **data, "label": {"choices": ["heron", "duck"]}}]), "task 3: it has 2 classes")
    header = ("annotation_id", "annotator", "dalmax_path", "label")
    refused(write([header, ("1", "1", "unlabeled/a.jpg", '{"choices": ["heron", "duck"]}')]), "line 2: it has 2")


def test_other_controls_of_a_project_are_no_labels(write):
    results = [
        {"type": "rating", "from_name": "quality", "value": {"rating": 4}},
        {"type": "choices", "from_name": "light", "value": {"choices": ["dark"]}},
        {"type": "choices", "from_name": "label", "value": {"choices": ["heron"]}},
    ]
    tasks = [{"data": {"dalmax_path": "unlabeled/a.jpg"}, "annotations": [{"result": results, "completed_by": 4}]}]
    assert read_labels(write(tasks), CLASSES, PATHS) == [given("a", "heron", "4")]


def test_a_label_counts_where_its_annotator_skipped_too(write):
    data = {"dalmax_path": "unlabeled/a.jpg"}
    both = task(data, "heron")
    both["annotations"].append({"was_cancelled": True, "completed_by": 0, "result": []})
    assert read_labels(write([both]), CLASSES, PATHS) == [given("a", "heron", "0")]
    both["annotations"].reverse()
    assert read_labels(write([both]), CLASSES, PATHS) == [given("a", "heron", "0")]


# CSV


def test_a_plain_csv_gives_its_labels(write):
    rows = [("id", "label", "path"), ("1", "heron", PATHS[0]), ("2", "", PATHS[1]), ("3", GULL, PATHS[3])]
    assert read_labels(write(rows), CLASSES, PATHS) == [given("a", "heron"), given('com,ma "quoted"', GULL)]


def test_a_csv_of_a_spreadsheet_is_read(write):
    text = "\ufeffpath,label,annotator\r\nunlabeled/a.jpg,heron,ann\r\n\r\nunlabeled/b.jpg,duck,bob"
    assert read_labels(write(text), CLASSES, PATHS) == [given("a", "heron", "ann"), given("b", "duck", "bob")]


def test_every_name_survives_a_csv(tmp_path):
    classes = [*NAMES, "plain"]
    labeled = [Labeled(path, classes[-1 - i], "train") for i, path in enumerate(NAMES)]
    export_csv([*labeled, Labeled("other.png", "", "")], tmp_path / "out.csv")
    found = read_labels(tmp_path / "out.csv", classes, NAMES)
    assert [(g.path, g.label) for g in found] == [(e.path, e.label) for e in labeled]


def test_the_lines_of_mistakes_are_right_below_cells_with_newlines(write):
    rows = [("path", "label"), ("new\nline\n.jpg", "heron"), ("b.jpg", "duck"), ("c.jpg", "heronn")]
    refused(write(rows), "line 6: no class 'heronn'", paths=["new\nline\n.jpg", "b.jpg", "c.jpg"])


def test_many_mistakes_are_counted(write):
    rows = [("path", "label"), *((f"{i}.jpg", "heron") for i in range(12)), (PATHS[0], "heron")]
    message = refused(write(rows), "12 problems", "line 2: no image 0.jpg", "line 6: ", "and 7 more")
    assert "line 7: " not in message


def test_one_annotator_gives_an_image_one_label(write):
    a, b = (PATHS[0], "heron", "ann"), (PATHS[0], "duck", "ann")
    header = ("path", "label", "annotator")
    refused(write([header, a, b]), "line 3", "is duck here and heron in line 2, both by ann")
    assert read_labels(write([header, a, a]), CLASSES, PATHS) == [given("a", "heron", "ann")]
    two = [given("a", "heron", "ann"), given("a", "duck", "bob")]
    assert read_labels(write([header, a, (*b[:2], "bob")]), CLASSES, PATHS) == two


def test_a_label_log_is_folded(write):
    def row(path, action, label="", annotator="ann"):
        return ("2026-05-11T09:00:00.000Z", annotator, f"unlabeled/{path}.jpg", action, label, "1.5", "duck", "0.9")

    rows = [
        row("a", "label", "heron"),
        row("a", "label", "duck"),  # changed
        row("b", "label", "duck"),
        row("b", "label", "heron", "bob"),
        row("b", "undo"),  # taken back, by ann alone
        row("c", "label", "heron"),
        row("c", "skip"),
        row("c", "undo"),  # the skip, so that the label stands again
        row("d", "undo"),  # of nothing
        LOG,  # the log of another annotator follows
        row("d", "skip"),
        row("deep/a", "unsure"),
        row("deep/a", "undo"),
        row("deep/a", "undo"),
        row("müwe 7", "unsure"),
    ]
    assert set(read_labels(write([LOG, *rows]), CLASSES, PATHS)) == {
        given("a", "duck", "ann"),
        given("b", "heron", "bob"),
        given("c", "heron", "ann"),
        given("d", "", "ann", "skip"),
        given("müwe 7", "", "ann", "unsure"),
    }
    refused(write([LOG, row("a", "label")]), "line 2: the action is 'label' and the label ''")
    refused(write([LOG, row("a", "delete")]), "line 2: the action is 'delete'")
    refused(write(to_csv(LOG, [row("a", "label", "heron")])[:-1]), "ends within a line")


# Damage


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"path;label\n", "begins with 'path;label'"),
        (b"file,class\n", "expected the columns path and label"),
        (b"rank,index,path,score\n", "expected the columns path and label"),
        (b"path,label,label\n", "the column label twice"),
        (b"path,label\nunlabeled/a.jpg\n", "line 2: it has more or fewer cells"),
        (b"path,label\nunlabeled/a.jpg,heron,duck\n", "line 2: it has more or fewer cells"),
        (b'path,label\nunlabeled/a.jpg,"heron\n', "damaged in line 2"),
        (b"path,label\n" + bytes(9), "damaged in line 2: zero bytes"),
        (b"path,label\n" + b"x" * 200_000 + b",heron\n", "damaged in line 2: field larger"),
        ("path,label\n".encode("utf-16"), "zero bytes"),
        (b"annotation_id,annotator,bird\n1,1,heron\n", "no column label or choice"),
        (b"[", "damaged in line 1"),
        (b'[{"id": 1},\n{"id"', "damaged in line 2"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "damaged"),
        (b"[1]", "entry 1: it is no task"),
        (b'[{"id": [], "data": {}, "annotations": 3}]', "entry 1: its data or its annotations are damaged"),
        (b'[{"id": 5, "data": {}, "annotations": [{"result": 3}]}]', "task 5: "),
        (b'[{"id": 5, "data": {}, "annotations": [[]]}]', "task 5: its data"),
        (b'[{"data": {"image": "x"}, "annotations": [{"was_cancelled": true}]}]', "entry 1: no image x"),
    ],
)
def test_damage_is_one_line(write, content, words):
    refused(write(content), words)


def test_a_choice_that_is_no_list_is_damage(write):
    result = [{"type": "choices", "value": {"choices": "heron"}}]
    data = {"dalmax_path": "unlabeled/a.jpg"}
    refused(write([{"id": 1, "data": data, "annotations": [{"result": result}]}]), "its annotation is damaged")


def test_random_damage_is_read_or_refused(write):
    rng = np.random.default_rng(1)
    contents = [p.read_bytes() for p in sorted(EXPORTS.iterdir())]
    n_refused = 0
    for i in range(300):
        damaged, what = bytes_of(contents[i % len(contents)], rng)
        try:
            for g in read_labels(write(damaged), CLASSES, PATHS):
                assert g.path in PATHS, what
                assert (g.label in CLASSES) == (g.action == "label"), what
        except UserError:
            n_refused += 1
    assert n_refused > 150


def test_only_files_of_a_possible_size_are_read(write, tmp_path, monkeypatch):
    refused(tmp_path / "missing.csv", "cannot read", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    monkeypatch.setattr(ingest, "MOST_BYTES", 10)
    refused(write("path,label\n"), "GB, which no file of labels has")


# Folders


@pytest.fixture
def birds(tmp_path):
    """The folder of a data set."""
    root = tmp_path / "birds"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def sorted_folder(tmp_path, files):
    """A folder of `<class>/` folders with empty files."""
    for path in files:
        file = tmp_path / "sorted" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "sorted"


def test_a_folder_of_classes_gives_its_labels(tmp_path):
    folder = sorted_folder(tmp_path, ["heron/unlabeled/a.jpg", "heron/.hidden.jpg", "heron/Thumbs.db", "duck/b.jpg"])
    (folder / "notes.txt").touch()
    assert read_labels(folder, CLASSES, PATHS) == [given("b", "duck"), given("a", "heron")]


def test_a_folder_of_splits_gives_its_labels(tmp_path):
    folder = sorted_folder(tmp_path, ["train/heron/c.jpg", "validation/duck/b.jpg", "_unlabeled/unlabeled/d.jpg"])
    assert read_labels(folder, CLASSES, PATHS) == [given("c", "heron"), given("b", "duck")]
    refused(sorted_folder(tmp_path, ["train/owl/c.jpg"]), "owl/c.jpg: no class 'owl'")


def test_a_name_may_follow_a_rank_or_stand_for_a_path(tmp_path):
    folder = sorted_folder(tmp_path, ["heron/0012_c.jpg", "duck/unlabeled%2Fdeep%2Fa.jpg"])
    assert read_labels(folder, CLASSES, PATHS) == [given("deep/a", "duck"), given("c", "heron")]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("owl/a.jpg", "owl/: no class 'owl'"),
        ("heron/x.jpg", "heron/x.jpg: no image x.jpg"),
        ("heron/a.jpg", "heron/a.jpg: 2 images fit to a.jpg"),
        ("heron/0001_a.jpg", "heron/0001_a.jpg: 2 images fit to"),
    ],
)
def test_files_that_stand_for_no_image_are_refused(tmp_path, file, words):
    refused(sorted_folder(tmp_path, ["heron/b.jpg", file]), words)


def test_a_file_in_two_folders_is_refused(tmp_path):
    refused(sorted_folder(tmp_path, ["heron/b.jpg", "duck/b.jpg"]), "is heron here and duck in duck/b.jpg")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_its_image_whatever_its_name(tmp_path, birds, link):
    folder = sorted_folder(tmp_path, ["heron/b.jpg"])
    link(birds / "unlabeled/deep/a.jpg", folder / "heron" / "new name.jpg")
    assert read_labels(folder, CLASSES, PATHS, birds) == [given("b", "heron"), given("deep/a", "heron")]


def test_a_folder_that_links_in_a_circle_ends(tmp_path):
    folder = sorted_folder(tmp_path, ["heron/b.jpg"])
    (folder / "heron" / "again").symlink_to(folder)
    assert read_labels(folder, CLASSES, PATHS) == [given("b", "heron")]
    os.symlink("loop.jpg", folder / "heron" / "loop.jpg")
    refused(folder, "loop.jpg")


def test_a_folder_without_folders_is_refused(tmp_path):
    folder = sorted_folder(tmp_path, ["a.jpg"])
    refused(folder, "has no folders")
    shutil.rmtree(folder)


def test_a_review_in_a_log_still_decides_after_the_decisions_before_it(tmp_path):
    rows = [("y", "label", "duck"), ("x", "label", "heron"), ("y", "review", "gull")]
    lines = [f"t,{who},a.png,{action},{name},,,\n" for who, action, name in rows]
    path = tmp_path / "labels.csv"
    path.write_text("time,annotator,path,action,label,seconds,suggestion,probability\n" + "".join(lines))
    given = read_labels(path, ["duck", "gull", "heron"], ["a.png"])
    assert [(g.annotator, g.action, g.label) for g in given] == [("x", "label", "heron"), ("y", "review", "gull")]
