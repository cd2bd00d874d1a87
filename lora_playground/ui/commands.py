"""Runs the app's own command line in a process of its own: what needs torch, for a web process that stays free of it.

It knows no format and no screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.runner import clean_environment

_ROOT = Path(__file__).resolve().parents[2]


async def run_command(home: Path, arguments: list[str], limit: int) -> str:
    """What `python -m lora_playground ARGUMENTS --home HOME` prints; raises PlaygroundError with what it said, or where
    it took longer than `limit` seconds."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lora_playground", *arguments, "--home", str(home), cwd=_ROOT,
        env=clean_environment(os.environ),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(limit):
            printed, told = await child.communicate()
    except TimeoutError:
        raise PlaygroundError(f"It took longer than {limit // 60} minutes and was stopped.") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    if child.returncode:
        lines = told.decode(errors="replace").splitlines()
        said = next((line[7:] for line in reversed(lines) if line.startswith("error: ")), "")
        ended = f"the process that does it ended with status {child.returncode}"
        if child.returncode == -9:
            ended += ", most likely for want of memory"
        raise PlaygroundError(said or f"{ended}; run 'python -m lora_playground {' '.join(arguments[:2])}' to see why.")
    return printed.decode(errors="replace")
