"""Options added after version 0.1.0, which a run records only while they change something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

NEUTRAL = "neutral"  # key of a field's metadata


def added(neutral: Any) -> Any:
    """A field of a published dataclass (a Recipe, a Strategy) for an option that version 0.1.0 did not have.

    Runs that leave the option at its neutral value have the configuration, the hash and so the folder that they had
    before the option existed: old results are still found, continued and compared.

    Args:
        neutral: the field's default; the program must then do exactly what it did without the option.
    """
    return field(default=neutral, metadata={NEUTRAL: neutral})


def recorded(options: type | Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that belong into config.json: all but added options at their neutral value.

    Args:
        options: a dataclass whose added options are declared with `added`; or the neutral values themselves, by
            name, for options that belong to no dataclass.
        values: the resolved value of every option, by name.
    """
    neutral = options if isinstance(options, Mapping) else neutral_values(options)
    return {name: v for name, v in values.items() if name not in neutral or v != neutral[name]}


def neutral_values(options: type) -> dict[str, Any]:
    """The neutral values of a dataclass's added options, by name."""
    return {f.name: f.metadata[NEUTRAL] for f in fields(options) if NEUTRAL in f.metadata}
