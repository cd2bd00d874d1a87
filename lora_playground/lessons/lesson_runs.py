"""The runs of lessons: fixed configs go through the queue, so that a server trains each once and plays it back.

Also adapters without a name, whose training nobody sees, and which runs a person made for themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_playground.errors import PlaygroundError
from lora_playground.exchange.importing import import_adapter
from lora_playground.jobs.supervisor import Job, Supervisor
from lora_playground.lessons.figures import digest
from lora_playground.lessons.judging import fits
from lora_playground.lessons.progress import FOLDER, Attempt
from lora_playground.lessons.schema import Check, Lesson
from lora_playground.runs import Run
from lora_playground.runs.files import read_json, write_json

_NAMELESS = "nameless.json"


class LessonRuns:
    """Starts and finds runs; safe to call from many threads."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self._supervisor, self._store = supervisor, supervisor.runs
        self._file = home / FOLDER / _NAMELESS
        self._lock = threading.Lock()

    def begin(self, lesson: Lesson, key: str, attempt: Attempt, visitor: str) -> tuple[str, int] | None:
        """Queues a run where the attempt has none that is under way or done; returns its id and how often it was tried.

        Raises ConfigError or JobError in the queue's words.
        """
        tries = attempt.tries.get(key, 0)
        known = self._supervisor.find(attempt.runs.get(key, ""))
        if known is not None and (not known.ended or known.state == "done"):
            return None
        part = lesson.runs[key]
        if part.hidden:
            # One for all visitors, under a name that tells nothing; it belongs to nobody.
            nonce = f"lesson {digest(lesson, key)} {tries}"
            unseen = part.run_config().model_copy(update={"title": f"behind {part.title}"})
            job = self._supervisor.submit(unseen, "", nonce)
            self._store.get(job.id).hide()
        else:
            nonce = f"lesson {lesson.name} {key} {digest(lesson, key)} {tries}"
            job = self._supervisor.submit(part.run_config(), visitor, nonce)
        if job.ended and job.state != "done":  # this very job failed before: try anew
            attempt.tries[key] = tries + 1
            return self.begin(lesson, key, attempt.model_copy(update={"runs": {}}), visitor)
        return job.id, tries

    def states(self, lesson: Lesson, attempt: Attempt, keys: Sequence[str]) -> list[dict[str, Any]]:
        """How far each run is: `state`, `run` (its id, '' where it is hidden), `part` from 0 to 1, `problem`."""
        shown = self.visible(lesson, attempt, keys)
        found = []
        for key in keys:
            part, job = lesson.runs[key], self._supervisor.find(attempt.runs.get(key, ""))
            state = job.state if job else "new"
            if state == "done" and part.hidden and key not in shown:
                state = "saving"
            found.append({
                "key": key, "title": part.title, "state": state, "run": shown.get(key, ""),
                "part": job.step / job.steps if job and job.steps else 0.0,
                "position": job.position if job else None,
                "problem": (job.error_message or "") if job and job.ended and job.state != "done" else "",
                "replayed": job is not None and self._replayed(job),
            })  # fmt: skip
        return found

    def visible(self, lesson: Lesson, attempt: Attempt, keys: Sequence[str]) -> dict[str, str]:
        """{key: id of the run that the page may show}; of a hidden run its nameless adapter, once that is there."""
        found = {}
        for key in keys:
            identity = attempt.runs.get(key, "")
            if not identity or self._supervisor.find(identity) is None:
                continue
            if lesson.runs[key].hidden:
                identity = self._nameless(lesson, key, identity) if self.done(identity) else ""
            if identity:
                found[key] = identity
        return found

    def done(self, identity: str) -> bool:
        """Whether a run has its result."""
        job = self._supervisor.find(identity)
        return job is not None and job.state == "done"

    def own(self, visitor: str, since: float, lessons_own: set[str], check: Check) -> list[tuple[Run, bool]]:
        """(run, whether it has its result) of the visitor's runs since then that a check asks for, newest first."""
        found = []
        for job in self._supervisor.jobs(visitor):
            if job.created < since or job.id in lessons_own or (job.ended and job.state != "done"):
                continue
            try:
                run = self._store.get(job.id)
                if fits(check, run.config()):
                    found.append((run, job.state == "done"))
            except PlaygroundError:
                continue
        return found

    def _replayed(self, job: Job) -> bool:
        if job.state != "done":
            return False
        try:
            return "replayed" in (self._store.get(job.id).result() or {})
        except PlaygroundError:
            return False

    def _nameless(self, lesson: Lesson, key: str, source: str) -> str:
        """The adapter of a hidden run as a run of its own that names no data; made at the first asking."""
        name = digest(lesson, key)
        with self._lock:
            kept = read_json(self._file) or {}
            if (known := kept.get(name)) and self._supervisor.find(known) is not None:
                return str(known)
            try:
                folder = self._store.get(source).adapter
                made = import_adapter(self._store, folder, lesson.runs[key].title).run.id
            except PlaygroundError:
                return ""
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, kept | {name: made})
            return made
