"""What a person has done of the lessons: predictions locked before anything is revealed, steps completed, times.

One JSON file a person under `HOME/learners`. It knows lessons and times; nothing of pages, runs' contents or classes.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_playground.errors import LessonError
from lora_playground.lessons.judging import Answer, checked_answer
from lora_playground.lessons.schema import Ask, Lesson, Reveal
from lora_playground.runs.files import read_json, write_json

FOLDER = "learners"


class Given(BaseModel):
    """One answer, and when it was given (Unix seconds)."""

    value: Answer
    at: float


class Attempt(BaseModel):
    """One person's way through one lesson. All times are Unix seconds; keys of `seen`, `done` and `skipped` are places
    of steps (from 0).

    Attributes:
        step: where the person is. seen, done, skipped: when a step was first shown, completed, passed over undone.
        answers: {name of the question: answers}; the first is the prediction, later ones were asked for again.
        revealed: {name of the question: when its result was shown}; from then on it takes no first answer.
        runs: {key of the lesson's run: id}. tries: {key: how often it was started}.
        finished: when the last step was completed or reached; None before.
    """

    model_config = ConfigDict(extra="ignore")

    started: float
    step: int = 0
    seen: dict[int, float] = Field(default_factory=dict)
    done: dict[int, float] = Field(default_factory=dict)
    skipped: dict[int, float] = Field(default_factory=dict)
    answers: dict[str, list[Given]] = Field(default_factory=dict)
    revealed: dict[str, float] = Field(default_factory=dict)
    runs: dict[str, str] = Field(default_factory=dict)
    tries: dict[str, int] = Field(default_factory=dict)
    finished: float | None = None

    def prediction(self, name: str) -> Answer | None:
        """The first answer to a question; None where it was not answered."""
        given = self.answers.get(name)
        return given[0].value if given else None


class Learner(BaseModel):
    """What is kept of one visitor. `visitor` is the identity in the signed cookie, or 'user:NAME' of a login."""

    model_config = ConfigDict(extra="ignore")

    visitor: str
    lessons: dict[str, Attempt] = Field(default_factory=dict)


def enter(lesson: Lesson, attempt: Attempt, step: int, now: float) -> None:
    """Moves to a step, which is free. What is left undone behind counts as skipped; a result that is shown locks its
    question. Raises LessonError for a step that there is not."""
    if not 0 <= step < len(lesson.steps):
        raise LessonError(f"{lesson.title} has {len(lesson.steps)} steps; there is no step {step + 1}.")
    if step > attempt.step and attempt.step not in attempt.done:
        attempt.skipped.setdefault(attempt.step, now)
    attempt.step = step
    attempt.seen.setdefault(step, now)
    shown = lesson.steps[step]
    if isinstance(shown, Reveal):
        for name in shown.asks:
            attempt.revealed.setdefault(name, now)
    if step == len(lesson.steps) - 1 and attempt.finished is None:
        attempt.finished = now


def complete(attempt: Attempt, step: int, now: float) -> None:
    """Notes that what a step asks for was done."""
    attempt.done.setdefault(step, now)
    attempt.skipped.pop(step, None)


def answer(lesson: Lesson, attempt: Attempt, name: str, value: Any, now: float, again: bool = False) -> None:
    """Locks an answer, and completes the step that asks for it.

    Args:
        again: an answer after the first, which a teacher asks for; the prediction stays what it was.

    Raises:
        LessonError: there is no such question, the answer does not fit it, it has an answer, or its result was shown.
    """
    asked = _question(lesson, name)
    kept = checked_answer(asked, value)
    given = attempt.answers.setdefault(name, [])
    if given and not again:
        raise LessonError("This prediction is locked. Start the lesson over to predict anew.")
    if not given and name in attempt.revealed:
        raise LessonError("The result has been shown, so this can no longer be predicted. Start the lesson over.")
    given.append(Given(value=kept, at=now))
    complete(attempt, lesson.steps.index(asked), now)


def _question(lesson: Lesson, name: str) -> Ask:
    try:
        return lesson.asked(name)
    except StopIteration:
        raise LessonError(f"{lesson.title} asks no question {name!r}.") from None


class Learners:
    """The people of one home; safe to call from many threads of one process."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        self._lock = threading.RLock()
        self._kept: dict[str, Learner] = {}

    def path(self, visitor: str) -> Path:
        """The file of one visitor; its name is a digest, since an identity may hold any characters."""
        return self.folder / f"{hashlib.sha256(visitor.encode()).hexdigest()[:32]}.json"

    def get(self, visitor: str) -> Learner:
        """A copy of what is kept of a visitor; an empty one where there is nothing, or nothing readable."""
        with self._lock:
            return self._read(visitor).model_copy(deep=True)

    def change(self, visitor: str, do: Any) -> Any:
        """Calls `do(learner)` under a lock, keeps what it changed, and returns its value. An error keeps nothing."""
        with self._lock:
            learner = self._read(visitor).model_copy(deep=True)
            before = learner.model_dump(mode="json")
            returned = do(learner)
            if (after := learner.model_dump(mode="json")) != before and visitor:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.path(visitor), after)
            if visitor:
                self._kept[visitor] = learner
            return returned

    def forget(self, visitor: str) -> None:
        """Deletes what is kept of a visitor."""
        with self._lock:
            self._kept.pop(visitor, None)
            self.path(visitor).unlink(missing_ok=True)

    def _read(self, visitor: str) -> Learner:
        if visitor not in self._kept:
            found = read_json(self.path(visitor))
            try:
                learner = Learner.model_validate(found) if found else Learner(visitor=visitor)
            except ValidationError:
                learner = Learner(visitor=visitor)  # of another version of this app, or damaged
            if not visitor:
                return learner
            self._kept[visitor] = learner
        return self._kept[visitor]
