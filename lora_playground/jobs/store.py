"""The table of jobs, the only authority on the state of a job. SQLite, one connection, compare-and-set.

It knows states and rows; nothing of processes, folders or scheduling.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_playground.errors import JobError
from lora_playground.runs.files import is_disk_full

PHASES = ("loading", "training", "saving", "evaluating")
"""States of a running job; also the phases in its events."""

TERMINAL = ("done", "failed", "cancelled", "interrupted")
"""States that end an attempt. They are final for it; only an explicit resume begins another attempt."""

RESUMABLE = ("failed", "cancelled", "interrupted")

# {state: the states from which a job can come into it within one attempt}. It never returns to an earlier phase.
ALLOWED = {
    "loading": ("queued",),
    "training": ("loading",),
    "saving": ("loading", "training"),
    "evaluating": ("loading", "training", "saving"),
    "done": PHASES,
    "failed": ("queued", *PHASES),
    "cancelled": ("queued", *PHASES),
    "interrupted": PHASES,
}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    nonce TEXT,
    label TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    handle TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    created REAL NOT NULL,
    queued REAL NOT NULL,
    started REAL,
    finished REAL,
    used REAL NOT NULL DEFAULT 0,
    UNIQUE (owner, nonce)
);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
"""

_COLUMNS = frozenset("handle cancel_requested error_code error_message started finished used attempt queued".split())


@dataclass(frozen=True)
class Row:
    """One row of the table. Times are Unix seconds; `used` is the running time of all attempts in seconds."""

    id: str
    owner: str
    nonce: str | None
    label: str
    state: str
    attempt: int
    handle: dict[str, Any] | None
    cancel_requested: bool
    error_code: str | None
    error_message: str | None
    created: float
    queued: float
    started: float | None
    finished: float | None
    used: float


