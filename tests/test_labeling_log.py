"""The label log: what stands after any sequence of decisions, and what a crash leaves."""

import os
import random
from contextlib import closing

import pytest

from files import to_csv
from labeling.log import ACTIONS, COLUMNS, LABEL, REVIEW, SKIP, UNDO, UNSURE, Decision, LabelLog, read_log, standing
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")


def decision(annotator, path, action=LABEL, label="", seconds="1.5"):
    return Decision("2026-11-24T10:00:00.000Z", annotator, path, action, label, seconds)


def plain_fold(decisions):
    """The slow reference: undone decisions crossed out, those before a review too, then the last of each annotator."""
    kept = []
    for d in decisions:
        if d.action != UNDO:
            kept.append(d)
            continue
        for i in reversed(range(len(kept))):
            if (kept[i].annotator, kept[i].path) == (d.annotator, d.path):
                del kept[i]
                break
    verdicts = {}
    for path in {d.path for d in kept}:
        votes = {}
        for d in kept:
            if d.path == path:
                if d.action == REVIEW:
                    votes.clear()
                votes[d.annotator] = (d.action, d.label)
        labels = [label for _, label in votes.values() if label]
        counts = sorted(((labels.count(x), x) for x in {*labels}), reverse=True)
        if len(counts) > 1 and counts[0][0] == counts[1][0]:
            verdicts[path] = ("disputed", "")
        elif counts:
            verdicts[path] = (LABEL, counts[0][1])
        else:
            verdicts[path] = (UNSURE if (UNSURE, "") in votes.values() else SKIP, "")
    return verdicts


@pytest.mark.parametrize("seed", range(30))
def test_what_stands_is_what_a_plain_fold_says(seed):
    rng = random.Random(seed)
    decisions = []
    for _ in range(200):
        action = rng.choice(ACTIONS)
        label = rng.choice("ab") if action in (LABEL, REVIEW) else ""
        decisions.append(decision(rng.choice("xyz"), rng.choice("123456"), action, label))
    assert standing(decisions).verdicts == plain_fold(decisions)


def test_undo_brings_back_the_decision_before_it():
    state = standing([decision("x", "1", label="a"), decision("x", "1", label="b"), decision("x", "1", UNDO)])
    assert state.verdict("1") == (LABEL, "a")


def test_one_annotator_cannot_undo_what_another_decided():
    state = standing([decision("x", "1", label="a"), decision("y", "1", UNDO)])
    assert state.verdict("1") == (LABEL, "a")


def test_a_tie_is_disputed_until_a_third_vote():
    two = [decision("x", "1", label="a"), decision("y", "1", label="b")]
    assert standing(two).verdict("1") == ("disputed", "")
    assert standing([*two, decision("z", "1", label="b")]).verdict("1") == (LABEL, "b")


def test_a_review_decides_whatever_was_decided_before():
    two = [decision("x", "1", label="a"), decision("y", "1", label="b"), decision("x", "1", REVIEW, "c")]
    assert standing(two).verdict("1") == (LABEL, "c")
    assert standing([*two, decision("x", "1", UNDO)]).verdict("1") == ("disputed", "")


HOSTILE = ["plain.png", 'quo"te, comma.png', "line\nbreak.png", "=1+1.png", "\udce9.png", " .png", "ü/雪.png"]


def test_any_path_is_read_as_it_was_written(tmp_path):
    log = LabelLog(tmp_path / "labels.csv")
    written = [decision("x", path, label="a,\n'b'") for path in HOSTILE]
    log.append(written)
    log.close()
    assert read_log(tmp_path / "labels.csv") == written


def some_rows(n):
    return [decision("x", f"{i}.png", label="a") for i in range(n)]


def test_torn_anywhere_in_its_last_row_a_log_keeps_all_others(tmp_path, capsys):
    path = tmp_path / "labels.csv"
    text = to_csv(COLUMNS, some_rows(3))
    last = text[:-1].rindex("\n") + 1
    for cut in range(last, len(text)):
        path.write_text(text[:cut])
        assert len(read_log(path)) == 2
        assert ("torn" in capsys.readouterr().err) == (cut > last)
        log = LabelLog(path)
        log.append(some_rows(1))
        log.close()
        assert len(read_log(path)) == 3
        capsys.readouterr()


def test_zeros_at_the_end_are_left_out(tmp_path, capsys):
    path = tmp_path / "labels.csv"
    path.write_text(to_csv(COLUMNS, some_rows(3)) + "\0" * 100)
    assert len(read_log(path)) == 3
    assert "torn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\0" * 50, "is no label log"),
        ("something else\n1\n", "is no label log"),
        (to_csv(COLUMNS, [("t", "x", "1.png", "label", "", "", "", "")]), "damaged in line 2: the action is 'label'"),
        (to_csv(COLUMNS, [("t", "x", "1.png", "erase", "", "", "", "")]), "damaged in line 2: the action is 'erase'"),
        (to_csv(COLUMNS, [("t", "x", "1.png")]) + to_csv(some_rows(1)[0], []), "damaged in line 2: 3 cells"),
        (to_csv(COLUMNS, some_rows(1)) + "\0\0\n" + to_csv(some_rows(1)[0], []), "damaged in line 3: zero bytes"),
    ],
)
def test_damage_elsewhere_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_log(tmp_path / "labels.csv")


def test_the_logs_of_two_annotators_can_be_concatenated(tmp_path):
    path = tmp_path / "labels.csv"
    x, y = [decision("x", "1", label="a")], [decision("y", "2", label="b")]
    path.write_text(to_csv(COLUMNS, x) + to_csv(COLUMNS, y))
    assert read_log(path) == x + y
    LabelLog(path).close()
    assert path.read_text() == to_csv(COLUMNS, x + y)


def test_an_error_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"

    def full(_):
        raise OSError(28, "No space left on device", str(path))

    with closing(LabelLog(path)) as log:
        log.append(some_rows(2))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            log.append(some_rows(3))
        assert len(log.standing.verdicts) == 2
    assert len(read_log(path)) == 2


def test_a_deleted_log_is_noticed(tmp_path):
    with closing(LabelLog(tmp_path / "labels.csv")) as log:
        (tmp_path / "labels.csv").unlink()
        with pytest.raises(UserError, match="deleted"):
            log.append(some_rows(1))
