"""Stores what each person has done in lessons: answers, steps seen and completed, and when.

One JSON file for each person under `HOME/learners`. A prediction cannot be changed, nor made once its result was shown.
This module knows nothing of web pages, the contents of runs, or classes.
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
    """One answer, and when it was given, in Unix seconds."""

    value: Answer
    at: float


class Attempt(BaseModel):
    """One person's progress in one lesson. All times are Unix seconds, all steps indices from 0.

    Attributes:
        step: where the person is.
        seen, done, skipped: {step: when it was first shown, when it was completed, when it was left undone}.
        answers: {name of the question: answers}. The first is the prediction; a teacher can ask for further ones.
        revealed: {name of the question: when its result was shown}, after which it cannot be predicted.
        runs: {key of the lesson's run: run id}. tries: {key: number of tries that failed before}.
        finished: when the last step was first shown; None before.
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
        """The first answer to a question; None if there is none."""
        given = self.answers.get(name)
        return given[0].value if given else None


class Learner(BaseModel):
    """What is stored of one visitor: the identity in their signed cookie, or 'user:NAME' of a login, and progress."""

    model_config = ConfigDict(extra="ignore")

    visitor: str
    lessons: dict[str, Attempt] = Field(default_factory=dict)


def enter(lesson: Lesson, attempt: Attempt, step: int, now: float) -> None:
    """Moves to any step. The step that is left counts as skipped if it is not done; a step that reveals a result marks
    its questions as revealed.

    Args:
        now: Unix seconds.

    Raises:
        LessonError: there is no such step.
    """
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
    """Marks a step as done."""
    attempt.done.setdefault(step, now)
    attempt.skipped.pop(step, None)


def answer(lesson: Lesson, attempt: Attempt, name: str, value: Any, now: float, again: bool = False) -> None:
    """Stores an answer, and marks the step that asks for it as done.

    Args:
        name: of the question. now: Unix seconds.
        again: a further answer, which a teacher has asked for; the prediction is kept.

    Raises:
        LessonError: there is no such question, the answer is not allowed, there is a prediction already, or its result
            was shown.
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
    """The progress of all people. Thread-safe, for one process."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        self._lock = threading.RLock()
        self._kept: dict[str, Learner] = {}

    def path(self, visitor: str) -> Path:
        """The file of one visitor. Its name is a digest, since an identity can have any characters."""
        return self.folder / f"{hashlib.sha256(visitor.encode()).hexdigest()[:32]}.json"

    def get(self, visitor: str) -> Learner:
        """A copy of what is stored of a visitor; an empty one if there is nothing, or it cannot be read."""
        with self._lock:
            return self._read(visitor).model_copy(deep=True)

    def change(self, visitor: str, do: Any) -> Any:
        """Calls `do(learner)` under a lock, stores what it changed, and returns its value. If it raises, nothing is
        stored."""
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
        """Deletes what is stored of a visitor."""
        with self._lock:
            self._kept.pop(visitor, None)
            self.path(visitor).unlink(missing_ok=True)

    def _read(self, visitor: str) -> Learner:
        if visitor not in self._kept:
            found = read_json(self.path(visitor))
            try:
                learner = Learner.model_validate(found) if found else Learner(visitor=visitor)
            except ValidationError:
                learner = Learner(visitor=visitor)  # the file is damaged, or of another version of this app
            if not visitor:
                return learner
            self._kept[visitor] = learner
        return self._kept[visitor]