class JobStore:
    """The jobs of one home. Every method is one transaction. Thread-safe.

    Attributes:
        message: a note for the person, such as that a damaged table was replaced; else ''.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.message = ""
        self._lock = threading.RLock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
                raise _refusal(path, error) from error
            self._set_aside(error)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=5)
        try:
            db.row_factory = sqlite3.Row
            # There is only one connection, so write-ahead logging would bring nothing.
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = FULL")
            found = db.execute("PRAGMA quick_check").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            db.executescript(_SCHEMA)
            db.execute("SELECT id, owner, nonce, label, state, attempt, handle, used FROM jobs LIMIT 1").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        os.replace(self.path, aside)
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.replace(self.path.with_name(self.path.name + suffix), aside.with_name(aside.name + suffix))
        self.message = (
            f"The list of jobs was damaged ({error}) and has been set aside as {aside.name}. "
            "A new one was built from the run folders; no run is lost."
        )

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._db.close()

    def add(
        self,
        id: str,
        owner: str,
        nonce: str | None,
        label: str = "",
        state: str = "queued",
        created: float | None = None,
        attempt: int = 1,
    ) -> bool:
        """Adds a job; False if the owner has used this nonce before, or there is a job with this id."""
        now = time.time() if created is None else created
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO jobs (id, owner, nonce, label, state, created, queued, attempt)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (id, owner, nonce, label, state, now, now, attempt),
                )
            except sqlite3.IntegrityError:
                return False
        return True

    def move(self, id: str, attempt: int, state: str, **values: Any) -> bool:
        """Compare-and-set: puts attempt `attempt` of job `id` into `state` if `ALLOWED` permits it from the present
        one.

        Returns whether it did. False means that the present state is final, or another attempt has begun.
        """
        sources = ALLOWED[state]
        return self._update(id, attempt, sources, values | {"state": state})

    def set(self, id: str, attempt: int, **values: Any) -> bool:
        """Sets columns of a job that is not in a final state."""
        return self._update(id, attempt, ("queued", *PHASES), values)

    def withdraw(self, id: str, attempt: int, finished: float) -> bool:
        """Cancels a job that has not started; False if it has started or ended."""
        return self._update(
            id, attempt, ("queued",), {"state": "cancelled", "cancel_requested": 1, "finished": finished}
        )

    def restart(self, id: str, attempt: int) -> bool:
        """Queues attempt + 1 of a job whose attempt ended without success; False if that has begun already."""
        values = {
            "state": "queued",
            "attempt": attempt + 1,
            "queued": time.time(),
            "handle": None,
            "cancel_requested": 0,
            "error_code": None,
            "error_message": None,
            "finished": None,
        }
        return self._update(id, attempt, RESUMABLE, values)

    def _update(self, id: str, attempt: int, sources: Iterable[str], values: dict[str, Any]) -> bool:
        unknown = set(values) - _COLUMNS - {"state"}
        if unknown:
            raise ValueError(f"no such columns: {sorted(unknown)}")
        if isinstance(values.get("handle"), dict):
            values = values | {"handle": json.dumps(values["handle"])}
        sources = tuple(sources)
        assignments = ", ".join(f"{name} = ?" for name in values)
        marks = ", ".join("?" * len(sources))
        with self._lock:
            done = self._db.execute(
                f"UPDATE jobs SET {assignments} WHERE id = ? AND attempt = ? AND state IN ({marks})",
                (*values.values(), id, attempt, *sources),
            )
        return done.rowcount == 1

    def get(self, id: str) -> Row | None:
        """The job of that id, or None."""
        return self._one("SELECT * FROM jobs WHERE id = ?", (id,))

    def by_nonce(self, owner: str, nonce: str) -> Row | None:
        """The job that this owner submitted with this nonce, or None."""
        return self._one("SELECT * FROM jobs WHERE owner = ? AND nonce = ?", (owner, nonce))

    def list(self, states: Iterable[str] | None = None) -> Rows:
        """All jobs in the order of their creation, or those in `states` in the order in which they were queued."""
        if states is None:
            return self._all("SELECT * FROM jobs ORDER BY created, id", ())
        wanted = tuple(states)
        marks = ", ".join("?" * len(wanted))
        return self._all(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY queued, id", wanted)

    def recent_use(self, since: float) -> dict[str, float]:
        """Seconds of device time of jobs that ended after `since` (Unix time), by owner."""
        with self._lock:
            rows = self._db.execute(
                "SELECT owner, SUM(used) AS used FROM jobs WHERE finished > ? GROUP BY owner", (since,)
            ).fetchall()
        return {row["owner"]: row["used"] for row in rows}

    def typical_seconds(self) -> float | None:
        """Median device time in seconds of the last ten jobs that were done; None if there is none."""
        with self._lock:
            rows = self._db.execute(
                "SELECT used FROM jobs WHERE state = 'done' AND used > 0 ORDER BY finished DESC LIMIT 10"
            ).fetchall()
        times = sorted(row["used"] for row in rows)
        return times[len(times) // 2] if times else None

    def remove(self, id: str) -> bool:
        """Removes a job in a final state; False if it is in another state."""
        with self._lock:
            marks = ", ".join("?" * len(TERMINAL))
            done = self._db.execute(f"DELETE FROM jobs WHERE id = ? AND state IN ({marks})", (id, *TERMINAL))
        return done.rowcount == 1

    def _one(self, query: str, values: tuple[Any, ...]) -> Row | None:
        with self._lock:
            row = self._db.execute(query, values).fetchone()
        return _row(row) if row else None

    def _all(self, query: str, values: tuple[Any, ...]) -> Rows:
        with self._lock:
            return [_row(row) for row in self._db.execute(query, values).fetchall()]


Rows = list[Row]


def _row(row: sqlite3.Row) -> Row:
    fields = dict(row)
    fields["handle"] = json.loads(fields["handle"]) if fields["handle"] else None
    fields["cancel_requested"] = bool(fields["cancel_requested"])
    return Row(**fields)


def _damaged(error: sqlite3.OperationalError) -> bool:
    """Whether an OperationalError is about the file's contents rather than access to it."""
    return any(words in str(error) for words in ("malformed", "no such column", "not a database"))


def _refusal(path: Path, error: Exception) -> JobError:
    if is_disk_full(error):
        return JobError(f"The disk is full: the list of jobs {path} cannot be opened. Make room and start again.")
    return JobError(
        f"The list of jobs {path} cannot be opened for writing ({error}). Choose a folder you may write to "
        "with --home DIR or LORA_PLAYGROUND_HOME."
    )
