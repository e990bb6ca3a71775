"""The strategies by name. A new one is a file beside this and a line here; the contract tests find it."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from strategies.adversarial_bim import AdversarialBIM
from strategies.adversarial_margin import AdversarialMargin
from strategies.alfa_mix import ALFAMix
from strategies.badge import BADGE
from strategies.bait import BAIT
from strategies.base import Strategy, hyperparameters
from strategies.batchbald import BatchBALD
from strategies.bayesian_active_learning_disagreement import BayesianActiveLearningDisagreement
from strategies.cluster_based_selection import ClusterBasedSelection
from strategies.cluster_margin import ClusterMargin
from strategies.dropquery import DropQuery
from strategies.entropy_sampling import EntropySampling
from strategies.epig import EPIG
from strategies.falcun import FALCUN
from strategies.k_center_greedy import KCenterGreedy
from strategies.least_confidence import LeastConfidence
from strategies.margin_sampling import MarginSampling
from strategies.max_herding import MaxHerding
from strategies.random_sampling import RandomSampling
from strategies.typiclust import TypiClust
from strategies.uherding import UHerding
from strategies.uncertainty_sampling_with_dropout_estimation import UncertaintySamplingWithDropoutEstimation
from utils import UserError

STRATEGIES: dict[str, type[Strategy]] = {
    "RandomSampling": RandomSampling,
    "LeastConfidence": LeastConfidence,
    "MarginSampling": MarginSampling,
    "EntropySampling": EntropySampling,
    "UncertaintySamplingWithDropoutEstimation": UncertaintySamplingWithDropoutEstimation,
    "BayesianActiveLearningDisagreement": BayesianActiveLearningDisagreement,
    "ClusterBasedSelection": ClusterBasedSelection,
    "AdversarialMargin": AdversarialMargin,
    "AdversarialBIM": AdversarialBIM,
    "KCenterGreedy": KCenterGreedy,
    "BADGE": BADGE,
    "TypiClust": TypiClust,
    "MaxHerding": MaxHerding,
    "UHerding": UHerding,
    "ClusterMargin": ClusterMargin,
    "BAIT": BAIT,
    "EPIG": EPIG,
    "BatchBALD": BatchBALD,
    "DropQuery": DropQuery,
    "FALCUN": FALCUN,
    "ALFAMix": ALFAMix,
}

# The names of DeepAL's scripts: what they are here, and with which arguments.
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "LeastConfidenceDropout": ("UncertaintySamplingWithDropoutEstimation", {"measure": "least_confidence"}),
    "MarginSamplingDropout": ("UncertaintySamplingWithDropoutEstimation", {"measure": "margin"}),
    "EntropySamplingDropout": ("UncertaintySamplingWithDropoutEstimation", {"measure": "entropy"}),
    "BALDDropout": ("BayesianActiveLearningDisagreement", {}),
    "KMeansSampling": ("ClusterBasedSelection", {}),
    "AdversarialDeepFool": ("AdversarialMargin", {}),
    "CoreSet": ("KCenterGreedy", {}),
}


SLOW = ("AdversarialMargin", "AdversarialBIM", "BatchBALD")  # a query takes minutes where the others take seconds
FIRST = (
    "RandomSampling", "LeastConfidence", "MarginSampling", "EntropySampling",
    "UncertaintySamplingWithDropoutEstimation", "BayesianActiveLearningDisagreement", "ClusterBasedSelection",
    "AdversarialMargin",
)  # fmt: skip

# Names that stand for several strategies in sweep.py.
GROUPS: dict[str, list[str]] = {
    "all": [*STRATEGIES],
    "fast": [name for name in STRATEGIES if name not in SLOW],
    "eight": [*FIRST],
}


def resolve(name: str, arguments: list[str]) -> tuple[type[Strategy], dict[str, Any]]:
    """A strategy and all its hyperparameters, from its name and KEY=VALUE arguments.

    Args:
        name: a name in STRATEGIES or ALIASES.
        arguments: as given to `--strategy_args`; values have the type of the default.

    Raises:
        UserError: no such strategy or argument, or a value of the wrong type.
    """
    name, preset = ALIASES.get(name, (name, {}))
    if name not in STRATEGIES:
        raise UserError(f"--strategy_name {name}: must be one of {', '.join([*STRATEGIES, *ALIASES])}")
    strategy = STRATEGIES[name]
    resolved = {**hyperparameters(strategy), **preset}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in resolved:
            takes = f"takes {sorted(resolved)}, as KEY=VALUE" if resolved else "takes no arguments"
            raise UserError(f"--strategy_args {argument}: {name} {takes}")
        resolved[key] = _parse(argument, text, resolved[key])
    return strategy, resolved


def _parse(argument: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"--strategy_args {argument}: must be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"--strategy_args {argument}: must be {kind.__name__}, such as {default}") from None


def described(strategy: type[Strategy], what: str) -> str:
    """The "Source" or "Cost" line of a strategy's docstring, joined to one line.

    It is read from the source file, as `python -OO` keeps no docstrings.
    """
    definition = ast.parse(inspect.getsource(strategy)).body[0]
    assert isinstance(definition, ast.ClassDef)
    lines = (ast.get_docstring(definition) or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{what}: "))
    text = [lines[start].removeprefix(f"{what}: ")]
    for line in lines[start + 1 :]:
        if not line.strip() or ": " in line.split('"')[0][:12]:
            break
        text.append(line.strip())
    return " ".join(text)


def list_strategies() -> str:
    """A table of the strategies: name, paper, cost, whether they need dropout; then the aliases."""
    lines = []
    for name, strategy in STRATEGIES.items():
        lines += [name, f"    paper: {described(strategy, 'Source')}", f"    cost: {described(strategy, 'Cost')}"]
        lines += [f"    needs dropout: {'yes' if strategy.needs_dropout else 'no'}"]
    lines += ["", "also known as:"]
    for alias, (name, arguments) in ALIASES.items():
        lines.append(f"    {alias} = {' '.join([name, *(f'{k}={v}' for k, v in arguments.items())])}")
    return "\n".join(lines)
