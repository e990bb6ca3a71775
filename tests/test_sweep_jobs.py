"""Which runs a sweep does, what it refuses, and what it takes for finished."""

import itertools
import os
import shlex
from collections import Counter

import pytest
from sweeping import all_jobs

import demo
import sweep
from runs.folder import RunFolder
from runs.job import is_finished
from runs.outputs import LastRound
from runs.reading import read_run
from strategies import STRATEGIES


def values_of(jobs, *names):
    return [tuple(job.flags[job.flags.index(f"--{name}") + 1] for name in names) for job in jobs]


@pytest.mark.parametrize(
    "notation", ["--seed 1-3", "--seed 1,2,3", "--seed 1 2 3", "--seed 1, 2 3", "--seed=1-2,3", "--seed 1-3 2 1-2"]
)
def test_seeds_may_be_ranges_commas_and_spaces(words, notation):
    jobs = all_jobs([*words, *notation.split()])
    both = itertools.product(["RandomSampling", "MarginSampling"], "123")
    assert values_of(jobs, "strategy_name", "seed") == list(both)


def test_every_combination_of_all_lists_is_one_run(words):
    lists = {
        "dataset_name": ["Beasts", "Plants"], "net_name": ["SmallCNN", "ResNet18"], "n_init_labeled": ["6", "7"],
        "n_query": ["4", "5"], "strategy_name": ["RandomSampling", "BADGE"], "seed": ["1", "2"],
    }  # fmt: skip
    given = [word for name, values in lists.items() for word in (f"--{name}", ",".join(values))]
    jobs = all_jobs([*words, *given])
    assert sorted(values_of(jobs, *lists)) == sorted(itertools.product(*lists.values()))
    assert len({job.folder for job in jobs}) == 64


def test_groups_of_strategies(words):
    def names(*given):
        return [job.folder.parent.name for job in all_jobs([*words, "--strategy_name", *given, "--seed", "1"])]

    eight = names("eight")
    assert len(eight) == 8
    assert eight[-1] == "AdversarialMargin"
    assert set(names("fast")) == set(STRATEGIES) - {"AdversarialMargin", "AdversarialBIM", "BatchBALD"}
    assert names("fast", "eight", "MarginSampling") == [*names("fast"), "AdversarialMargin"]


def test_all_is_every_strategy_and_the_default(words):
    jobs = all_jobs([*words, "--strategy_name", "all", "--seed", "1"])
    assert [name for (name,) in values_of(jobs, "strategy_name")] == list(STRATEGIES)
    assert sweep.parser().parse_args([]).strategy_name == ["all"]


def test_two_names_of_one_experiment_are_one_run(words):
    jobs = all_jobs([*words, "--strategy_name", "CoreSet", "KCenterGreedy", "all", "--seed", "1"])
    assert len(jobs) == len(STRATEGIES)


def test_a_dataset_is_loaded_once(words, monkeypatch):
    loaded, load = [], sweep.load
    monkeypatch.setattr(sweep, "load", lambda *which: loaded.append(which[0]) or load(*which))
    all_jobs([*words, "--dataset_name", "Beasts,Plants", "--seed", "1-9"])
    assert sorted(loaded) == ["Beasts", "Plants"]


def test_other_flags_reach_demo_unchanged(words):
    (job,) = all_jobs([*words, "--strategy_name", "BADGE", "--seed", "7", "--lr=0.5", "--no-flip", "--deterministic"])
    assert job.flags[-3:] == ("--lr=0.5", "--no-flip", "--deterministic")
    args = demo.parser().parse_args(job.flags)
    assert (args.strategy_name, args.seed, args.lr, args.flip, args.n_round) == ("BADGE", 7, 0.5, False, 2)


