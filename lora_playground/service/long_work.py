"""Commands that take long, for programs: each in a process of its own, one at a time; whoever asks again gets the same
work's result. It knows no command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_playground.errors import JobError
from lora_playground.service.commands import run_command

LIMIT_SECONDS = 3600
LONGEST_WAIT = 50.0
"""Seconds that one question may wait; under the minute after which many clients give up."""
KEPT = 64
"""Results that wait for somebody to ask again; the oldest goes first."""


class LongWork:
    """The long work of one server. Ask on one event loop only.

    Args:
        home: where the runs are.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tasks: dict[tuple[str, ...], tuple[str, asyncio.Task[dict[str, Any]]]] = {}
        self._turn: asyncio.Lock | None = None

    async def result(self, command: Sequence[str], who: str, wait: float) -> dict[str, Any]:
        """What `python -m lora_playground COMMAND --json` tells, with `state` done; or, where `wait` seconds do not
        suffice, `state` running.

        Raises:
            JobError: `who` has something else under way. PlaygroundError: what the command said.
        """
        key = tuple(command)
        if key not in self._tasks:
            if who and any(owner == who and not task.done() for owner, task in self._tasks.values()):
                raise JobError("Something else that you asked for is being computed; wait for its end, then ask again.")
            ended = [one for one, (_, task) in self._tasks.items() if task.done()]
            for old in ended[: max(0, len(ended) - KEPT)]:
                del self._tasks[old]
            self._tasks[key] = who, asyncio.create_task(self._work(key))
        task = self._tasks[key][1]
        await asyncio.wait({task}, timeout=wait)
        if not task.done():
            return {"state": "running"}
        del self._tasks[key]
        return {"state": "done", **task.result()}

    async def _work(self, command: tuple[str, ...]) -> dict[str, Any]:
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            printed = await run_command(self._home, [*command, "--json"], LIMIT_SECONDS)
            return json.loads(printed.splitlines()[-1])
