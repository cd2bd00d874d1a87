"""Runs a command of the app's own command line in a process of its own: the web process does so for work that needs
torch, which it does not import itself."""

from __future__ import annotations

from pathlib import Path

from lora_playground.errors import PlaygroundError
from lora_playground.machine import processes


async def run_command(home: Path, arguments: list[str], limit: int) -> str:
    """Runs `python -m lora_playground ARGUMENTS --home HOME` and returns what it prints.

    Raises:
        PlaygroundError: it failed (with its message), or took longer than `limit` seconds.
    """
    command = processes.python("lora_playground", *arguments, "--home", str(home))
    try:
        status, printed, errors = await processes.run(command, limit)
    except TimeoutError:
        raise PlaygroundError(f"It took longer than {limit // 60} minutes and was stopped.") from None
    if status:
        said = next((line[7:] for line in reversed(errors.splitlines()) if line.startswith("error: ")), "")
        ended = f"the process that does it ended with status {status}"
        if status == -9:
            ended += ", most likely for want of memory"
        raise PlaygroundError(said or f"{ended}; run 'python -m lora_playground {' '.join(arguments[:2])}' to see why.")
    return printed
