"""Scores runs on request in a process of its own, one at a time; whoever asks again gets the same work's result."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from lora_playground.errors import JobError
from lora_playground.runs import Run
from lora_playground.service.commands import run_command

LIMIT_SECONDS = 3600
KEPT = 64
"""Results that wait for somebody to ask again; the oldest goes first."""

_Key = tuple[str, int | None]


class Scoring:
    """The scoring of one server. Ask on one event loop only.

    Args:
        home: where the runs are.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tasks: dict[_Key, tuple[str, asyncio.Task[dict[str, Any]]]] = {}
        self._turn: asyncio.Lock | None = None

    async def score(self, run: Run, rows: int | None, who: str, wait: float) -> dict[str, Any]:
        """The scores of base and adapted model, or, where `wait` seconds do not suffice, that it is under way.

        Raises:
            RunError: the run has no update. JobError: `who` has another one under way. PlaygroundError: what the
                command said.
        """
        key = run.id, rows
        if key not in self._tasks:
            run.require_update()
            if who and any(owner == who and not task.done() for owner, task in self._tasks.values()):
                raise JobError("Another run of yours is being scored; wait for its end, then ask again.")
            ended = [one for one, (_, task) in self._tasks.items() if task.done()]
            for old in ended[: max(0, len(ended) - KEPT)]:
                del self._tasks[old]
            self._tasks[key] = who, asyncio.create_task(self._work(run, rows))
        task = self._tasks[key][1]
        await asyncio.wait({task}, timeout=wait)
        if not task.done():
            return {"run": run.id, "state": "running"}
        del self._tasks[key]
        return {"state": "done", **task.result()}

    async def _work(self, run: Run, rows: int | None) -> dict[str, Any]:
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            limited = ["--rows", str(rows)] if rows is not None else []
            printed = await run_command(self._home, ["evaluate", run.id, *limited, "--json"], LIMIT_SECONDS)
            return json.loads(printed.splitlines()[-1])
