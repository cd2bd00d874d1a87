"""Runs those experiments of the laboratory that need torch in a process of their own, since the web process imports
none.

`work` starts that process and yields its messages; `main` is the process: it reads a task as JSON from standard input
and writes lines of JSON to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_playground.errors import PlaygroundError, RunError
from lora_playground.machine import processes

_ONE = threading.Lock()


def work(home: Path, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Does a task in a process of its own, one at a time in this server.

    Args:
        task: {kind: 'weights', runs, weights, recipe: fields of Recipe, rows}, {kind: 'dial', run, of: kind of the dial
            (see `lab.dials`), rows} or {kind: 'forecast', run}.

    Yields:
        {'done', 'of'} as it progresses, and last {'found': the result}.

    Raises:
        RunError: another task is running, or this one failed; the message says what to do.
    """
    if not _ONE.acquire(blocking=False):
        raise RunError("Scores are being made for somebody already; ask again when they are done.")
    process = None
    try:
        command = processes.python("lora_playground.lab.process")
        process = processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({**task, "home": str(home)}).encode())
        process.stdin.close()
        for line in process.stdout:
            message = json.loads(line)
            if "error" in message:
                raise RunError(message["error"])
            yield message
            if "found" in message:
                return
        raise RunError("The scores' process ended early; there may be too little memory. Ask for fewer rows.")
    finally:
        if process is not None:
            processes.signal_group(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        _ONE.release()


def main() -> int:
    """Reads a task from standard input, does it, and writes progress and result to standard output."""
    task = json.loads(sys.stdin.buffer.read())
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # what libraries print goes to standard error, not between the messages

        def say(message: dict[str, Any]) -> None:
            out.write(json.dumps(message).encode() + b"\n")

        try:
            say({"found": _do(task, lambda done, of: say({"done": done, "of": of}))})
        except PlaygroundError as error:
            say({"error": str(error)})
        except Exception as error:
            say({"error": f"The scores could not be made ({type(error).__name__}: {str(error)[:200]})."})
    return 0


def _do(task: dict[str, Any], report: Any) -> dict[str, Any]:
    from lora_playground import variants  # noqa: F401  (declares the options that a run's config is read with)
    from lora_playground.analysis.merging import Recipe
    from lora_playground.lab.dials import over_dial
    from lora_playground.lab.forecast import forecast
    from lora_playground.lab.mixing import mixed
    from lora_playground.lab.weights import over_weights
    from lora_playground.runs import RunStore

    store = RunStore(task["home"])
    if task["kind"] == "forecast":
        return forecast(store, task["run"], report)
    if task["kind"] == "dial":
        return over_dial(store, task["run"], task["of"], rows=task["rows"], report=report)
    chosen = mixed(store, task["runs"], task["weights"], Recipe(**task["recipe"]))
    return over_weights(store, chosen, task["rows"], report)


if __name__ == "__main__":
    raise SystemExit(main())
