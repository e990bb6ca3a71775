"""The strategies by name and their arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

import strategies
from runs.options import recorded
from strategies import ALIASES, STRATEGIES, hyperparameters, resolve
from utils import UserError, stream

# What version 0.1.0 recorded. A later hyperparameter must be declared with `runs.options.added`, or every finished run
# of the strategy would get another folder.
RECORDED_BY_0_1_0 = {
    "RandomSampling": {},
    "LeastConfidence": {},
    "MarginSampling": {},
    "EntropySampling": {},
    "UncertaintySamplingWithDropoutEstimation": {"n_drop": 50, "measure": "entropy"},
    "BayesianActiveLearningDisagreement": {"n_drop": 50},
    "ClusterBasedSelection": {},
    "AdversarialMargin": {"n_top": 6, "overshoot": 0.02, "max_steps": 50},
    "AdversarialBIM": {"step": 0.02, "bound": 1.0, "n_search": 3},
    "KCenterGreedy": {},
    "BADGE": {},
}


def test_all_names_of_the_main_job_are_there():
    eight = [
        "RandomSampling", "LeastConfidence", "MarginSampling", "EntropySampling", "ClusterBasedSelection",
        "UncertaintySamplingWithDropoutEstimation", "BayesianActiveLearningDisagreement", "AdversarialMargin",
    ]  # fmt: skip
    assert set(eight) <= set(STRATEGIES)
    assert all(name == strategy.__name__ for name, strategy in STRATEGIES.items())


def test_all_names_of_deepal_resolve():
    names = [
        "RandomSampling", "LeastConfidence", "MarginSampling", "EntropySampling", "LeastConfidenceDropout",
        "MarginSamplingDropout", "EntropySamplingDropout", "KMeansSampling", "KCenterGreedy", "BALDDropout",
        "AdversarialBIM", "AdversarialDeepFool",
    ]  # fmt: skip
    for name in [*names, *ALIASES]:
        strategy, arguments = resolve(name, [])
        assert set(arguments) == set(hyperparameters(strategy))
    assert resolve("LeastConfidenceDropout", [])[1]["measure"] == "least_confidence"
    assert resolve("MarginSamplingDropout", ["n_drop=3"])[1].items() >= {"measure": "margin", "n_drop": 3}.items()


@pytest.mark.parametrize("name", RECORDED_BY_0_1_0)
def test_published_strategies_are_recorded_as_they_were(name):
    strategy, arguments = resolve(name, [])
    assert recorded(strategy, arguments) == RECORDED_BY_0_1_0[name]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_hyperparameter_can_be_given_as_text(name):
    strategy, defaults = resolve(name, [])
    assert resolve(name, [f"{key}={value}" for key, value in defaults.items()]) == (strategy, defaults)
    for key, value in defaults.items():
        assert type(value) in (bool, int, float, str)
        if not isinstance(value, str):
            with pytest.raises(UserError, match=f"--strategy_args {key}=some: must be"):
                resolve(name, [f"{key}=some"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_hyperparameter_may_be_nan(name, pool, learner):
    for key, value in hyperparameters(STRATEGIES[name]).items():
        if isinstance(value, float):
            with pytest.raises(UserError, match=f"{key}=nan"):
                STRATEGIES[name](pool, learner, stream(0), **{key: float("nan")})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Nonsense", [], "must be one of RandomSampling"),
        ("RandomSampling", ["n_drop=3"], "takes no arguments"),
        ("BayesianActiveLearningDisagreement", ["n_dropp=3"], r"takes \['beta', 'n_drop', 'noise'\]"),
        ("BayesianActiveLearningDisagreement", ["n_drop"], "KEY=VALUE"),
        ("BayesianActiveLearningDisagreement", ["n_drop=many"], "must be int"),
    ],
)
def test_wrong_arguments_are_reported_with_the_right_ones(name, arguments, message):
    with pytest.raises(UserError, match=message):
        resolve(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BayesianActiveLearningDisagreement", {"n_drop": 1}),
        ("BayesianActiveLearningDisagreement", {"n_drop": 10**30}),
        ("UncertaintySamplingWithDropoutEstimation", {"n_drop": 10**30}),
        ("AdversarialMargin", {"overshoot": 1e300}),
        ("AdversarialBIM", {"step": 1e-320}),
        ("AdversarialBIM", {"step": 1e-9}),
        ("AdversarialBIM", {"bound": 1e300}),
        ("AdversarialBIM", {"n_search": 10**9}),
        ("UncertaintySamplingWithDropoutEstimation", {"n_drop": 0}),
        ("UncertaintySamplingWithDropoutEstimation", {"measure": "nonsense"}),
    ],
)
def test_meaningless_values_are_refused(name, arguments, pool, learner):
    with pytest.raises(UserError, match=next(iter(arguments))):
        STRATEGIES[name](pool, learner, stream(0), **arguments)


def test_list_strategies_names_all(capsys):
    demo = Path(strategies.__file__).parent.parent / "demo.py"
    out = subprocess.run([sys.executable, demo, "--list_strategies"], capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in [*STRATEGIES, *ALIASES])
    assert out.count("paper: ") == out.count("cost: ") == out.count("needs dropout: ") == len(STRATEGIES)
