"""Step 1 of the form: the base model, with a description of it, or the reason why it cannot be used. It loads no
weights.

Models of the list are described by the catalogue, a folder or file by the headers of its files, another hub id by what
the hub says about it.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from lora_playground import hub
from lora_playground.config import RunConfig, options
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.models.catalogue import (
    ModelCard,
    folder_of,
    list_models,
    module_shapes,
    parameter_count,
    read_config,
)
from lora_playground.models.model_shape import context_length
from lora_playground.models.remarks import remarks
from lora_playground.ui import cards
from lora_playground.ui.controls import Dropdown
from lora_playground.ui.shell import SETS
from lora_playground.ui.words import count, escape, size

OPTION = next(option for option in options(RunConfig) if option.path == "model.source")


def build() -> tuple[gr.Dropdown, gr.HTML]:
    """Makes the list of models, which also accepts any folder or hub id, and the element for the description."""
    source = Dropdown(
        [(_label(card), card.source) for card in list_models()], value=OPTION.default, label="Base model",
        show_label=False, allow_custom_value=True, elem_id="lp-model-source",
    )  # fmt: skip
    about = gr.HTML(note(str(OPTION.default)), apply_default_css=False, elem_id="lp-model-note")
    source.change(note, source, about, trigger_mode="always_last", **SETS)
    return source, about


def _label(card: ModelCard) -> str:
    parameters = f" · {count(card.parameters)}" if card.parameters else ""
    return f"{card.label}{parameters}{'' if card.on_disk else ' (needs the network)'}"


def note(source: str | None) -> str:
    """The description of a base model, or the reason why it cannot be used, as HTML."""
    source = (source or "").strip()
    if not source:
        return cards.warning("Choose a base model.")
    try:
        card = next((one for one in list_models() if one.source == source), None)
        if card is not None:
            return _quiet(_listed(card))
        folder = folder_of(source)
        if folder is not None:
            return _found(folder)
        return _quiet("It is converted once, when the run starts.") if not hub.is_id(source) else _on_the_hub(source)
    except ConfigError as failure:
        return cards.error(f"“{source}” is not possible; {failure.allowed}.")
    except PlaygroundError as failure:
        return cards.error(str(failure))


def _quiet(text: str) -> str:
    return f'<p class="lp-note">{escape(text)}</p>'


def _listed(card: ModelCard) -> str:
    text = f"Licence {card.licence}{f', template {card.template}' if card.template else ''}. {card.notes}"
    text += " It is on this disk." if card.on_disk else " It is fetched when the run starts."
    if card.gated and not card.on_disk:
        text += " It is gated: accept its licence on its hub page, and start the app with HF_TOKEN set."
    return text


def _found(folder: Path) -> str:
    """A folder with a model: its architecture and size from the headers, and notes for the person."""
    warnings = remarks(folder)
    config, modules = read_config(folder), module_shapes(folder)
    if not modules:
        return cards.error(f"{folder.name} has no linear modules that can be adapted; choose another model.")
    reads = context_length(config)
    text = f"Found: {config.get('model_type', 'a model')}, {count(parameter_count(folder))} parameters"
    text += f", {len(modules)} modules that can be adapted" + (f", reads {count(reads)} tokens." if reads else ".")
    return _quiet(text) + "".join(cards.warning(said) for said in warnings)


def _on_the_hub(source: str) -> str:
    """A hub id that is not on this disk: whether it exists, and how much will be downloaded."""
    sizes = hub.files(source)
    weights = sum(many for name, many in sizes.items() if name.endswith(".safetensors") and "/" not in name)
    if not weights or "config.json" not in sizes:
        missing = "model.safetensors" if not weights else "config.json"
        return cards.error(f"{source} is on the hub, but has no {missing}; choose a model stored as safetensors.")
    return _quiet(f"Found on the hub: {size(weights)} of weights, fetched when the run starts.")
