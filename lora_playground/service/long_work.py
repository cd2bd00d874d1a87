"""Runs commands that take long for programs, each in a process of its own, one at a time. A program that does not want
to wait asks again later and gets the same command's result."""

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
"""Seconds that one request may wait: less than the minute after which many HTTP clients give up."""
KEPT = 64
"""How many results are kept until they are asked for again; beyond that the oldest are dropped."""


class LongWork:
    """The commands of one server. Use it from one event loop only.

    Args:
        home: has the runs.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tasks: dict[tuple[str, ...], tuple[str, asyncio.Task[dict[str, Any]]]] = {}
        self._turn: asyncio.Lock | None = None

    async def result(self, command: Sequence[str], who: str, wait: float) -> dict[str, Any]:
        """Runs `python -m lora_playground COMMAND --json`, or returns to it if it is running.

        Returns:
            its value with `state` 'done', or only `state` 'running' if it takes longer than `wait` seconds.

        Raises:
            JobError: another command is running for `who`. PlaygroundError: the command failed, with its message.
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
        self._tasks.pop(key, None)  # another request for the same command may have removed it
        return {"state": "done", **task.result()}

    async def _work(self, command: tuple[str, ...]) -> dict[str, Any]:
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            printed = await run_command(self._home, [*command, "--json"], LIMIT_SECONDS)
            return json.loads(printed.splitlines()[-1])