def test_a_note_on_many_runs_is_printed_once(words, capsys):
    all_jobs([*words, "--n_round", "99"])
    assert capsys.readouterr().err.count("the run stops after") == 1


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 20])
def test_shards_cover_every_run_exactly_once(words, n):
    jobs = all_jobs([*words, "--seed", "1-4"])
    shards = [sweep.shard(jobs, f"{i}/{n}") for i in range(1, n + 1)]
    assert Counter(itertools.chain(*shards)) == Counter(jobs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_dry_run_prints_commands_that_do_the_runs_and_starts_nothing(words, tmp_path, capsys):
    assert sweep.main([*words, "--seed", "3", "--threads", "2", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "results").exists()
    assert len(lines) == 2
    for line, job in zip(lines, all_jobs([*words, "--seed", "3"]), strict=True):
        settings, command = line.split(" python demo.py ")
        assert settings == "OMP_NUM_THREADS=2 MKL_NUM_THREADS=2"
        assert tuple(shlex.split(command)) == job.flags
        assert demo.main(shlex.split(command)) == 0
        assert is_finished(job)
    capsys.readouterr()
    assert sweep.main([*words, "--seed", "3", "--dry_run"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--n_rou 3", "unrecognized arguments: --n_rou"),
        ("--n_round many", "invalid int value: 'many'"),
        ("--n_query 4,many", "invalid int value: 'many'"),
        ("--n_query 4,100", "--n_query 100: only 30 of 36"),
        ("--n_query 0", "--n_query 0: must be 1 or more"),
        ("--strategy_name RandomSampling,Nonsense", "--strategy_name Nonsense: must be one of"),
        ("--strategy_name ,", "--strategy_name ,: holds no value"),
        ("--strategy_name all --strategy_args n_drop=3", "RandomSampling takes no arguments"),
        ("--net_name SmallCNN Nonsense", "--net_name Nonsense"),
        ("--dataset_name Beasts Nonsense", "it holds Beasts, Plants"),
        ("--seed 1-x", "--seed 1-x: must be numbers and ranges"),
        ("--seed 3-1", "--seed 3-1: must be"),
        ("--seed 0-10000", "--seed 0-10000: must be"),
        ("--seed -1", "--seed -1: must be"),
        ("--shard 0/3", "--shard 0/3: must be I/N"),
        ("--shard 4/3", "--shard 4/3"),
        ("--shard 1", "--shard 1:"),
        ("--jobs 0", "--jobs 0: must be 1 or more"),
        ("--threads 0", "--threads 0"),
        ("--jobs_per_gpu -1", "--jobs_per_gpu -1"),
        ("--engine nonsense", "invalid choice: 'nonsense'"),
        ("--lr 0", "--lr 0.0: must be above 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(words, more, message, tmp_path, capsys):
    try:
        code = sweep.main([*words, *more.split()])
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("n_query", ["4", "16"])  # 16: the pool of 36 is empty after two rounds
def test_finished_is_what_demo_calls_finished(words, n_query, capsys):
    words = [*words, "--strategy_name", "RandomSampling", "--seed", "1", "--n_query", n_query]
    for n_round in (0, 1, 3):
        (job,) = all_jobs([*words, "--n_round", str(n_round)])
        assert not is_finished(job)
        assert demo.main(list(job.flags)) == 0
        assert is_finished(job)
        assert "finished already" not in capsys.readouterr().out
    demo.main(list(job.flags))
    assert "finished already" in capsys.readouterr().out
    (less,) = all_jobs([*words, "--n_round", "1"])
    assert not is_finished(less)  # environment.json has yet to record that one round is requested
    demo.main(list(less.flags))
    assert "finished already" in capsys.readouterr().out
    assert is_finished(less)
    assert len(read_run(job.folder).rounds) == 2
    assert not is_finished(job)
    demo.main(list(job.flags))
    assert is_finished(job)
    assert len(read_run(job.folder).rounds) == min(4, 1 + -(-30 // int(n_query)))


def test_without_an_environment_json_all_rounds_count_as_requested(words):
    (job,) = all_jobs([*words, "--strategy_name", "RandomSampling", "--seed", "1"])
    demo.main(list(job.flags))
    (job.folder / "environment.json").unlink()
    (less,) = all_jobs([*words, "--strategy_name", "RandomSampling", "--seed", "1", "--n_round", "1"])
    assert (is_finished(job), is_finished(less)) == (True, False)
    demo.main(list(less.flags))
    assert (is_finished(job), is_finished(less)) == (False, True)


@pytest.mark.parametrize("damage", ["torn", "row", "empty", "gone", "picks", "picks gone", "bytes"])
def test_a_damaged_run_is_not_finished(words, damage):
    (job,) = all_jobs([*words, "--strategy_name", "RandomSampling", "--seed", "1"])
    demo.main(list(job.flags))
    rounds, queries = job.folder / "rounds.csv", job.folder / "queries.csv"
    text = rounds.read_text()
    if damage == "torn":
        rounds.write_text(text[:-30])
    elif damage == "row":
        rounds.write_text("".join(text.splitlines(keepends=True)[:-1]))
    elif damage == "empty":
        rounds.write_text("")
    elif damage == "gone":
        rounds.unlink()
    elif damage == "picks":
        queries.write_text("".join(queries.read_text().splitlines(keepends=True)[:-1]))
    elif damage == "picks gone":
        queries.unlink()
    elif damage == "bytes":
        rounds.write_bytes(os.urandom(200))
    assert not is_finished(job)


def test_a_run_killed_between_its_last_commit_and_its_output_files_is_not_finished(words):
    (job,) = all_jobs([*words, "--strategy_name", "RandomSampling", "--seed", "1"])
    demo.main(list(job.flags))
    path = job.folder / "last_round.json"
    path.write_text(LastRound(job.n_rows - 2, {}).text())
    assert not is_finished(job)
    demo.main(list(job.flags))
    assert is_finished(job)
    path.write_text("{")
    assert not is_finished(job)
    path.unlink()  # as in results of an older version
    assert is_finished(job)


def test_a_folder_in_use_is_refused_with_the_words_that_a_sweep_looks_for(words, tmp_path, capsys):
    (job,) = all_jobs([*words, "--strategy_name", "RandomSampling", "--seed", "1"])
    config = demo.experiment(demo.parser().parse_args(job.flags)).config
    held = RunFolder(tmp_path / "results", config)
    assert demo.main(list(job.flags)) == 2
    held.close()
    assert sweep.IN_USE in capsys.readouterr().err
