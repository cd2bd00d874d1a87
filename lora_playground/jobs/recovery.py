"""What a server does before it runs jobs: it locks the home, and puts in order what a server that died left behind.

It knows the table, the runs and the runner; nothing of scheduling.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

from lora_playground.errors import JobError, PlaygroundError, RunError
from lora_playground.jobs.runner import Handle, Runner
from lora_playground.jobs.store import PHASES, TERMINAL, JobStore, Row
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import writing

YOUNG = 60.0
"""Seconds: a younger run that is not in the table may just have been made by another program."""
_BEFORE_ACCEPTED = {"config.json", "about.json", "hold.json", "identity"}
"""Files that `Supervisor.submit` writes into a run's folder before it adds the run to the table."""


def take_home(home: Path) -> int:
    """Creates the home and locks it for this process; returns the lock's file descriptor. Raises JobError if another
    server has locked it."""
    try:
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
            handle = os.open(home / "server.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except RunError as error:
        raise JobError(str(error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise JobError(
            f"Another server (process {holder}) uses {home}. Stop it, or give this one another folder with --home DIR."
        ) from None
    try:
        with writing(home / "server.lock"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except RunError as error:
        os.close(handle)
        raise JobError(str(error)) from error
    return handle


def recover(store: JobStore, runs: RunStore, runner: Runner) -> None:
    """Ends the processes of jobs that ran when the last server died, and marks these jobs as interrupted.

    The exit status of these workers is unknown. A job whose run has a `result.json` of this attempt is done, since
    workers write that file atomically once the adapter is saved.
    """
    for row in store.list(PHASES):
        if row.handle is not None:
            runner.reap(Handle.from_dict(row.handle))
        now = time.time()
        try:
            run = runs.get(row.id)
        except RunError as error:
            store.move(row.id, row.attempt, "failed", error_code="error", error_message=str(error), finished=now)
            continue
        run.sweep()
        run.attempt = row.attempt
        if run.result() is not None and run.error() is None:
            store.move(row.id, row.attempt, "done", finished=now)
        elif row.cancel_requested:
            run.fail("cancelled", "The run was stopped.")
            store.move(row.id, row.attempt, "cancelled", error_code="cancelled", finished=now)
        else:
            text = f"The server ended while this run was {row.state}. Resume to go on."
            store.move(row.id, row.attempt, "interrupted", error_message=text, finished=now)


def forget_unaccepted(store: JobStore, runs: RunStore) -> None:
    """Removes the folders of runs that a server had created but not put into the table when it died. Nobody was told of
    these, and nothing was begun in them. Runs of the last minute stay, since another program may have made them; so do
    all runs if the table is empty, since a new table knows none."""
    known = {row.id for row in store.list()}
    if not known:
        return
    for run in runs.list():
        begun = {path.name for path in run.folder.iterdir()} - _BEFORE_ACCEPTED
        if run.id in known or time.time() - run.folder.stat().st_mtime < YOUNG:
            continue
        if all(name.endswith(".tmp") for name in begun):
            with contextlib.suppress(RunError):
                runs.delete(run.id)


def as_it_stands(row: Row, runs: RunStore) -> Row:
    """The row, with the state 'done' if the job failed here but its run was then finished on the command line."""
    if row.state in TERMINAL and row.state != "done":
        with contextlib.suppress(RunError):
            run = runs.get(row.id)
            if run.result_path.exists() and run.error() is None:
                return replace(row, state="done", error_code=None, error_message=None)
    return row


def rebuild(store: JobStore, runs: RunStore) -> None:
    """Fills a new table from the run folders. Runs that were queued or running become interrupted."""
    for run in reversed(runs.list()):
        with contextlib.suppress(PlaygroundError):
            adopt(store, run, "")


def adopt(store: JobStore, run: Run, owner: str) -> None:
    """Adds a run to the table, in the state that its folder shows. Raises JobError if it is being executed."""
    if run.alive():
        raise JobError(f"Run {run.id} is being executed outside this server; wait for it or stop it there.")
    state = run.state()
    store.add(
        run.id,
        owner,
        None,
        run.label,
        state if state in TERMINAL else "interrupted",
        run.created(),
        max(1, run.progress().attempt),
    )
