"""Named sets of training options for the embedded model: `quick`, which the form proposes, and `best`.

It knows the names of options, nothing that trains.
"""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError

PURPOSES = {"quick": "What the form proposes: a good result soon", "best": "More steps for a better score"}
"""{preset: what it is for}."""

_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {},
    "best": {"training": {"steps": 500, "early_stop": True}},
}
"""{preset: {section: {option: value}}}. All other options have the defaults of RunConfig."""


def with_preset(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A RunConfig's plain data with a preset's options added, except those that are given.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PURPOSES:
        raise ConfigError("preset", name, f"choose one of {', '.join(PURPOSES)}")
    merged = dict(data)
    for section, values in _OPTIONS[name].items():
        merged[section] = values | merged.get(section, {})
    asked = data.get("training", {})
    if "training" in _OPTIONS[name] and (asked.get("steps") is not None or asked.get("seconds") is not None):
        # A given number of steps or seconds is not cut short.
        merged["training"]["early_stop"] = asked.get("early_stop", False)
    return merged
