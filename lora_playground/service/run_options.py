"""Converts between a RunConfig and flat, named options, the same for command-line flags and programs.

Names, types, bounds and descriptions all come from the schema, which also does the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lora_playground.config import FederatedConfig, Option, RunConfig, Section, options
from lora_playground.errors import ConfigError
from lora_playground.presets import PURPOSES, with_preset
from lora_playground.reproduce.command import flag
from lora_playground.variants import VARIANTS, get_variant

COMMON = ("rank", "alpha", "dropout", "target_modules")
"""Options that most variants have. Each is a parameter; all other options of variants go into `variant_options`."""

FEDERATED = tuple(options(FederatedConfig, "federated."))
"""Options of federated runs. A run for which one of them is given is federated."""

_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_LISTS: dict[str, Any] = {"str": list[str], "int": list[int], "float": list[float]}


@dataclass(frozen=True)
class Parameter:
    """One named value of `train` and `estimate`.

    Attributes:
        name: the flag with underscores, such as 'batch_tokens'.
        type: a Python type; None (not given) is always allowed.
        description: its meaning, with bounds and default.
        option: the schema's option that it sets; None for a parameter that sets several.
    """

    name: str
    type: Any
    description: str
    option: Option | None = None


def parameters() -> list[Parameter]:
    """All parameters: first config and preset, then the schema's options in its order, then those of the variant."""
    presets = "; ".join(f"{name}: {purpose.lower()}" for name, purpose in PURPOSES.items())
    found = [
        Parameter("config", dict[str, Any], "A whole RunConfig, as get_run gives it; what is given beside it wins."),
        Parameter("preset", str, f"Training options for the dataset ({presets})."),
        Parameter("variant", str, "How the update is written; list_variants tells them. [default lora]"),
    ]  # fmt: skip
    found += [_parameter(option) for option in options(RunConfig)]
    several = reversed(VARIANTS.values())  # an option is described as the first variant describes it
    shared = {option.path: option for variant in several for option in options(variant.config, "variant.")}
    found += [_parameter(shared[f"variant.{name}"], " (of variants that have it)", default=False) for name in COMMON]
    return [
        *found,
        Parameter(
            "variant_options", dict[str, Any], "Other options of the variant by name; get_variant tells which it has."
        ),
        *(_parameter(option, " (of a federated run)") for option in FEDERATED),
    ]


def of_section(section: type[Section]) -> list[Parameter]:
    """The options of another schema, in the form of `parameters`."""
    return [_parameter(option) for option in options(section)]


def describe(option: Option, default: bool = True) -> str:
    """An option's description with its bounds and default: 'Optimiser steps. [1 to 1,000,000; default 200]'."""
    low, high = (None if bound is None else f"{bound:,.10g}" for bound in (option.low, option.high))
    above = "above " if option.low_open else ""
    bounds = [f"{above}{low or ''} to {high}" if high else f"{above or 'from '}{low}"] if low or high else []
    known = [f"default {option.default}"] if default and option.default not in (None, "") else []
    limits = "; ".join([*bounds, *known])
    return f"{option.description} [{limits}]" if limits else option.description


def _parameter(option: Option, note: str = "", default: bool = True) -> Parameter:
    kind: Any
    if option.kind == "choice":
        kind = Literal[option.choices]
    elif option.kind == "list":
        kind = _LISTS[option.item] | str if option.choices else _LISTS[option.item]
    else:
        kind = _KINDS[option.kind]
    name = flag(option.path).replace("-", "_")
    return Parameter(name, kind, describe(option, default) + note, option)


def build(given: Mapping[str, Any]) -> RunConfig:
    """Makes a RunConfig of named values (see `parameters`), of which None counts as not given.

    Raises:
        ConfigError: an unknown name or option, or a value that is not allowed.
    """
    known = {parameter.name: parameter for parameter in parameters()}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(name, value, f"there is no such option; there are {', '.join(known)}")
        option = known[name].option
        if option is not None and value is not None:
            values[option.path] = value
    config, own = (_plain(name, given.get(name)) for name in ("config", "variant_options"))
    data = RunConfig.parse(config).model_dump(exclude_unset=True) if config else {}
    values |= {f"variant.{name}": value for name, value in (own or {}).items()}
    return assemble(data, given.get("variant"), values, given.get("preset"))


def _plain(name: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(name, value, "give an object of options")
    return value


def assemble(data: dict[str, Any], variant: Any, values: Mapping[str, Any], preset: Any = None) -> RunConfig:
    """Makes a RunConfig of several sources.

    Args:
        data: plain data of a RunConfig. variant: name of a variant that replaces its own, or None.
        values: {dotted path of an option: value}, which take precedence. preset: name of the preset whose options hold
            for all that is not given, or None.

    Raises:
        ConfigError: see `build`.
    """
    for name, value in (("variant.name", variant), ("preset", preset)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(name, value, "give its name, as text")
    data = dict(data)
    if variant is not None and variant != data.get("variant", {}).get("name"):
        data["variant"] = {"name": get_variant(variant).name}
    chosen = get_variant(data.setdefault("variant", {"name": "lora"})["name"])
    known = {option.path for option in [*options(RunConfig), *options(chosen.config, "variant."), *FEDERATED]}
    for path, value in values.items():
        if path not in known:
            names = ", ".join(option.path for option in options(chosen.config))
            raise ConfigError(path, value, f"the variant {chosen.name} has no such option; it has {names or 'none'}")
        *parents, leaf = path.split(".")
        section = data
        for parent in parents:
            section[parent] = section.get(parent) or {}
            section = section[parent]
        section[leaf] = value
    config = RunConfig.parse(data)
    return config if preset is None else RunConfig.parse(with_preset(data, preset))
