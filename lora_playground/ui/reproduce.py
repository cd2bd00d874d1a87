"""Offers a finished run in forms that train it again elsewhere: command line and config to copy, script and notebook as
files.

The script is made by a command in a process of its own, since the web process does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.errors import PlaygroundError
from lora_playground.reproduce.command import command_line
from lora_playground.runs import RunStore
from lora_playground.service.exporting import reproduced_bundle
from lora_playground.ui import cards
from lora_playground.ui.words import escape

_NEW: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Reproduce:
    """The folded section under a result.

    Args:
        store: the runs. place: a folder from which Gradio serves files.
    """

    def __init__(self, store: RunStore, place: Path) -> None:
        self._store, self._place = store, place

    def build(self) -> None:
        """Makes the section where it is called; it is filled when it is opened."""
        with gr.Accordion(
            "Do it again elsewhere", open=False, elem_classes="lp-fold", elem_id="lp-reproduce", visible=False
        ) as self.fold:
            # Not gr.Code, whose editor would be half of all script that the page has to load before it can be used.
            self.command, self.config = (
                gr.HTML(
                    "", apply_default_css=False, elem_id=f"lp-reproduce-{name}",
                    js_on_load="lp.copies(element);",
                )
                for name in ("command", "config")
            )  # fmt: skip
            self.button = gr.Button("Script and notebook (zip)", size="sm", elem_id="lp-reproduce-make")
            self.file = gr.DownloadButton(
                "file", elem_id="lp-reproduce-file", elem_classes="lp-hidden", visible="hidden"
            )
            self.said = gr.HTML("", apply_default_css=False, elem_id="lp-reproduce-said")

    def connect(self, viewed: gr.State) -> None:
        """Connects the section to the run in view."""
        viewed.change(
            lambda run: (gr.update(visible=bool(run), open=False), None, ""), viewed, [self.fold, self.file, self.said],
            **_NEW,
        )  # fmt: skip
        self.fold.expand(self.show, viewed, [self.command, self.config, self.said], **_NEW)
        self.button.click(
            self.make, viewed, [self.file, self.said], show_progress="minimal", api_visibility="private",
            concurrency_limit=1, concurrency_id="export",
        ).success(None, self.file, None, js="(file) => file && lp.fetch(file)")  # fmt: skip

    def show(self, viewed: str | None) -> tuple[str, str, str]:
        """Command and config of the run in view, or the reason why there are none."""
        try:
            config = self._store.get(viewed or "").config()
        except PlaygroundError as failure:
            return "", "", cards.error(str(failure))
        return _text("Command", command_line(config)), _text("Config", config.model_dump_json(indent=1)), ""

    async def make(self, viewed: str) -> tuple[str | None, str]:
        """(a zip with config, command, script, notebook and batches, or None; a message)."""
        try:
            path = await reproduced_bundle(self._store, viewed, self._place)
        except (PlaygroundError, OSError) as failure:
            return None, cards.error(f"It could not be made: {failure}")
        return str(path), '<p class="lp-note" role="status">A zip with script, notebook, config and batches.</p>'


def _text(title: str, text: str) -> str:
    return (
        f'<div class="lp-copied"><div class="row"><b>{title}</b><button class="mini" data-copy="1" '
        f'aria-label="Copy: {title}">copy</button></div><pre class="lp-log" tabindex="0" aria-label="{title}">'
        f"{escape(text)}</pre></div>"
    )
