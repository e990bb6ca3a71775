"""Runs of one seed: the same command gives the same run, and round 0 is shared."""

import json
import time

import pytest
import torch
from experiments import count_trainings, same_run, table, without_seconds

from strategies import STRATEGIES, screening
from training import first_round, learner
from training.learner import Learner
from training.model_file import read_model


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_command_gives_the_same_run(run, name):
    same_run(run("a", strategy_name=name, n_round=2)[1], run("b", strategy_name=name, n_round=2)[1])


def test_strategies_of_one_seed_share_first_labels_and_row_0(run):
    folders = [run(name, strategy_name=name, n_round=1)[1] for name in STRATEGIES]
    for folder in folders[1:]:
        assert without_seconds(folder)[0] == without_seconds(folders[0])[0]
        assert table(folder / "queries.csv")[:6] == table(folders[0] / "queries.csv")[:6]
    other = run("other", seed=2, n_round=1)[1]
    assert table(other / "queries.csv")[:6] != table(folders[0] / "queries.csv")[:6]


def test_strategies_of_one_seed_train_round_0_once_and_get_the_same_run(run, tmp_path, monkeypatch):
    trained = count_trainings(monkeypatch)
    _, alone = run("alone", strategy_name="EntropySampling")
    assert trained == [6, 10, 14, 18]
    run("together", strategy_name="RandomSampling")
    run("together", strategy_name="EntropySampling")
    run("together", strategy_name="EntropySampling", seed=2)
    run("together", strategy_name="EntropySampling", lr=0.01)
    assert trained[4:] == [6, 10, 14, 18, 10, 14, 18, 6, 10, 14, 18, 6, 10, 14, 18]
    (together,) = (tmp_path / "together").rglob(alone.name)
    same_run(alone, together)


def test_scoring_in_bf16_changes_the_query_and_not_the_metrics(run, tmp_path, monkeypatch):
    seen = []
    probs = Learner.probs
    monkeypatch.setattr(Learner, "probs", lambda self, x: seen.append((self.bf16, len(x))) or probs(self, x))
    _, exact = run(n_round=1)
    assert [rough for rough, _ in seen] == [False] * 3
    seen.clear()
    _, rough = run("rough", n_round=1, score_bf16=True)
    n_test, n_unlabeled = 18, 30
    assert seen == [(False, n_test), (True, n_unlabeled), (False, n_test)]
    assert without_seconds(rough)[0] == without_seconds(exact)[0]
    assert [json.loads((p / "config.json").read_text())["score_bf16"] for p in (exact, rough)] == [False, True]


def test_a_screened_run_picks_what_a_plain_one_picks(run, monkeypatch):
    monkeypatch.setattr(screening, "SCREENED_FROM", 10)
    monkeypatch.setattr(screening, "SAMPLED", 3)
    monkeypatch.setattr(learner, "has_fast_bf16", lambda device: True)
    seen = []
    probs = Learner.probs
    monkeypatch.setattr(Learner, "probs", lambda self, x: seen.append((self.bf16, len(x))) or probs(self, x))
    _, screened = run(n_round=2)
    n_test, n_unlabeled = 18, 30
    assert seen[:2] == [(False, n_test), (True, n_unlabeled)]
    assert all(not rough and n < n_unlabeled for rough, n in seen[2:4])
    seen.clear()
    _, plain = run("plain", n_round=2, **{"no-screen": True})
    assert seen == [(False, n_test), (False, n_unlabeled), (False, n_test), (False, n_unlabeled - 4), (False, n_test)]
    assert without_seconds(screened) == without_seconds(plain)
    assert [json.loads((p / "config.json").read_text())["screen"] for p in (screened, plain)] == [True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["state_dict"]["head.weight"].view(torch.int32)[0, 0].bitwise_xor_(1 << 30),
        lambda content: content.pop("train_seconds"),
        lambda content: content.pop("state_dict"),
        lambda content: content.update(classes=5),
    ],
)
def test_a_shared_round_0_with_other_content_is_trained_again(run, tmp_path, monkeypatch, capsys, damage):
    """The first is a flipped bit: the archive's checksums tell, but torch does not look at them."""
    run(n_round=0)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    whole = shared.read_bytes()
    content = torch.load(shared, weights_only=True)
    head = content["state_dict"]["head.weight"].numpy().tobytes()
    changed = damage(content)
    torch.save(content, shared)
    if changed is not None and isinstance(changed, torch.Tensor):
        shared.write_bytes(whole.replace(head, content["state_dict"]["head.weight"].numpy().tobytes()))
        assert sum(a != b for a, b in zip(whole, shared.read_bytes(), strict=True)) == 1
    trained = count_trainings(monkeypatch)
    run(n_round=0, strategy_name="EntropySampling")
    assert trained == [6]
    assert "training round 0 again" in capsys.readouterr().err


