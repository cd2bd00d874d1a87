"""What is new in a run's events since a version, for programs that ask again and again. The version is a place in the
file, so that a long history is never read twice."""

from __future__ import annotations

from typing import Any

from lora_playground.runs import Run
from lora_playground.runs.history import read_events

MOST_BYTES = 1_000_000
"""About so much of the history is given in one answer; whoever asks again gets the rest."""


def news(run: Run, since: int) -> tuple[list[dict[str, Any]], int]:
    """Events after version `since`, and the version to ask with next time. A version beyond the end has no events."""
    return read_events(run.events_path, since, MOST_BYTES)
