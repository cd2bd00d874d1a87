"""A RunConfig as one line for a shell. It knows the schema and its flags, and no run."""

from __future__ import annotations

import shlex
from typing import Any

from lora_playground.config import FederatedConfig, Option, RunConfig, options
from lora_playground.variants import get_variant

ALIASES = {"model.source": "model", "data.dataset": "dataset"}
"""Short flags for the commonest options; every other flag is the last part of the option's path."""


def flag(path: str) -> str:
    """The flag of an option's dotted path, without dashes: 'training.batch_tokens' → 'batch-tokens'. The options of a
    federated run keep their section's name: 'federated.clients' → 'federated-clients'."""
    if path.startswith("federated."):
        return path.replace(".", "-").replace("_", "-")
    return ALIASES.get(path, path.rsplit(".", 1)[-1]).replace("_", "-")


def command_line(config: RunConfig) -> str:
    """`python -m lora_playground train ...` with a flag for every value that is not the default."""
    variant = get_variant(config.variant.name)
    words = ["--variant", variant.name]
    values = config.model_dump()
    listed = [*options(RunConfig), *options(variant.config, "variant.")]
    if config.federated is not None:
        words += ["--federated-strategy", config.federated.strategy]  # what makes it a federated run
        listed += [one for one in options(FederatedConfig, "federated.") if one.path != "federated.strategy"]
    for option in listed:
        value: Any = values
        for part in option.path.split("."):
            value = value[part]
        if value != option.default:
            words += [f"--{flag(option.path)}", _text(option, value)]
    return shlex.join(["python", "-m", "lora_playground", "train", *words])


def _text(option: Option, value: Any) -> str:
    if value is None:
        return "none"
    if option.kind == "list" and not isinstance(value, str):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
