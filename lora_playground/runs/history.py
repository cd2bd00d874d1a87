"""A run's events as one history, in which a step that was trained twice counts once. It knows events, no file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def history(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events as one run, without what a resumed attempt did again.

    A new attempt's `plan` says at which step it starts; loss points, validations, spectra, probes and checkpoints of
    earlier attempts beyond that step are dropped.
    """
    kept: list[dict[str, Any]] = []
    for event in events:
        if event.get("type") == "plan" and event.get("attempt", 1) > 1:
            start = int(event.get("start_step", 0))
            kept = [cut for old in kept if (cut := _until(old, start)) is not None]
        kept.append(event)
    return kept


def _until(event: dict[str, Any], last: int) -> dict[str, Any] | None:
    if event.get("type") == "loss":
        keep = sum(1 for step in event.get("steps", []) if step <= last)
        if keep == len(event.get("steps", [])):
            return event
        cut = {key: event[key][:keep] for key in ("steps", "losses", "learning_rates") if key in event}
        return event | cut if keep else None
    return None if isinstance(event.get("step"), int) and event["step"] > last else event
