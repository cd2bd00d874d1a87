"""Named sets of options for the embedded model: `quick`, which is what the form proposes, and `best`.

What each reached on the shipped datasets is measured by `benchmarks/preset_table.py` and kept in assets/presets.json.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from lora_playground.assets import ASSETS
from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError

PURPOSES = {"quick": "What the form proposes: a good result soon", "best": "More steps for a better score"}
"""{preset: what it is for}."""

_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {},
    "best": {"training": {"steps": 720, "early_stop": True}},
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


def preset_options(name: str) -> dict[str, Any]:
    """{option path: value} of every option in which presets differ, as the preset `name` has it."""
    return _held(RunConfig.parse(with_preset({}, name)))


def preset_of(config: RunConfig) -> str | None:
    """The preset whose options a config has; None if it has others, or a time budget."""
    if config.training.seconds is not None:
        return None
    return next((name for name in PURPOSES if preset_options(name) == _held(config)), None)


def measured(config: RunConfig) -> list[dict[str, float]]:
    """What a config's preset reached on its data, an entry for each seed: `score` and `kept` (of the base's skills),
    both 0 to 1. Empty if nothing was measured with these settings; the config's own seed does not matter."""
    name = preset_of(config)
    if name is None or recipe(config) != recipe(RunConfig.parse(with_preset({}, name))):
        return []
    entry = _table().get(name, {})
    same = all(recipe(config)[section] == values for section, values in entry.get("recipe", {}).items())
    return entry.get("datasets", {}).get(config.data.dataset, []) if same else []


def recipe(config: RunConfig) -> dict[str, Any]:
    """Everything of a config but its name, its dataset, its seed and its precision, as plain data."""
    return config.model_dump(
        mode="json", exclude={"title": True, "data": {"dataset"}, "training": {"seed", "precision"}}
    )


def _held(config: RunConfig) -> dict[str, Any]:
    paths = {(section, option) for one in _OPTIONS.values() for section, options in one.items() for option in options}
    return {f"{section}.{option}": getattr(getattr(config, section), option) for section, option in sorted(paths)}


@cache
def _table() -> dict[str, Any]:
    path = ASSETS / "presets.json"
    return json.loads(path.read_text(encoding="utf-8"))["presets"] if path.is_file() else {}
