"""predict.py: a model.pt of a run says the same of the same images, and nothing is half-written."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from experiments import Runner, table
from image_folders import noise, paint
from PIL import Image

import predict
from images.batches import decoded_batches
from images.decoding import decode
from images.digits import digit_images
from images.listing import File, list_images
from training.model_file import model_bytes

ROOT = Path(__file__).parent.parent
COLUMNS = ["path", "class", "confidence", "second", "second_confidence", "third", "third_confidence"]
FEATURES = {"features": "efficientnet_lite0", "features_size": 32, "img_size": None, "net_name": None}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Two classes of small pictures, wider than high."""
    folder = tmp_path_factory.mktemp("predict") / "DATA"
    small.image_folder(folder / "Beasts", n_train=12, n_test=6)
    for i, path in enumerate(sorted((folder / "Beasts").rglob("*.png"))):
        image = Image.open(path)
        noisy = Image.fromarray(noise(i, 20, 30, 3))
        noisy.paste(image, (5, 0))
        noisy.save(path)
    return folder


@pytest.fixture
def run(data_dir, tmp_path):
    return Runner(data_dir, tmp_path)


@pytest.fixture
def say(tmp_path, capsys):
    """Runs predict.py in this process. Returns its exit code, the rows and stderr."""

    def done(model, folder, *more, out="out.csv"):
        target = tmp_path / out
        code = predict.main([str(w) for w in (model, folder, "--out", target, "--device", "cpu", *more)])
        return code, table(target) if target.is_file() else [], capsys.readouterr().err

    return done


def check_same(rows, run_folder, folder, close=1e-5):
    """The rows are those of a run's predictions.csv."""
    expected = table(run_folder / "predictions.csv")
    assert [f"{folder}/{row['path']}" for row in rows] == [row["path"] for row in expected]
    sure = [i for i, row in enumerate(rows) if float(row["confidence"]) - float(row["second_confidence"]) > close]
    assert len(sure) > len(rows) / 2
    assert [rows[i]["class"] for i in sure] == [expected[i]["predicted"] for i in sure]
    for row, other in zip(rows, expected, strict=True):
        assert float(row["confidence"]) == pytest.approx(float(other["confidence"]), abs=close)


