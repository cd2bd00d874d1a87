"""Buttons that offer a finished run as a file: the adapter in PEFT's format, a plain LoRA, or the merged model.

The last two are computed by a command in a process of its own, since the web process does not import torch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.errors import PlaygroundError
from lora_playground.runs import RunStore
from lora_playground.service.exporting import exported, note_of
from lora_playground.ui import cards
from lora_playground.ui.words import escape, size

LABELS = {"peft": "PEFT adapter", "lora": "Plain LoRA", "merged": "Merged model"}
"""{format of `export`: its name on screen}, in the order of the buttons."""

_BUSY = {
    "peft": "Packing the adapter …",
    "lora": "Writing ΔW as a plain LoRA, a few seconds …",
    "merged": "Merging ΔW into the base model: the model is loaded first, about ten seconds for a small one …",
}
_SAID = {
    "peft": "The adapter as it was saved, for PeftModel.from_pretrained",
    "lora": "A plain LoRA that stock PEFT and most other tools load",
    "merged": "The whole model with the update in its weights, for AutoModelForCausalLM.from_pretrained",
}


class Exports:
    """The row of buttons under a result.

    Args:
        store: the runs. place: a folder from which Gradio serves files.
        prefix: of the elements' ids, different for each row on a page.
    """

    def __init__(self, store: RunStore, place: Path, prefix: str = "lp") -> None:
        self._store, self._place, self._prefix = store, place, prefix

    def build(self, visible: bool = False) -> gr.Row:
        """Makes the row where it is called. `visible`: whether it is shown at first."""
        own = self._prefix
        with gr.Row(visible=visible, elem_id=f"{own}-exports", elem_classes="lp-exports") as row:
            gr.HTML(
                '<span class="lp-note">Download it as</span>', apply_default_css=False, elem_id=f"{own}-exports-label"
            )
            self.buttons = {
                name: gr.Button(label, size="sm", elem_id=f"{own}-export-{name}") for name, label in LABELS.items()
            }
        self.file = gr.DownloadButton("file", elem_id=f"{own}-download", elem_classes="lp-hidden", visible="hidden")
        self.said = gr.HTML("", apply_default_css=False, elem_id=f"{own}-export-said")
        return row

    def connect(self, viewed: gr.State | gr.Dropdown) -> None:
        """Connects the buttons to the run in view, whose id `viewed` holds."""
        shown = [self.file, self.said, *self.buttons.values()]
        for name, button in self.buttons.items():
            button.click(
                self.listener(name), viewed, shown, show_progress="hidden", api_visibility="private",
                concurrency_limit=1, concurrency_id="export",
            ).success(None, self.file, None, js="(file) => lp.fetch(file)")  # fmt: skip
        viewed.change(lambda: (None, ""), None, [self.file, self.said], queue=False, show_progress="hidden",
                      api_visibility="private")  # fmt: skip

    def listener(self, name: str) -> Any:
        """A listener: it yields a message while the file is made, then the file."""

        async def listen(viewed: str) -> AsyncIterator[tuple[Any, ...]]:
            busy, free = gr.update(interactive=False), gr.update(interactive=True)
            yield None, _note(_BUSY[name]), *[busy] * len(self.buttons)
            try:
                path = await self.make(viewed, name)
            except (PlaygroundError, OSError) as failure:
                yield None, cards.error(f"It could not be exported: {failure}"), *[free] * len(self.buttons)
                return
            words = f"{_SAID[name]}: {path.name}, {size(path.stat().st_size)}. {note_of(path)}"
            yield str(path), _note(words), *[free] * len(self.buttons)

        return listen

    async def make(self, identity: str, format: str) -> Path:
        """The run in a format as a zip. Raises PlaygroundError or OSError with a message for the person."""
        return await exported(self._store, identity, format, self._place)


def _note(words: str) -> str:
    return f'<p class="lp-note" role="status">{escape(words)}</p>'
