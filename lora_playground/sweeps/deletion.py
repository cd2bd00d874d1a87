"""Deletes a sweep with all its runs. It does not check who asks."""

from __future__ import annotations

from collections.abc import Callable

from lora_playground.errors import RunError
from lora_playground.sweeps.status import SweepStatus
from lora_playground.sweeps.store import SweepStore


def delete(status: SweepStatus, store: SweepStore, delete_run: Callable[[str], None]) -> int:
    """Deletes a sweep and its runs; returns the number of runs.

    Args:
        delete_run: deletes the run with this id.

    Raises:
        RunError: the sweep or one of its runs is still queued or running; nothing is deleted.
    """
    sweep = status.sweep
    members = [one for one in status.members if one.entry.run and one.state != "gone"]
    if status.state in ("running", "pausing", "stopping") or any(m.running or m.state == "queued" for m in members):
        raise RunError(f"The sweep {sweep.label} goes on; stop it first.")
    for member in members:
        delete_run(member.entry.run)
    store.remove(sweep.id)
    return len(members)
