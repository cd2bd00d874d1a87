"""What every tab is handed: the run store, the queue, and which runs are ticked. It knows no tab and draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from lora_playground.errors import PlaygroundError

if TYPE_CHECKING:
    from lora_playground.jobs.supervisor import Supervisor
    from lora_playground.runs import Run, RunStore

SLOTS = 4
"""How many runs can be ticked at once; a run keeps its slot, and so its colour, while it is ticked."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""One colour a slot, from Okabe and Ito's colour-blind-safe palette."""


@dataclass(frozen=True)
class Shown:
    """A ticked run with the colour it has everywhere."""

    run: Run
    colour: str
    slot: int


@dataclass(frozen=True)
class Shell:
    """The app around the tabs.

    A tab is a module with `build(shell, tab)`, called inside `with tab:`; it listens to `ticked.change` and `tab.select`.

    Attributes:
        home: folder of runs and uploads.
        store, supervisor: runs on disk, and the queue.
        ticked: gr.State holding `SLOTS` entries, each a run id or "".
    """

    home: Path
    store: RunStore
    supervisor: Supervisor
    ticked: gr.State

    def shown(self, ticked: Sequence[str]) -> list[Shown]:
        """The ticked runs that still exist, in the order of their slots."""
        found = []
        for slot, identity in enumerate(ticked[:SLOTS]):
            if identity:
                try:
                    found.append(Shown(self.store.get(identity), COLOURS[slot], slot))
                except PlaygroundError:
                    continue
        return found
