"""Files that survive a crash: atomic writes, CSV files, locks."""

import csv
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from processes import ROOT, holding
from small_run import NAMES

import files
from files import Table, lock_file
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")


# Atomic writes


def test_atomic_write_replaces_and_leaves_no_other_file(tmp_path):
    files.write_atomic(tmp_path / "a.txt", "old")
    files.write_atomic(tmp_path / "a.txt", "n\u00e9w\n\udcff")
    assert (tmp_path / "a.txt").read_bytes() == b"n\xc3\xa9w\n\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, failing):
    files.write_atomic(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt.*: No space left on device"):
        files.write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_write_into_a_file_instead_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        files.write_atomic(tmp_path / "file" / "a.txt", "new")


# CSV


def test_csv_gives_every_name_back(tmp_path):
    files.write_atomic(tmp_path / "a.csv", files.to_csv(("name", "i"), ((n, i) for i, n in enumerate(NAMES))))
    assert files.read_csv(tmp_path / "a.csv", ("name", "i")).rows == [[n, str(i)] for i, n in enumerate(NAMES)]
    with open(tmp_path / "a.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        assert [row[0] for row in csv.reader(f)][1:] == NAMES


def test_csv_lines_end_with_a_newline_alone():
    assert files.to_csv(("a", "b"), [(1, "x"), (2.5, "y")]) == "a,b\n1,x\n2.5,y\n"


def test_a_cell_is_quoted_as_the_writer_quotes_it():
    names = [*NAMES, "", *(f"{a}{c}{b}" for c in map(chr, range(256)) for a in ("", "x") for b in ("", "y", '"'))]
    for name in names:
        assert files.to_csv((1, name), ()) == f"1,{files.csv_cell(name)}\n"


def test_csv_cut_at_any_byte_is_refused_unless_a_line_ends_there(tmp_path):
    path, header = tmp_path / "a.csv", ("name", "i")
    rows = [[n, str(i)] for i, n in enumerate(NAMES)]
    content = files.to_csv(header, rows).encode("utf-8", "surrogateescape")
    ends = [len(files.to_csv(header, rows[:i]).encode("utf-8", "surrogateescape")) for i in range(len(rows) + 1)]
    for n in range(len(content) + 1):
        for cut in (content[:n], content[:n] + bytes(len(content) - n)):
            path.write_bytes(cut)
            if n in ends and len(cut) == n:
                assert files.read_csv(path, header).rows == rows[: ends.index(n)], n
                continue
            if cut == content:
                continue
            with pytest.raises(UserError, match=r"a\.csv is damaged") as e:
                files.read_csv(path, header)
            whole = sum(end <= n for end in ends) - 1
            if whole < 0:
                assert "move its folder away to start over" in str(e.value), n
            else:
                line = content[: ends[whole]].count(b"\n") + 1
                assert f"is damaged in line {line}: " in str(e.value), n
                assert f"delete line {line} and any below it" in str(e.value), n


def test_missing_csv_has_no_rows(tmp_path):
    assert files.read_csv(tmp_path / "none.csv", ("a",)) == Table((), [])


def test_csv_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        files.read_csv(tmp_path, ("a",))


@pytest.mark.parametrize(
    "content",
    ["x,y\n1,2\n", "a,c\n1,2\n", "a,b,a\n1,2,3\n", "a,b\n1\n2,3\n", "a,b\n1,2,3\n4,5\n", 'a,b\n1,"2"x\n3,4\n'],
)
def test_damaged_csv_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=r"a\.csv"):
        files.read_csv(tmp_path / "a.csv", ("a", "b"))


def test_csv_reader_of_the_standard_library_reads_what_is_written():
    text = files.to_csv(("a",), [[n] for n in NAMES])
    assert [r[0] for r in csv.reader(io.StringIO(text, newline=""))][1:] == NAMES


def test_columns_are_found_by_name_wherever_they_stand(tmp_path):
    (tmp_path / "a.csv").write_text("new,b,a\nx,2,1\ny,4,3\n")
    table = files.read_csv(tmp_path / "a.csv", ("a", "b"))
    assert table.columns == ("new", "b", "a")
    assert [(r["a"], r["b"], r["new"]) for r in table.records()] == [("1", "2", "x"), ("3", "4", "y")]


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,x\n1,2\n")
    with pytest.raises(UserError, match=r"a\.csv begins with 'a,x', which lacks b, c$"):
        files.read_csv(tmp_path / "a.csv", ("a", "b", "c"))


def test_the_line_that_is_damaged_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5\n")
    with pytest.raises(UserError, match=r"damaged in line 3: 1 cells under 2 columns;"):
        files.read_csv(tmp_path / "a.csv", ("a", "b"))


def test_an_extended_table_keeps_its_text_and_gains_columns_at_the_end():
    old = Table(("b", "unknown", "a"), [["2", " 0.10 ", "1"]])
    new = old.extended(("a", "b", "c"), [{"c": "6", "a": "4", "b": "5"}])
    assert new.columns == ("b", "unknown", "a", "c")
    assert new.rows == [["2", " 0.10 ", "1", ""], ["5", "", "4", "6"]]
    assert new.text() == "b,unknown,a,c\n2, 0.10 ,1,\n5,,4,6\n"
    assert old.rows == [["2", " 0.10 ", "1"]]  # the old table is as it was


def test_an_empty_table_takes_the_columns_in_their_order():
    assert Table((), []).extended(("b", "a"), [{"a": "1", "b": "2"}]).text() == "b,a\n2,1\n"


# Locks

LOCK = "import files, os, pathlib, subprocess; lock = files.lock_file(pathlib.Path(sys.argv[2]), False)"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def is_free(path):
    """Whether a lock can be had, which gives it back at once."""
    lock = lock_file(path, wait=False)
    if lock:
        lock.close()
    return lock is not None


def test_a_lock_excludes_others_until_it_is_closed_and_its_file_stays(tmp_path):
    path = tmp_path / "l"
    lock = lock_file(path, wait=False)
    inode = path.stat().st_ino
    assert lock_file(path, wait=False) is None
    assert is_free(tmp_path / "other")
    lock.close()
    lock.close()
    assert is_free(path)
    assert path.stat().st_ino == inode


def test_a_lock_can_be_closed_by_another_thread(tmp_path):
    lock = lock_file(tmp_path / "l", wait=False)
    thread = threading.Thread(target=lock.close)
    thread.start()
    thread.join()
    assert is_free(tmp_path / "l")


def test_a_killed_process_leaves_no_lock(tmp_path):
    with holding(LOCK, tmp_path / "l") as process:
        assert not is_free(tmp_path / "l")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert is_free(tmp_path / "l")


# A child that does something with the lock that it was born with, and then lives until stdin is closed.
FORK = """
ready, done = os.pipe()
if os.fork() == 0:
    {}
    os.write(done, b"x")
    os.read(0, 1)
    os._exit(0)
os.read(ready, 1)
"""
SPAWN = """
wait = "import sys; print(flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", wait], close_fds=False, stdout=subprocess.PIPE)
child.stdout.readline()
"""


@pytest.mark.parametrize(
    "children",
    [
        pytest.param(SPAWN, id="spawn"),
        *(pytest.param(FORK.format(act), marks=needs_fork, id=act) for act in ("pass", "lock.close()", "del lock")),
    ],
)
def test_a_child_neither_ends_nor_keeps_the_lock_of_its_parent(tmp_path, children):
    with holding(LOCK + children, tmp_path / "l") as process:
        assert not is_free(tmp_path / "l")
        process.send_signal(signal.SIGKILL)
        process.wait()  # the child lives on
        assert is_free(tmp_path / "l")


@needs_fork
def test_a_forked_child_can_take_the_lock_itself_once_its_parent_gives_it_back(tmp_path):
    lines = LOCK + FORK.format("first = files.lock_file(pathlib.Path(sys.argv[2]), False)\n    assert first is None")
    with holding(lines + "lock.close()", tmp_path / "l"):
        assert is_free(tmp_path / "l")


COUNT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from files import lock_file
lock, number = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
for _ in range(100):
    while not (held := lock_file(lock, wait=False)):
        pass
    n = int(number.read_text())
    number.write_text(str(n + 1))
    held.close()
"""


def test_no_two_processes_ever_hold_one_lock(tmp_path):
    (tmp_path / "n").write_text("0")
    command = [sys.executable, "-c", COUNT, ROOT, tmp_path / "l", tmp_path / "n"]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [p.wait() for p in processes] == [0] * 4
    assert (tmp_path / "n").read_text() == "400"


def test_waiting_for_a_lock_is_noted_once_and_ends_with_the_other_process(tmp_path, monkeypatch, capsys):
    with holding(LOCK, tmp_path / "l") as process:

        def kill_then_wait(path, wait):
            if wait:
                process.kill()
            return lock_file(path, wait)

        monkeypatch.setattr(files, "lock_file", kill_then_wait)
        with files.alone(tmp_path / "l", "busy"):
            assert process.wait() == -signal.SIGKILL
            assert not is_free(tmp_path / "l")
    assert capsys.readouterr().err == "note: another process is busy; waiting for it\n"
    assert is_free(tmp_path / "l")


def test_a_lock_that_is_free_is_taken_without_a_word(tmp_path, capsys):
    with files.alone(tmp_path / "l", "busy"):
        assert not is_free(tmp_path / "l")
    assert capsys.readouterr().err == ""


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="bug"), files.alone(tmp_path / "l", "busy"):
        raise ValueError("a bug")
    assert is_free(tmp_path / "l")


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, capsys, error):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", none)
    for _ in range(2):  # no file stands in for a lock
        lock = lock_file(tmp_path / "l", wait=False)
        assert capsys.readouterr().err.startswith(f"note: the file system of {tmp_path} has no locks")
    lock.close()


def test_a_lock_that_fails_otherwise_is_one_line(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(UserError, match=f"cannot write {tmp_path / 'l'}: Input/output error"):
        lock_file(tmp_path / "l", wait=False)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}: Is a directory"):
        lock_file(tmp_path, wait=False)


def test_without_fcntl_a_note_takes_the_place_of_locks(tmp_path):
    script = "import sys; sys.modules['fcntl'] = None; import files, pathlib; "
    script += "files.lock_file(pathlib.Path('l'), True).close()"
    command = [sys.executable, "-W", "error", "-c", script]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "has no locks" in done.stderr


# Links that somebody puts in the way


def test_a_temporary_file_is_new_and_its_name_cannot_be_guessed(tmp_path, monkeypatch):
    names = []
    for _ in range(2):
        with files.replacing(tmp_path / "a.txt") as f:
            names.append(os.path.basename(f.name))
            assert str(os.getpid()) not in names[-1].split(".")
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"\.a\.txt\.[0-9a-f]{16}\.tmp", name) for name in names)
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)  # guessed after all
    (tmp_path / f".a.txt.{'0' * 16}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="File exists"):
        files.write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_that_is_a_link_is_replaced_itself(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "precious")
    files.write_atomic(tmp_path / "a.txt", "new")
    assert ((tmp_path / "precious").read_text(), (tmp_path / "a.txt").read_text()) == ("mine", "new")
    assert not (tmp_path / "a.txt").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_a_lock_that_is_a_link_is_refused_in_one_line(tmp_path, there):
    target = tmp_path / "precious"
    if there:
        target.write_text("mine")
    (tmp_path / "l").symlink_to(target)
    with pytest.raises(UserError, match=r"/l is a link and not the file of a lock; remove it$"):
        lock_file(tmp_path / "l", wait=False)
    assert target.read_text() == "mine" if there else not target.exists()


def test_a_lock_file_is_not_emptied(tmp_path):
    (tmp_path / "l").write_text("mine")
    assert is_free(tmp_path / "l")
    assert (tmp_path / "l").read_text() == "mine"


def test_new_files_have_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_temporary_files_of_killed_processes_are_swept_and_no_others(tmp_path):
    left = [".a[1].txt.0123456789abcdef.tmp", ".a[1].txt.4711.tmp"]  # the second of an older version
    others = ["a[1].txt", ".a1.txt.01.tmp", ".a[1].txt.x.tmp", ".a[1].txt.b.txt.01.tmp", ".b.txt.01.tmp"]
    for name in left + others:
        (tmp_path / name).write_text("")
    files.sweep_temporaries(tmp_path / "a[1].txt")
    assert sorted(os.listdir(tmp_path)) == sorted(others)
