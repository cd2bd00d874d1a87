"""Deletes a sweep with all its runs. It knows no queue and no owner."""

from __future__ import annotations

from collections.abc import Callable

from lora_playground.errors import RunError
from lora_playground.sweeps.standing import Standing
from lora_playground.sweeps.store import SweepStore


def delete(standing: Standing, store: SweepStore, delete_run: Callable[[str], None]) -> int:
    """Deletes a sweep in which nothing goes on, and its runs; returns how many those were.

    Raises:
        RunError: it goes on, or one of its runs does; nothing is deleted then.
    """
    sweep = standing.sweep
    members = [one for one in standing.members if one.entry.run and one.state != "gone"]
    if standing.state in ("running", "pausing", "stopping") or any(m.running or m.state == "queued" for m in members):
        raise RunError(f"The sweep {sweep.label} goes on; stop it first.")
    for member in members:
        delete_run(member.entry.run)
    store.remove(sweep.id)
    return len(members)
