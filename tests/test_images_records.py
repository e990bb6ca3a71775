"""JSON files that are believed when they are read again."""

import json
import os

import pytest

from images.records import is_damaged, read_record, write_record

CONTENT = {"mean": [0.1, 0.25, 1e-30], "name": "ü\udcff\n", "list": [[1, "a"], []], "none": None}


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path / "a.json", CONTENT)
    assert read_record(tmp_path / "a.json") == CONTENT
    assert not is_damaged(tmp_path / "a.json")


def test_a_changed_value_a_lost_one_and_a_cut_file_are_damage(tmp_path):
    path = tmp_path / "a.json"
    write_record(path, CONTENT)
    whole = json.loads(path.read_text())
    texts = [json.dumps({**whole, key: 5}) for key in whole]
    texts += [json.dumps({k: v for k, v in whole.items() if k != key}) for key in CONTENT]
    texts += [json.dumps({**whole, "more": 1}), "[1]", "5", "", "[" * 200_000, path.read_text()[:-1]]
    for text in texts:
        path.write_text(text)
        assert read_record(path) == {}
        assert is_damaged(path), text[:80]


def test_a_missing_file_or_one_of_an_older_version_is_not_believed_and_no_damage(tmp_path):
    (tmp_path / "old.json").write_text('{"mean": [9.0]}')
    for name in ("old.json", "none.json"):
        assert read_record(tmp_path / name) == {}
        assert not is_damaged(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_a_pipe_is_damage(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == {}
    assert is_damaged(tmp_path / "a.json")
