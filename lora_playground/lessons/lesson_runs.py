"""Starts and finds the runs of lessons. Their configs are fixed, so a server trains each of them once, and whoever
comes later takes that run over.

A lesson can have hidden runs: people get their adapter without seeing its data. A lesson can also ask people for runs
of their own, which are found here.
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
    """Starts and finds the runs of lessons. Thread-safe."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self._supervisor, self._store = supervisor, supervisor.runs
        self._file = home / FOLDER / _NAMELESS
        self._lock = threading.Lock()

    def begin(self, lesson: Lesson, key: str, attempt: Attempt, visitor: str) -> tuple[str, int] | None:
        """Queues a run of a lesson, unless the person's is queued, running or done.

        Args:
            key: the run's name in the lesson. attempt: the person's progress.

        Returns:
            (run id, number of earlier tries that failed), or None if nothing was to be done.

        Raises:
            ConfigError, JobError: the queue refuses it.
        """
        tries = attempt.tries.get(key, 0)
        known = self._supervisor.find(attempt.runs.get(key, ""))
        if known is not None and (not known.ended or known.state == "done"):
            return None
        part = lesson.runs[key]
        if part.hidden:
            # One run for all visitors, without an owner, under a title that does not tell what it learns.
            nonce = f"lesson {digest(lesson, key)} {tries}"
            unseen = part.run_config().model_copy(update={"title": f"behind {part.title}"})
            job = self._supervisor.submit(unseen, "", nonce)
            self._store.get(job.id).hide()
        else:
            nonce = f"lesson {lesson.name} {key} {digest(lesson, key)} {tries}"
            job = self._supervisor.submit(part.run_config(), visitor, nonce)
        if job.ended and job.state != "done":  # the queue returned the job of a try that failed
            attempt.tries[key] = tries + 1
            return self.begin(lesson, key, attempt.model_copy(update={"runs": {}}), visitor)
        return job.id, tries

    def states(self, lesson: Lesson, attempt: Attempt, keys: Sequence[str]) -> list[dict[str, Any]]:
        """How far each run has come.

        Returns:
            for each key {key, title, state: 'new' or the job's, run: id or '' while the page may not show it, part: the
            part that is done, 0 to 1, position: place in the queue or None, problem: why it failed or '', replayed:
            whether an earlier run was taken over}.
        """
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
        """{key: id of the run that the page may show}. For a hidden run that is a run which holds only its adapter."""
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
        """Whether a run has finished successfully."""
        job = self._supervisor.find(identity)
        return job is not None and job.state == "done"

    def own(self, visitor: str, since: float, lessons_own: set[str], check: Check) -> list[tuple[Run, bool]]:
        """The visitor's own runs that meet a check, newest first, as (run, whether it is done).

        Args:
            since: Unix seconds; older runs are left out. lessons_own: ids of the lesson's runs, which do not count.
        """
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
        """The id of a run that holds only the adapter of a hidden run, under the lesson's title. It is made at the
        first call. '' if that fails."""
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
