"""Checks that a valid RunConfig can run on this machine: dataset, base model and variant exist and fit each other.

Form, command line and queue all use it before anything is created or loaded. No torch.
"""

from __future__ import annotations

from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_card, get_dataset
from lora_playground.errors import ConfigError
from lora_playground.models.catalogue import folder_of, is_conv1d, module_shapes, read_config
from lora_playground.models.model_shape import context_length
from lora_playground.models.remarks import remarks
from lora_playground.runs import default_home
from lora_playground.variants import VARIANTS, get_variant
from lora_playground.wording import counted


def check(config: RunConfig, home: Path | None = None) -> list[str]:
    """Checks a config. A hub model that is not on this disk is checked only when it is loaded.

    Args:
        home: has the uploads; None takes the default home.

    Returns:
        warnings for the person, about a config that can run.

    Raises:
        ConfigError: an option does not fit; names the option, the value and what is allowed.
        ModelError, DataError, AssetError: the model or dataset exists but cannot be used.
    """
    variant = get_variant(config.variant.name)
    card = get_card(config.data.dataset, home or default_home())
    if card.train < 1:
        raise ConfigError("data.dataset", card.name, "it has no training rows; choose or upload one that has")
    warnings: list[str] = []
    if config.federated is not None:
        from lora_playground.federated.config import check as check_federated
        from lora_playground.federated.partition import remarks as remarks_on_split
        from lora_playground.federated.preparation import divide

        check_federated(config)
        warnings += remarks_on_split(divide(get_dataset(card.name, home or default_home()), config)[0])
    if not getattr(variant, "conv1d", True) and is_conv1d(config.model.source):
        others = ", ".join(one.label for one in VARIANTS.values() if getattr(one, "conv1d", True))
        raise ConfigError(
            "variant.name",
            variant.name,
            f"{variant.label} needs nn.Linear modules, and this model has Conv1D (GPT-2); choose one of {others}",
        )
    if card.train < 5:
        warnings.append(
            f"{card.label} has only {counted(card.train, 'training row')}: the model will learn them by heart."
        )
    if not card.validation:
        warnings.append(f"{card.label} has no validation part, so there is no validation loss.")
    folder = folder_of(config.model.source)
    if folder is None:
        return warnings
    warnings += remarks(folder)
    shapes = {name: (out, into) for name, out, into in module_shapes(folder)}
    if not shapes:
        raise ConfigError("model.source", config.model.source, "this model has no linear modules that can be adapted")
    variant.check(config.variant, shapes, config.model.bits)
    if config.federated is not None:
        from lora_playground.federated.config import client_ranks

        widest = config.variant.model_copy(update={"rank": max(client_ranks(config))})
        variant.check(widest, shapes, config.model.bits)
    context = context_length(read_config(folder))
    if context is not None and config.data.max_length > context:
        raise ConfigError("data.max_length", config.data.max_length, f"this model reads at most {context} tokens")
    return warnings
