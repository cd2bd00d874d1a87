"""The worker process: imports what training needs, waits for a run, executes it once, and exits to free its memory.

`python -m lora_playground.jobs.worker --control FD` reads orders, one JSON object a line, from a pipe that the server
holds: `{"run": FOLDER, "attempt": N, "gpu": NAME or null}` and later `{"stop": true}`. When the pipe closes the server
is dead, and the whole process group ends. It knows nothing of queues; `jobs.pipeline` executes the run.

Little is imported before the watcher is forked, so that the watcher needs little memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lora_playground.machine.processes import yield_to_others

EXIT_FAILED = 1
EXIT_OUT_OF_MEMORY = 71  # differs from `failures.MACHINE_LOST`
EXIT_CANCELLED = 130

Execute = Callable[..., dict[str, Any]]


def main(
    arguments: Sequence[str] | None = None,
    execute: Execute | None = None,
    warm_up: Callable[[], None] | None = None,
    prepared: bool = False,
) -> int:
    """Waits for one run and executes it; returns the exit status (0 only if `result.json` was written).

    Args:
        execute: replaces `jobs.pipeline.execute` in tests.
        warm_up: replaces importing the pipeline, which is done while waiting, in tests.
        prepared: whether everything is imported and the priority lowered already (`jobs.fork_server`).
    """
    parser = argparse.ArgumentParser(prog="python -m lora_playground.jobs.worker", description=__doc__.split("\n")[0])
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="the pipe to read orders from")
    control = parser.parse_args(arguments).control
    watched = _start_watcher(control)
    if not prepared:
        yield_to_others()
    orders = Orders(control, watched)
    warming = Warming(warm_up or ((lambda: None) if prepared else prepare))
    order = orders.first()
    if order is None:
        return 0
    return _work(order, orders, warming, execute)


def prepare() -> None:
    """Imports what a run needs and loads the embedded base, before the run is known."""
    from lora_playground.jobs import execution, pipeline  # noqa: F401

    execution.prepare()


class Orders:
    """Reads the control pipe in a thread, for as long as the process lives.

    Args:
        control: file descriptor of the pipe. watched: whether a watcher ends the process group when the server dies.

    Attributes:
        stop: set when the run should stop.
    """

    def __init__(self, control: int, watched: bool) -> None:
        self.stop = threading.Event()
        self._watched = watched
        self._first: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._control = control
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def first(self) -> dict[str, Any] | None:
        """Waits for the order to execute a run; None if the pipe closes first."""
        return self._first.get()

    def _read(self) -> None:
        with open(self._control, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                order = json.loads(line)
                if order.get("stop"):
                    self.stop.set()
                else:
                    self._first.put(order)
        self._first.put(None)
        # The server is gone. The watcher ends the process group and what has left it; if the watcher has died, this
        # thread ends the group.
        if self._watched:
            time.sleep(5)
        os.killpg(0, signal.SIGKILL)


class Warming:
    """Runs the preparation in a thread of its own."""

    def __init__(self, task: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(task,), name="warming", daemon=True)
        self._thread.start()

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self.error = error

    def finish(self) -> None:
        """Waits until the preparation is done. An error in it is ignored here and comes up again in the run itself."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # with a timeout, since on some platforms signals do not interrupt an endless wait


def _work(order: dict[str, Any], orders: Orders, warming: Warming, execute: Execute | None) -> int:
    from pathlib import Path

    from lora_playground.runs import Run

    run = Run(Path(order["run"]))
    _log_to(run.log_path)
    signal.signal(signal.SIGTERM, lambda *_: _terminated(orders))
    try:
        print(f"attempt {order['attempt']} in process {os.getpid()}", flush=True)
        warming.finish()
        if order.get("gpu") is not None:  # CUDA reads it when it is first used, which the preparation does not do
            os.environ["CUDA_VISIBLE_DEVICES"] = order["gpu"]
        if execute is None:
            from lora_playground.jobs.pipeline import execute
        assert execute is not None
        execute(run, orders.stop.is_set, attempt=order["attempt"])
        return 0
    except BaseException as error:  # also a panic in the tokenizers library, which is no Exception
        return exit_status(run, error)


def exit_status(run: Any, error: BaseException) -> int:
    """The exit status for an error. Records the error in the run if it came before `execute`, which does that
    itself."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return EXIT_CANCELLED
    recorded = run.error()
    if recorded is None or recorded.get("attempt") != run.attempt:
        traceback.print_exception(error)
        try:
            from lora_playground.jobs.failures import record

            recorded = record(run, error)
        except BaseException:
            traceback.print_exc()
            return EXIT_FAILED
    return {"oom": EXIT_OUT_OF_MEMORY, "cancelled": EXIT_CANCELLED}.get(recorded["code"], EXIT_FAILED)


def _terminated(orders: Orders) -> NoReturn:
    """Handles SIGTERM by raising an exception in the main thread, so that staged files are removed."""
    orders.stop.set()
    raise SystemExit(EXIT_CANCELLED)


def _log_to(path: Any) -> None:
    """Redirects standard output and error, also of libraries in C, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return  # such as a full disk, which the run itself will report; its output stays in the worker's own log
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _start_watcher(control: int) -> bool:
    """Forks a small process, the watcher. It ends this worker's process group when the server dies, even while the
    worker is inside C code, and when the worker dies, so that nothing it started outlives it. Returns whether it
    could."""
    if not hasattr(os, "pidfd_open") or os.getpgrp() != os.getpid():
        return False  # the thread that reads orders ends the group when the server dies
    from lora_playground.jobs.handle import TOKEN_VARIABLE, descendants  # before the fork, so that the watcher is quick

    worker = os.getpid()
    if os.fork() != 0:
        return True
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        poller = select.poll()
        poller.register(control, 0)  # asks for nothing, so it wakes only when the writing end is closed
        with contextlib.suppress(OSError):
            process = os.pidfd_open(worker)
            poller.register(process, select.POLLIN)
            poller.poll()
            signal.pidfd_send_signal(process, signal.SIGKILL)  # the worker first; finding the rest takes a moment
        for pid in descendants(os.environ.get(TOKEN_VARIABLE, "")):
            if os.getpgid(pid) != os.getpgrp():  # it has left the group
                os.kill(pid, signal.SIGKILL)
    finally:
        os.killpg(0, signal.SIGKILL)
    return True


def _exit(status: int) -> NoReturn:
    """Ends the process at once: a normal exit with torch takes long, and all results are on disk."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main())