@pytest.mark.parametrize("flags", [{}, {"resize": "crop"}, {"net_name": "ResNet9"}], ids=str)
def test_pixels_are_predicted_as_in_the_run(run, say, data_dir, flags):
    code, folder = run(n_round=1, **flags)
    assert code == 0
    code, rows, _ = say(folder / "model.pt", data_dir / "Beasts" / "test")
    assert code == 0
    assert [*rows[0]] == COLUMNS
    check_same(rows, folder, "test")
    for row in rows:
        values = [float(row[c]) for c in COLUMNS[2::2]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert {row[c] for c in COLUMNS[1::2]} == {"ant", "bee", "cow"}


def test_a_model_remembers_that_images_were_cropped(run, say, data_dir):
    models = [run(name, n_round=0, resize=name)[1] / "model.pt" for name in ("squash", "crop")]
    contents = [torch.load(path, weights_only=True) for path in models]
    assert "resize" not in contents[0]
    assert contents[1]["resize"] == "crop"


@pytest.mark.parametrize("net_name", ["Linear", "MLP"])
def test_features_are_predicted_as_in_the_run(run, say, data_dir, net_name):
    code, folder = run(**{**FEATURES, "net_name": net_name}, n_round=0)
    assert code == 0
    code, rows, _ = say(folder / "model.pt", data_dir / "Beasts" / "test")
    assert code == 0
    check_same(rows, folder, "test", close=5e-3)


def test_digits_as_files_are_predicted_as_in_memory(run, say, tmp_path):
    code, folder = run(dataset_name="Digits", img_size=8, n_init_labeled=200, n_round=0, min_steps=100)
    assert code == 0
    x, _, paths = digit_images(8)
    for image, path in zip(x, paths, strict=True):
        paint(tmp_path / "digits" / f"{path}.png", image)
    code, rows, _ = say(folder / "model.pt", tmp_path / "digits")
    assert code == 0
    assert len(rows) == 1797
    ours = {row["path"]: row for row in rows}
    for row in table(folder / "predictions.csv"):
        assert ours[f"{row['path']}.png"]["class"] == row["predicted"]
        assert float(ours[f"{row['path']}.png"]["confidence"]) == pytest.approx(float(row["confidence"]), abs=1e-5)


def test_a_network_of_timm_predicts(run, say, data_dir):
    code, folder = run(net_name="timm:resnet10t", img_size=32, n_round=0, min_steps=1)
    assert code == 0
    code, rows, _ = say(folder / "model.pt", data_dir / "Beasts" / "test")
    assert code == 0
    check_same(rows, folder, "test", close=1e-4)


# Models without a run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model.pt of four classes and 16 pixels."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    path.write_bytes(model_bytes(small.learner(small.pool()), "SmallCNN", ["a", "b", "=c", "d\n"], 16))
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of images at all depths, and other files."""
    folder = tmp_path / "images"
    for i, path in enumerate(("b.png", "a/z.png", "a.png", "a/deep/er/1.png", ".hidden/x.png", "train/ant/1.png")):
        paint(folder / path, noise(i, 20, 24, 3))
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.png").write_text("")
    return folder


def test_all_images_below_a_folder_are_predicted_in_order(model, images, say):
    code, rows, err = say(model, images)
    assert code == 0
    assert [row["path"] for row in rows] == ["a.png", "a/deep/er/1.png", "a/z.png", "b.png", "train/ant/1.png"]
    assert "passed over in" in err
    assert ".txt 1" in err
    assert all(row["third"] for row in rows)


def test_a_single_image_is_a_folder_of_one(model, images, say):
    code, rows, _ = say(model, images / "a" / "z.png")
    assert code == 0
    assert [row["path"] for row in rows] == ["z.png"]
    assert rows[0]["confidence"] == next(r for r in say(model, images)[1] if r["path"] == "a/z.png")["confidence"]


def test_two_classes_leave_cells_empty(tmp_path, images, say):
    path = tmp_path / "two.pt"
    path.write_bytes(model_bytes(small.learner(small.pool(n_classes=2)), "SmallCNN", ["a", "b"], 16))
    _, rows, _ = say(path, images)
    assert {(row["third"], row["third_confidence"]) for row in rows} == {("", "")}
    assert all(float(row["confidence"]) + float(row["second_confidence"]) == pytest.approx(1, abs=2e-6) for row in rows)


def test_names_are_written_exactly(model, tmp_path, say):
    names = ["=1+1.png", 'quo"te,.png', "new\nline.png", os.fsdecode(b"bytes\xff.png")]
    for i, name in enumerate(names):
        paint(tmp_path / "odd" / name, noise(i))
    assert predict.main([str(model), str(tmp_path / "odd"), "--out", str(tmp_path / "o.csv")]) == 0
    with open(tmp_path / "o.csv", newline="", errors="surrogateescape") as f:
        rows = [*csv.reader(f)][1:]
    assert {row[0] for row in rows} == {*names}
    assert {row[1] for row in rows} <= {"a", "b", "=c", "d\n"}


def test_unreadable_images_are_named_and_left_out(model, images, say):
    (images / "torn.png").write_bytes((images / "b.png").read_bytes()[:60])
    (images / "link.png").symlink_to("nowhere.png")
    code, rows, err = say(model, images)
    assert code == 0
    assert [row["path"] for row in rows] == ["a.png", "a/deep/er/1.png", "a/z.png", "b.png", "train/ant/1.png"]
    assert "note: 2 of 7 images cannot be read and are left out: " in err
    assert "torn.png: " in err
    for i in range(4):
        (images / f"torn{i}.png").write_bytes(b"torn")
    assert "; and 3 more" in say(model, images)[2]


def test_where_no_image_can_be_read_nothing_is_written(model, tmp_path, say):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"torn")
    code, rows, err = say(model, tmp_path / "torn", "--embed", tmp_path / "f.npy")
    assert (code, rows) == (2, [])
    assert "none of the 1 images can be read" in err
    assert {p.name for p in tmp_path.iterdir()} == {"torn"}


def test_embeddings_are_those_of_the_network(model, images, say, tmp_path):
    (images / "torn.png").write_bytes(b"torn")
    code, rows, _ = say(model, images, "--embed", tmp_path / "f.npy")
    assert code == 0
    x = np.load(tmp_path / "f.npy")
    assert (x.dtype, x.shape) == (np.float32, (5, 50))
    paths = [row["path"] for row in table(tmp_path / "f.paths.csv")]
    assert paths == [row["path"] for row in rows]
    learner, _ = predict.read_model(model, torch.device("cpu"))
    pixels = np.stack([decode(images / path, 16) for path in paths])
    expected = learner.embeddings(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(x, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_embeddings_of_a_head_are_the_features_of_its_backbone(run, say, data_dir, tmp_path):
    _, folder = run(**{**FEATURES, "net_name": "MLP"}, n_round=0)
    code, rows, _ = say(folder / "model.pt", data_dir / "Beasts" / "test", "--embed", tmp_path / "f.npy")
    assert code == 0
    x = np.load(tmp_path / "f.npy")
    assert x.shape == (len(rows), 1280)
    learner, _ = predict.read_model(folder / "model.pt", torch.device("cpu"))
    confidence = learner.probs(torch.from_numpy(x).half()).max(1).values
    np.testing.assert_allclose(confidence.numpy(), [float(r["confidence"]) for r in rows], atol=1e-5)


def test_many_images_are_predicted_in_batches_like_alone(model, images, say, monkeypatch):
    """More tasks than are decoded ahead, on processes."""
    _, rows, _ = say(model, images)
    for i in range(200):
        os.link(images / ("a.png", "b.png")[i % 2], images / f"x{i:03d}.png")
    (images / "x007.png").unlink()
    (images / "x007.png").write_bytes(b"torn")
    monkeypatch.setattr("images.batches.TASK_FILES", 3)
    monkeypatch.setattr("images.batches.BATCH_FILES", 9)
    code, many, _ = say(model, images)
    assert code == 0
    assert len(many) == 204
    alone = {row["path"]: row for row in rows}
    for row in many:
        if row["path"].startswith("x"):
            expected = alone[("a.png", "b.png")[int(row["path"][1:4]) % 2]]
            assert row["class"] == expected["class"]
            assert float(row["confidence"]) == pytest.approx(float(expected["confidence"]), abs=1e-5)


def test_batches_are_bounded_and_in_order(images, monkeypatch):
    files, _ = list_images(images)
    files = files * 40
    monkeypatch.setattr("images.batches.TASK_FILES", 4)
    monkeypatch.setattr("images.batches.BATCH_FILES", 12)
    batches = [*decoded_batches(images, files, 8)]
    assert [b.start for b in batches] == [*range(0, 200, 12)]
    assert [b.stop for b in batches] == [*range(12, 200, 12), 200]
    assert all(len(b.pixels) <= 12 for b in batches)
    for b in batches:
        for i, pixels in zip(range(b.start, b.stop), b.pixels, strict=True):
            assert (pixels == decode(images / files[i].path, 8)).all()


def test_images_that_take_more_than_a_share_of_the_memory_are_read_alone(images, monkeypatch):
    files = [*list_images(images)[0], File("missing.png", -1, -1, -1)]
    monkeypatch.setattr("images.batches.n_cores", lambda: 10**9)
    (batch,) = decoded_batches(images, files, 8)
    assert [*batch.unreadable] == [5]
    assert (batch.pixels[3] == decode(images / "b.png", 8)).all()


# Mistakes


def test_mistakes_are_one_line(model, images, say, tmp_path):
    (images / "notes.txt").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.pt").write_bytes(b"nonsense")
    cases = [
        ((tmp_path / "missing.pt", images), "is not a model.pt of DalMax: "),
        ((tmp_path / "no.pt", images), "is not a model.pt of DalMax: "),
        ((model, tmp_path / "empty"), "holds no images"),
        ((model, tmp_path / "missing"), "cannot read"),
        ((model, images, "--device", "cuda:77"), "--device cuda:77"),
        ((model, images, "--weights", tmp_path / "w.pt"), "holds all weights of its network"),
        ((model, images, "--embed", tmp_path / "f.txt"), "must end in .npy"),
        ((model, images, "--embed", tmp_path / "none" / "f.npy"), "there is no folder"),
    ]
    for words, message in cases:
        code, rows, err = say(*words)
        assert (code, rows) == (2, []), message
        assert message in err
        assert err.count("\n") == 1, err
    for out, message in (("model.pt", "must end in .csv"), ("none/o.csv", "there is no folder")):
        code, _, err = say(model, images, out=out)
        assert code == 2
        assert message in err
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in say(model, images, out="folder.csv")[2]


def test_a_head_refuses_another_backbone(run, say, data_dir, tmp_path):
    _, folder = run(**FEATURES, n_round=0)
    content = torch.load(folder / "model.pt", weights_only=True)
    images = data_dir / "Beasts" / "test"

    def refused(**changes):
        changed = {k: v for k, v in {**content, **changes}.items() if v is not None}
        torch.save(changed, tmp_path / "changed.pt")
        code, rows, err = say(tmp_path / "changed.pt", images)
        assert (code, rows) == (2, [])
        assert err.count("\n") == 1, err
        return err

    assert "give the file that it was trained with by --weights" in refused(features_weights="0" * 16)
    assert "does not name the backbone" in refused(features=None)
    assert "does not name the backbone" in refused(features_size=[])
    assert "features_transform differ" in refused(features_transform={**content["features_transform"], "squash": True})
    assert "--features nonsense" in refused(features="nonsense")
    code, _, err = say(folder / "model.pt", images, "--weights", tmp_path / "changed.pt")
    assert code == 2
    assert "--weights" in err


def test_nothing_is_written_into_the_folder_of_the_images(model, images, say):
    before = sorted(p for p in images.parent.rglob("*"))
    say(model, images)
    assert sorted(p for p in images.parent.rglob("*")) == sorted([*before, images.parent / "out.csv"])


def test_ctrl_c_leaves_nothing(model, tmp_path):
    paint(tmp_path / "big" / "0.png", noise(0, 600, 600, 3))
    for i in range(1, 3000):  # several seconds of work
        os.link(tmp_path / "big" / "0.png", tmp_path / "big" / f"{i}.png")
    words = [sys.executable, ROOT / "predict.py", model, tmp_path / "big", "--out", tmp_path / "o.csv"]
    words += ["--embed", tmp_path / "f.npy", "--device", "cpu"]
    process = subprocess.Popen([str(w) for w in words], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while process.poll() is None and not any(p.stat().st_size > 1000 for p in tmp_path.glob(".f.npy.*")):
        time.sleep(0.01)  # not before the first batch: Python loses a signal that comes while it forks
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; nothing was written"
    assert {p.name for p in tmp_path.iterdir()} == {"big"}
