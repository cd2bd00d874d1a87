"""The order in which queued jobs start: fair between owners; those of one owner in the order of submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lora_playground.jobs.store import Row

Plan = dict[str, tuple[int | None, float | None]]
"""Job id → (position, seconds until it starts)."""

_ASSUMED = 60.0
"""Seconds that a job is assumed to take if none has ended yet; only the order depends on it."""


def plan_queue(
    queued: Sequence[Row],
    use: Mapping[str, float],
    remaining: Sequence[float | None],
    slots: int,
    typical: float | None,
) -> list[tuple[Row, float | None]]:
    """Queued jobs in the order in which they will start, each with the seconds until then (None if unknown).

    The next job is that of the owner who has used the device least. Each planned start adds a typical job's time to its
    owner's use, so a person who submits fifty jobs does not make others wait for all of them.

    Args:
        use: {owner: seconds of recent device time}, running jobs included.
        remaining: seconds that each running job still needs, None if unknown.
        slots: how many jobs run at once.
        typical: seconds that a job usually takes, None if unknown.
    """
    use, left = dict(use), list(queued)
    free_at = [*remaining, *[0.0] * max(0, slots - len(remaining))]
    order: list[tuple[Row, float | None]] = []
    while left:
        row = min(left, key=lambda row: (use.get(row.owner, 0.0), row.queued, row.id))
        left.remove(row)
        use[row.owner] = use.get(row.owner, 0.0) + (typical or _ASSUMED)
        slot = min(range(len(free_at)), key=lambda index: _known(free_at[index]))
        start = free_at[slot]
        order.append((row, start))
        free_at[slot] = None if start is None or typical is None else start + typical
    return order


def _known(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds
