"""The events of a run since a version, for programs that poll. The version is a byte offset in the events' file, so
that a long history is read only once."""

from __future__ import annotations

from typing import Any

from lora_playground.runs import Run
from lora_playground.runs.history import read_events

MOST_BYTES = 1_000_000
"""Approximate limit of one answer; the next question gets the rest."""


def news(run: Run, since: int) -> tuple[list[dict[str, Any]], int]:
    """(events after version `since`, the version to ask with next time). Beyond the end of the file there are none."""
    return read_events(run.events_path, since, MOST_BYTES)
