"""The registry of variants: every module in this folder that defines `VARIANT` is one, found by listing the folder.

Importing this package must not import torch: forms, flags and cards need only what a variant declares.
"""

import importlib
import pkgutil

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Variant


def _discover() -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        if module.ispkg or module.name == "base":
            continue
        variant = getattr(importlib.import_module(f"{__name__}.{module.name}"), "VARIANT", None)
        if variant is not None:
            found[variant.name] = variant
    return found


VARIANTS: dict[str, Variant] = _discover()


def get_variant(name: str) -> Variant:
    """The variant of this name; raises ConfigError, which lists the names that exist."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise ConfigError("variant.name", name, f"choose one of {', '.join(VARIANTS)}") from None
