"""Reads a run's options from a file, such as a run's config.json, in place of the form. The schema checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.words import escape

LIMIT_BYTES = 1_000_000


def read(path: str) -> RunConfig:
    """The RunConfig in a JSON file. Raises ConfigError with a message of one line."""
    name = Path(path).name
    try:
        if Path(path).stat().st_size > LIMIT_BYTES:
            raise ConfigError("options file", name, "it is no options file: those are a few thousand characters")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError("options file", name, "it cannot be read as text; give a run's config.json") from None
    return RunConfig.parse_json(text)


def build() -> gr.File:
    """Makes the input for the file, and the element for messages about it."""
    with gr.Accordion("Take all options from a file", open=False, elem_classes="lp-fold", elem_id="lp-options-fold"):
        file = gr.File(label="Options file (config.json)", file_types=[".json"], height=110, elem_id="lp-options-file")
        said = gr.HTML("", apply_default_css=False, elem_id="lp-options-said")

    def look(path: str | None) -> str:
        if not path:
            return ""
        try:
            config = read(path)
        except PlaygroundError as failure:
            return cards.error(str(failure))
        return (
            f'<p class="lp-note" role="status">Train uses this file and not the form: <b>{escape(config.label)}</b>, '
            f"{escape(config.model.source)}. Remove the file to use the form again.</p>"
        )

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    file.change(look, file, said, **quiet)
    return file
