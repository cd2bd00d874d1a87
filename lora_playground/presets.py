"""Named sets of training options for the embedded model: `quick` (good in about 20 s) and `best` (in about 60 s).

The seconds are meant for two quiet cores. It knows the names of options and of shipped datasets, nothing that trains.
"""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError

PURPOSES = {"quick": "A first result soon", "best": "More steps for a better score"}
"""{preset: what it is for}."""

_ALWAYS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {"training": {"steps": 120, "early_stop": True}, "data": {"rehearsal": 0.5}},
    "best": {"training": {"steps": 300, "early_stop": True}},
}
"""{preset: {section: {option: value}}} for every dataset."""

_HARD: dict[str, dict[str, Any]] = {"training": {"steps": 200}, "data": {"rehearsal": 0.2}}
_OF: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "facts-large": {"quick": _HARD},
    "translation": {"quick": _HARD},
}
"""{dataset: as above}, where a dataset needs something else."""


def with_preset(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A RunConfig's plain data with a preset's options, except those that it sets itself.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PURPOSES:
        raise ConfigError("preset", name, f"choose one of {', '.join(PURPOSES)}")
    dataset = data.get("data", {}).get("dataset", "pirate")
    merged = dict(data)
    for options in (_OF.get(dataset, {}).get(name, {}), _ALWAYS[name]):
        for section, values in options.items():
            merged[section] = values | merged.get(section, {})
    steps = data.get("training", {})
    if steps.get("steps") is not None or steps.get("seconds") is not None:
        # Who asks for steps or seconds gets them.
        merged["training"]["early_stop"] = steps.get("early_stop", False)
    return merged