def test_a_run_that_could_never_need_so_many_rounds_starts_at_once(run):
    start = time.perf_counter()
    assert run(n_round=10**12, n_query=15, min_steps=40)[0] == 0
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("name", ["demo.py", "nets.py", "data.py", "utils.py", "training/loop.py", "images/cache.py"])
def test_other_code_does_not_share_round_0(run, tmp_path, monkeypatch, name):
    run(n_round=0)
    trained = count_trainings(monkeypatch)
    run(n_round=0, strategy_name="EntropySampling")
    assert trained == []
    changed = tmp_path / "changed"
    for source in first_round.ROOT.glob("**/*.py"):
        if not {"tests", ".venv"} & set(source.relative_to(first_round.ROOT).parts):
            copy = changed / source.relative_to(first_round.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text() + "# changed" * (copy == changed / name))
    monkeypatch.setattr(first_round, "ROOT", changed)
    run(n_round=0, strategy_name="LeastConfidence")
    assert trained == [6]


def test_a_damaged_shared_round_0_is_trained_again(run, tmp_path, monkeypatch):
    _, whole = run(n_round=1)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    shared.write_bytes(shared.read_bytes()[:1000])
    trained = count_trainings(monkeypatch)
    run(n_round=1, strategy_name="EntropySampling")
    assert trained == [6, 10]
    (other,) = (tmp_path / "results").glob("Beasts/EntropySampling/*")
    assert without_seconds(other)[0] == without_seconds(whole)[0]


def test_round_0_of_another_seed_in_its_place_is_not_used(run, tmp_path, monkeypatch, capsys):
    run(n_round=0, seed=1)
    run(n_round=0, seed=2)
    first, second = (tmp_path / "results" / ".round0").glob("*.pt")
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    trained = count_trainings(monkeypatch)
    for seed in (1, 2):
        run(n_round=0, seed=seed, strategy_name="EntropySampling")
        assert "(another key); training round 0 again" in capsys.readouterr().err
    assert trained == [6, 6]


@pytest.mark.parametrize(
    ("value", "fitting", "usable"), [(torch.nan, True, False), (0.0, False, False), (0.0, True, True)]
)
def test_round_0_with_other_weights_is_not_used(run, tmp_path, monkeypatch, capsys, value, fitting, usable):
    """With a fitting digest, only weights that no training could give are noticed."""
    run(n_round=0)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    read, content = read_model(shared, torch.device("cpu"))
    read.net.head.weight.fill_(value)
    content["state_dict"]["head.weight"].fill_(value)
    if fitting:
        content["digest"] = first_round.weights_digest(read)
    torch.save(content, shared)
    trained = count_trainings(monkeypatch)
    run(n_round=0, strategy_name="EntropySampling")
    assert trained == ([] if usable else [6])
    assert ("training round 0 again" in capsys.readouterr().err) != usable


def test_temporary_files_of_a_killed_run_are_removed(run, tmp_path):
    run(n_round=0)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    left = shared.with_name(f".{shared.name}.12345.tmp")
    left.write_bytes(b"half")
    run(n_round=0, strategy_name="EntropySampling")
    assert not left.exists()
