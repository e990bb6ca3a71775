"""Randomness, device, metrics, and the files of a run: every byte of them."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import utils
from utils import METRICS, Query, Round, RunFolder, UserError, stream

ROOT = Path(utils.__file__).parent


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Nobody cuts the power here, and a busy disk takes its time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# The end of a script


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("--lr 0: must be above 0"), 2, "error: --lr 0: must be above 0\n"),
        (PermissionError(13, "Permission denied", "locked/DATA"), 2, "error: locked/DATA: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (MemoryError(), 2, "error: not enough memory\n"),
        (MemoryError("Unable to allocate 3 GiB"), 2, "error: not enough memory (Unable to allocate 3 GiB)\n"),
        (RuntimeError("[x] DefaultCPUAllocator: needs 8 bytes"), 2, "error: not enough memory (needs 8 bytes)\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_done_ends_in_one_line(capsys, monkeypatch, error, code, said):
    monkeypatch.setattr(utils, "_leave_stdout", lambda: None)
    assert utils.exit_code(lambda: fail(error), "stopped") == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        utils.exit_code(lambda: fail(error), "stopped")


@pytest.mark.parametrize("n", [5, 10**6])  # in one go at the end, or at once
@pytest.mark.parametrize(("shell", "code"), [("| head -c1", 0), ("> /dev/full", 2)])
def test_output_that_nobody_takes_is_no_traceback(shell, code, n):
    script = "import sys, utils; sys.exit(utils.exit_code(lambda: print('x' * N), ''))".replace("N", str(n))
    command = f'{sys.executable} -c "{script}" {shell}'
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# Randomness


def test_stream_gives_the_same_numbers_for_the_same_keys():
    assert (stream(1, "query", 3).integers(0, 2**62, 100) == stream(1, "query", 3).integers(0, 2**62, 100)).all()


def test_stream_is_the_same_on_every_machine_and_version():
    assert stream(1, "initial").choice(1000, 5, replace=False).tolist() == [975, 359, 720, 602, 86]


def test_streams_of_different_keys_share_no_numbers():
    keys = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1, "a", "1"), (1, "a1"), (1, "a", 1, 0), (11,)]
    drawn = [set(stream(*k).integers(0, 2**62, 200).tolist()) for k in keys]
    assert len(set.union(*drawn)) == 200 * len(keys)


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    x = np.stack([stream(s, "init").standard_normal(2000) for s in range(30)])
    r = np.corrcoef(x)[~np.eye(30, dtype=bool)]
    assert np.abs(r).max() < 5 / math.sqrt(2000)


def test_stream_does_not_see_what_was_drawn_before():
    first = stream(7, "train", 0).random(4)
    torch.manual_seed(3)
    stream(7, "query", 0).random(1000)
    assert (stream(7, "train", 0).random(4) == first).all()


# Device


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cpu:1", "meta", "xpu", "cuda:-1", "cuda:x", "cuda: 0", "hpu:0"])
def test_device_of_another_kind_is_refused_by_name(name):
    with pytest.raises(UserError, match="must be auto, cpu, cuda, cuda:<number> or mps") as e:
        utils.pick_device(name)
    assert f"--device {name}:" in str(e.value)


def test_cpu_is_the_cpu():
    assert utils.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("there", "picked"), [(True, "cuda:0"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, there, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert utils.pick_device("auto") == torch.device(picked)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--device cuda:1: .* sees no CUDA device here; use --device cpu"):
        utils.pick_device("cuda:1")


def test_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert utils.pick_device("cuda:1") == torch.device("cuda:1")
    assert utils.pick_device("cuda") == torch.device("cuda:0")
    with pytest.raises(UserError, match="there are 2 CUDA devices, cuda:0 to cuda:1"):
        utils.pick_device("cuda:2")


def test_mps_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps"):
        utils.pick_device("mps")


# Metrics


def random_probs(n=400, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.5), n).astype(np.float32)
    return torch.from_numpy(probs), torch.from_numpy(rng.choice(n_classes, n, p=[0.5, 0.2, 0.15, 0.1, 0.05]))


def test_metrics_are_those_of_the_design_in_its_order():
    assert list(METRICS) == ["accuracy", "precision", "recall", "f1", "nll", "ece"]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learn(seed):
    probs, targets = random_probs(seed=seed)
    predicted = probs.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "precision": sk.precision_score(targets, predicted, average="macro"),
        "recall": sk.recall_score(targets, predicted, average="macro"),
        "f1": sk.f1_score(targets, predicted, average="macro"),
        "nll": sk.log_loss(targets, probs.double() / probs.double().sum(1, keepdim=True)),
    }
    for name, value in expected.items():
        assert METRICS[name](probs, targets) == pytest.approx(value, abs=1e-6), name


def test_metrics_are_plain_floats():
    assert {type(metric(*random_probs())) for metric in METRICS.values()} == {float}


def test_macro_metrics_equal_values_worked_by_hand():
    # true 0 0 0 1, predicted 0 0 1 1: precision 1 and 1/2, recall 2/3 and 1, f1 4/5 and 2/3
    probs, targets = torch.eye(2)[torch.tensor([0, 0, 1, 1])], torch.tensor([0, 0, 0, 1])
    assert utils.accuracy(probs, targets) == 0.75
    assert utils.precision(probs, targets) == pytest.approx(3 / 4)
    assert utils.recall(probs, targets) == pytest.approx(5 / 6)
    assert utils.f1(probs, targets) == pytest.approx(11 / 15)


def test_class_never_predicted_counts_as_nothing_without_a_warning():
    probs, targets = torch.eye(3)[torch.tensor([0, 0, 0])], torch.tensor([0, 1, 1])
    assert utils.precision(probs, targets) == pytest.approx((1 / 3 + 0) / 2)
    assert utils.recall(probs, targets) == pytest.approx((1 + 0) / 2)


def test_nll_is_in_nats():
    assert utils.nll(torch.full((3, 2), 0.5), torch.tensor([0, 1, 1])) == pytest.approx(math.log(2))


def test_nll_of_certainty_is_zero_and_of_a_certain_error_finite():
    probs = torch.tensor([[1.0, 0.0]])
    assert utils.nll(probs, torch.tensor([0])) == 0
    assert math.copysign(1, utils.nll(probs, torch.tensor([0]))) == 1
    assert utils.nll(probs, torch.tensor([1])) == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


def reference_ece(probs, targets, n_bins):
    """Guo et al. 2017, eq. 3, bin by bin and image by image."""
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = [(p, y) for p, y in zip(probs, targets, strict=True) if low < p.max() <= high]
        if inside:
            correct = sum(int(p.argmax() == y) for p, y in inside) / len(inside)
            confidence = sum(float(p.max()) for p, _ in inside) / len(inside)
            total += len(inside) / len(targets) * abs(correct - confidence)
    return total


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_ece_equals_a_loop_over_bins(n_bins):
    probs, targets = random_probs(seed=4)
    expected = reference_ece(probs.double().numpy(), targets.numpy(), n_bins)
    assert utils.ece(probs, targets, n_bins) == pytest.approx(expected, abs=1e-12)


def test_ece_equals_a_value_worked_by_hand():
    # Bin of 0.9: three images, two right, gap 0.9 - 2/3. Bin of 0.6: one image, right, gap 0.4.
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    targets = torch.tensor([0, 0, 1, 1])
    assert utils.ece(probs, targets) == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.4, abs=1e-6)


def test_ece_of_perfect_and_of_fully_wrong_certainty():
    probs = torch.eye(4)
    assert utils.ece(probs, torch.arange(4)) == 0
    assert utils.ece(probs, torch.arange(4).roll(1)) == 1


def test_edge_of_a_bin_belongs_to_the_lower_one():
    probs, targets = torch.tensor([[0.5, 0.5], [0.625, 0.375]], dtype=torch.float64), torch.tensor([0, 1])
    assert utils.ece(probs, targets, 8) == pytest.approx((0.5 + 0.625) / 2)  # apart: gaps of both signs add up
    assert utils.ece(probs, targets, 2) == pytest.approx((0.5 + 0.625) / 2)
    assert utils.ece(probs, targets, 1) == pytest.approx(abs(0.5 - 0.625) / 2)  # together: they cancel


def test_confusion_matrix_equals_scikit_learn_with_true_classes_as_rows():
    probs, targets = random_probs()
    predicted = probs.argmax(1).numpy()
    ours = utils.confusion_matrix(predicted, targets.numpy(), 6)
    assert (ours == sk.confusion_matrix(targets, predicted, labels=range(6))).all()
    assert utils.confusion_matrix(np.array([2]), np.array([0]), 3)[0, 2] == 1


# Files


def test_atomic_write_replaces_and_leaves_no_other_file(tmp_path):
    utils.write_atomic(tmp_path / "a.txt", "old")
    utils.write_atomic(tmp_path / "a.txt", "n\u00e9w\n\udcff")
    assert (tmp_path / "a.txt").read_bytes() == b"n\xc3\xa9w\n\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, failing):
    utils.write_atomic(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt.*: No space left on device"):
        utils.write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_write_into_a_file_instead_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        utils.write_atomic(tmp_path / "file" / "a.txt", "new")


NAMES = ["plain.png", "a b.png", "com,ma.png", 'quo"te.png', "new\nline.png", "carriage\rreturn.png", "both\r\n.png"]
NAMES += ["ünï/日本.png", "bytes\udcff\udcfe.png", "'apo.png", '"', "\\", " ", "semi;colon", "\ttab", "#hash"]


def test_csv_gives_every_name_back(tmp_path):
    utils.write_atomic(tmp_path / "a.csv", utils.to_csv(("name", "i"), ((n, i) for i, n in enumerate(NAMES))))
    assert utils.read_csv(tmp_path / "a.csv", ("name", "i")) == [[n, str(i)] for i, n in enumerate(NAMES)]
    with open(tmp_path / "a.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        assert [row[0] for row in csv.reader(f)][1:] == NAMES


def test_csv_lines_end_with_a_newline_alone():
    assert utils.to_csv(("a", "b"), [(1, "x"), (2.5, "y")]) == "a,b\n1,x\n2.5,y\n"


def test_csv_without_torn_line_at_every_byte(tmp_path):
    path, header = tmp_path / "a.csv", ("name", "i")
    rows = [[n, str(i)] for i, n in enumerate(NAMES)]
    content = utils.to_csv(header, rows).encode("utf-8", "surrogateescape")
    ends = [len(utils.to_csv(header, rows[:i]).encode("utf-8", "surrogateescape")) for i in range(len(rows) + 1)]
    for n in range(len(content) + 1):
        path.write_bytes(content[:n])
        whole = max(sum(end <= n for end in ends) - 1, 0)
        assert utils.read_csv(path, header) == rows[:whole], n


def test_missing_csv_has_no_rows(tmp_path):
    assert utils.read_csv(tmp_path / "none.csv", ("a",)) == []


def test_csv_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        utils.read_csv(tmp_path, ("a",))


@pytest.mark.parametrize("content", ["x,y\n1,2\n", "a,b\n1\n2,3\n", "a,b\n1,2,3\n4,5\n", 'a,b\n1,"2"x\n3,4\n'])
def test_damaged_csv_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=r"a\.csv"):
        utils.read_csv(tmp_path / "a.csv", ("a", "b"))


# A run's folder

CONFIG = {"dataset_name": "Beasts", "strategy_name": "BADGE", "seed": 1, "n_query": 3, "n_train": 12, "lr": 0.1}


def metrics_of(i):
    return {name: ((i + 1) * (j + 3) * 0.1234567891) % 1 for j, name in enumerate(METRICS)}


def picks(round, n, first):
    return [Query(round, rank, first + rank, NAMES[(first + rank) % len(NAMES)], f"c{rank % 2}") for rank in range(n)]


# Round r is trained on 4 + 3 r labels; the last query gets the 2 that are left.
ROUNDS = [Round(i, n, metrics_of(i), 1.5, 0.25, 0.125) for i, n in enumerate((4, 7, 10, 12))]
PICKS = [picks(0, 4, 0) + picks(1, 3, 4), picks(2, 3, 7), picks(3, 2, 10), []]


def commit_all(run, upto=4):
    """Commit what is missing, as the loop does: the last round again if its picks are missing."""
    done = len(run.rounds())
    first = done - 1 if done and (run.queries()[-1].round < done < len(ROUNDS)) else done
    for i in range(first, upto):
        run.commit(ROUNDS[i], [q for q in PICKS[i] if q.round > 0 or not run.rounds()])


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


@pytest.fixture
def finished(tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    commit_all(run)
    run.write_environment({"python": "3"})
    run.close()
    return run.folder


def test_folder_is_named_by_dataset_strategy_seed_and_hash(finished, tmp_path):
    name = f"seed1-{utils.config_hash(CONFIG)}"
    assert finished == tmp_path / "done" / "Beasts" / "BADGE" / name
    assert len(utils.config_hash(CONFIG)) == 8


def test_hash_depends_on_every_setting_and_not_on_their_order():
    assert utils.config_hash(dict(reversed(CONFIG.items()))) == utils.config_hash(CONFIG)
    others = [{**CONFIG, k: 99} for k in CONFIG]
    assert len({utils.config_hash(c) for c in [CONFIG, *others]}) == len(CONFIG) + 1


def test_rounds_csv_is_as_designed(finished):
    lines = (finished / "rounds.csv").read_text().splitlines()
    assert lines[0] == "round,n_labeled,accuracy,precision,recall,f1,nll,ece,train_seconds,eval_seconds,query_seconds"
    assert lines[1] == "0,4,0.37037,0.493827,0.617284,0.740741,0.864198,0.987654,1.500,0.250,0.125"
    assert len(lines) == 5


def test_queries_csv_is_as_designed(finished):
    with open(finished / "queries.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["round", "rank", "index", "path", "label"]
    assert rows[1] == ["0", "0", "0", "plain.png", "c0"]
    assert [row[3] for row in rows[1:]] == NAMES[:12]
    assert [row[0] for row in rows[1:]] == list("000011122233")


def test_reopened_run_gives_back_what_was_committed(finished, tmp_path):
    run = RunFolder(tmp_path / "done", CONFIG)
    assert run.queries() == [q for new in PICKS for q in new]
    assert [(r.round, r.n_labeled) for r in run.rounds()] == [(r.round, r.n_labeled) for r in ROUNDS]
    for ours, r in zip(run.rounds(), ROUNDS, strict=True):
        assert ours.metrics == pytest.approx(r.metrics, abs=1e-6)
        assert (ours.train_seconds, ours.eval_seconds, ours.query_seconds) == (1.5, 0.25, 0.125)
    run.close()


def test_lists_given_out_are_copies(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run)
    run.rounds().clear()
    run.queries().clear()
    assert len(run.rounds()) == 4
    assert len(run.queries()) == 12
    run.close()


@pytest.mark.parametrize("name", ["rounds.csv", "queries.csv"])
def test_run_torn_at_every_byte_is_completed_to_the_same_files(finished, tmp_path, capsys, monkeypatch, name):
    def write(path, content):
        path.unlink(missing_ok=True)  # renaming over a file waits for the disk
        path.write_bytes(content.encode("utf-8", "surrogateescape"))

    monkeypatch.setattr(utils, "write_atomic", write)
    whole = files(finished)
    for n in range(len(whole[name]) + 1):
        (finished / name).write_bytes(whole[name][:n])
        run = RunFolder(tmp_path / "done", CONFIG)
        commit_all(run)
        run.close()
        assert files(finished) == whole, n
    assert "dropped what was not committed whole" in capsys.readouterr().err


def test_missing_rounds_or_queries_are_completed_to_the_same_files(finished, tmp_path):
    whole = files(finished)
    for name in ("rounds.csv", "queries.csv"):
        (finished / name).unlink()
        run = RunFolder(tmp_path / "done", CONFIG)
        commit_all(run)
        run.close()
        assert files(finished) == whole, name


def test_dropped_rounds_and_picks_are_counted(finished, tmp_path, capsys):
    lines = (finished / "rounds.csv").read_text().splitlines(keepends=True)
    (finished / "rounds.csv").write_text("".join(lines[:3]))
    RunFolder(tmp_path / "done", CONFIG).close()
    assert "(0 rounds, 2 picks)" in capsys.readouterr().err
    (finished / "queries.csv").unlink()
    RunFolder(tmp_path / "done", CONFIG).close()
    assert "(2 rounds, 0 picks)" in capsys.readouterr().err


@pytest.mark.parametrize("round", range(4))
def test_round_whose_row_was_not_written_does_not_count(tmp_path, monkeypatch, round):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run, round)
    before = run.rounds(), run.queries()
    written = []
    write = run.write

    def fail_at_rounds(name, content):
        written.append(name)
        if name == "rounds.csv":
            raise UserError("the disk is full")
        write(name, content)

    monkeypatch.setattr(run, "write", fail_at_rounds)
    with pytest.raises(UserError, match="full"):
        run.commit(ROUNDS[round], PICKS[round])
    assert written == ["queries.csv", "rounds.csv"]  # the picks stand before the row that makes them count
    assert (run.rounds(), run.queries()) == before
    run.close()

    again = RunFolder(tmp_path, CONFIG)
    assert len(again.rounds()) == round
    assert again.queries() == [q for new in PICKS[:round] for q in new]
    commit_all(again)
    again.close()
    expected = RunFolder(tmp_path / "undisturbed", CONFIG)
    commit_all(expected)
    expected.close()
    for name in ("rounds.csv", "queries.csv"):
        assert (again.folder / name).read_bytes() == (expected.folder / name).read_bytes()


def test_round_whose_picks_were_not_written_changes_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, CONFIG)
    commit_all(run, 2)
    before = files(run.folder)

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(run, "write", full)
    with pytest.raises(UserError, match="full"):
        run.commit(ROUNDS[2], PICKS[2])
    assert files(run.folder) == before
    run.close()


def test_continued_run_keeps_the_metrics_of_its_last_round_and_gains_picks(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], PICKS[0])
    run.commit(Round(1, 7, metrics_of(1), 1.5, 0.25, 0.0), [])  # the last round that was asked for: no query
    run.close()
    run = RunFolder(tmp_path, CONFIG)
    assert len(run.rounds()) == 2
    assert run.queries()[-1].round == 1
    run.commit(Round(1, 7, metrics_of(9), 9.0, 9.0, 0.5), PICKS[1])
    assert len(run.rounds()) == 2
    row = run.rounds()[1]
    assert row.metrics == pytest.approx(metrics_of(1), abs=1e-6)
    assert (row.train_seconds, row.query_seconds) == (1.5, 0.5)
    assert run.queries()[-3:] == PICKS[1]
    run.close()


def test_picks_of_another_number_than_asked_for_do_not_count(tmp_path, capsys):
    run = RunFolder(tmp_path, CONFIG)
    run.commit(ROUNDS[0], picks(0, 4, 0) + picks(1, 2, 4))
    run.close()
    run = RunFolder(tmp_path, CONFIG)
    assert [q.round for q in run.queries()] == [0, 0, 0, 0]
    assert "(0 rounds, 2 picks)" in capsys.readouterr().err
    run.close()


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("rounds.csv", b"\n1,7,", b"\n1,x,"),
        ("rounds.csv", b"\n1,7,", b"\n\xff\x00,7,"),
        ("rounds.csv", b"\n1,7,", b"\n2,7,"),
        ("rounds.csv", b"round,", b"rond,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,one,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,2,"),  # an image twice
        ("queries.csv", b"\n0,1,1,", b"\n0,3,1,"),  # a rank left out
        ("queries.csv", b"\n0,1,1,", b"\n-1,1,1,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,-1,"),
        ("queries.csv", b"\n0,1,1,", b"\n0,1,1,more,"),
        ("queries.csv", b"\n0,1,1,", b"\r\r\r\x00\n"),
        ("config.json", b'"seed": 1', b'"seed": 2'),
        ("config.json", b'"seed": 1,', b""),
        ("config.json", b'"seed": 1', b'"seed": \xff'),
    ],
)
def test_damage_in_the_middle_is_refused_and_nothing_written(finished, tmp_path, name, old, new):
    edit(finished / name, old, new)
    before = files(finished)
    with pytest.raises(UserError, match=str(finished)) as e:
        RunFolder(tmp_path / "done", CONFIG)
    assert "\n" not in str(e.value)
    assert files(finished) == before


def test_config_cut_at_any_byte_is_refused_and_nothing_written(finished, tmp_path):
    whole = (finished / "config.json").read_bytes()
    for n in range(len(whole) - 1):
        (finished / "config.json").write_bytes(whole[:n])
        before = files(finished)
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            RunFolder(tmp_path / "done", CONFIG)
        assert files(finished) == before


@pytest.mark.parametrize("content", ["[]", "7", "null", '"a"', "[1, 2]"])
def test_config_that_is_no_table_of_settings_is_refused(finished, tmp_path, content):
    (finished / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        RunFolder(tmp_path / "done", CONFIG)


def test_results_without_a_config_are_refused(finished, tmp_path):
    (finished / "config.json").unlink()
    with pytest.raises(UserError, match=r"has results but no config\.json"):
        RunFolder(tmp_path / "done", CONFIG)
    assert not (finished / "config.json").exists()


def test_other_configuration_in_the_folder_is_refused_by_setting(finished, tmp_path):
    (finished / "config.json").write_text(json.dumps({**CONFIG, "lr": 0.2, "old": 1}))
    with pytest.raises(UserError, match=r"lr: 0\.2 there, 0\.1 asked for, old: 1 there, None asked for"):
        RunFolder(tmp_path / "done", CONFIG)


def test_environment_keeps_earlier_starts(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    for i in range(3):
        run.write_environment({"start": i})
    run.close()
    told = json.loads((run.folder / "environment.json").read_text())
    assert told == {"start": 2, "earlier": [{"start": 0}, {"start": 1}]}


def test_environment_cut_at_any_byte_or_of_another_kind_is_told_and_replaced(finished, tmp_path, capsys):
    path = finished / "environment.json"
    whole = path.read_bytes()
    run = RunFolder(tmp_path / "done", CONFIG)
    for content in [*(whole[:n] for n in range(len(whole) - 1)), b"[]", b"[1]", b"3", b'{"earlier": 5}', b"\xff"]:
        path.write_bytes(content)
        run.write_environment({"python": "3"})
        assert json.loads(path.read_text())["python"] == "3"
        assert "environment.json was damaged and is written anew" in capsys.readouterr().err
    run.close()


def test_environment_says_with_what():
    told = utils.environment(torch.device("cpu"))
    assert torch.__version__.startswith(told["packages"]["torch"])
    assert told["device"] == "cpu"
    assert None not in told.values()
    assert json.loads(json.dumps(told)) == told


def test_package_under_another_name_is_unknown():
    assert utils.package_version("no-such-package-here") == "unknown"


def git(folder, *words):
    who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", folder, *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_is_the_whole_hash_and_says_when_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    assert utils.git_commit() == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "utils.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "m")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")  # a tag can move, the hash cannot
    assert utils.git_commit() == git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "utils.py").write_text("2")
    assert utils.git_commit() == git(tmp_path, "rev-parse", "HEAD") + "+dirty"


# Locks

HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
{}
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process():
    """Starts a process that runs some lines, says so and waits to be killed."""
    started = []

    def start(lines, *args):
        command = [sys.executable, "-c", HOLD.format(lines), str(ROOT), *map(str, args)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_run_in_use_by_another_process_is_refused_until_it_is_killed(tmp_path, other_process):
    lines = "import json, utils; run = utils.RunFolder(sys.argv[2], json.loads(sys.argv[3]))"
    process = other_process(lines, tmp_path, json.dumps(CONFIG))
    with pytest.raises(UserError, match="is in use: another process is running this experiment now"):
        RunFolder(tmp_path, CONFIG)
    RunFolder(tmp_path, {**CONFIG, "seed": 2}).close()  # another experiment is free
    process.send_signal(signal.SIGKILL)
    process.wait()
    RunFolder(tmp_path, CONFIG).close()


def test_run_refused_or_closed_gives_its_lock_back(finished, tmp_path):
    content = (finished / "config.json").read_bytes()
    (finished / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        RunFolder(tmp_path / "done", CONFIG)
    (finished / "config.json").write_bytes(content)
    first = RunFolder(tmp_path / "done", CONFIG)
    with pytest.raises(UserError, match="in use"):
        RunFolder(tmp_path / "done", CONFIG)
    first.close()
    RunFolder(tmp_path / "done", CONFIG).close()


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    (run.folder / ".model.pt.123.tmp").write_bytes(b"half")
    run.close()
    RunFolder(tmp_path, CONFIG).close()
    assert {p.name for p in run.folder.iterdir()} == {".lock", "config.json"}


def test_waiting_for_a_lock_is_told_and_ends_with_the_other_process(tmp_path, other_process, capsys):
    lines = "import utils, pathlib; f = utils.lock_file(pathlib.Path(sys.argv[2]), False)"
    process = other_process(lines, tmp_path / "l")
    assert utils.lock_file(tmp_path / "l", wait=False) is None
    flock = utils.fcntl.flock

    def kill_then_wait(f, how):
        if not how & utils.fcntl.LOCK_NB:
            process.kill()
        flock(f, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.fcntl, "flock", kill_then_wait)
        with utils.alone(tmp_path / "l", "busy"):
            assert utils.lock_file(tmp_path / "l", wait=False) is None
    assert "another process is busy; waiting for it" in capsys.readouterr().err
    utils.lock_file(tmp_path / "l", wait=False).close()


def test_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(utils.fcntl, "flock", none)
    utils.lock_file(tmp_path / "l", wait=False).close()
    assert "has no locks" in capsys.readouterr().err


def test_results_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        RunFolder(tmp_path / "file", CONFIG)


def test_csv_reader_of_the_standard_library_reads_what_is_written():
    text = utils.to_csv(("a",), [[n] for n in NAMES])
    assert [r[0] for r in csv.reader(io.StringIO(text, newline=""))][1:] == NAMES
