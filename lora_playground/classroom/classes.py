"""What is kept of a class: its code, its teacher, its people, and what the teacher has set. One JSON file a class.

People are told apart by the identity in their signed cookie. It knows lessons by name and no page.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_playground.errors import LessonError
from lora_playground.lessons.catalogue import get_lesson
from lora_playground.lessons.progress import Learner, Learners
from lora_playground.runs.files import read_json, write_json

FOLDER = "classes"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Of a code: none that are taken for another when read from a wall."""
CODE_LENGTH = 6
MOST_PEOPLE = 200
MOST_CLASSES = 20
"""Open classes a teacher."""
LONGEST_NAME = 40

T = TypeVar("T")


class Member(BaseModel):
    """One person of a class.

    Attributes:
        visitor: the identity in the signed cookie. name: as they call themselves. number: from 1, in order of joining.
        joined: Unix seconds.
    """

    model_config = ConfigDict(extra="ignore")

    visitor: str
    name: str
    number: int
    joined: float


class Class(BaseModel):
    """A class as it is kept.

    Attributes:
        code: what people type to join. teacher: the identity of who opened it.
        lesson: the name of the lesson that it goes through. opened, ended: Unix seconds; None while it goes on.
        held: the last step (from 0) that people may open; None where they go as they like.
        gathered: [how often the teacher has brought everyone to a step, that step]; None where never.
        shown: [how often, run id] of the run that the teacher shows to all; None where none is shown.
        again: {name of a question: when it was asked again}.
        people: in order of joining.
    """

    model_config = ConfigDict(extra="ignore")

    code: str
    teacher: str
    lesson: str
    opened: float
    ended: float | None = None
    held: int | None = None
    gathered: tuple[int, int] | None = None
    shown: tuple[int, str] | None = None
    again: dict[str, float] = Field(default_factory=dict)
    people: list[Member] = Field(default_factory=list)

    def member(self, visitor: str) -> Member | None:
        """The person with this identity; None where they have not joined."""
        return next((one for one in self.people if one.visitor == visitor), None)


class Classes:
    """The classes of one home. Any thread may call any method.

    Args:
        learners: where people's progress is kept. clock: Unix seconds.
    """

    def __init__(self, home: Path, learners: Learners, clock: Callable[[], float] = time.time) -> None:
        self.home, self.folder, self.learners, self._clock = home, home / FOLDER, learners, clock
        self._lock = threading.RLock()
        self._kept: dict[str, Class] | None = None

    # --- the teacher ------------------------------------------------------------------------------------------------

    def open(self, teacher: str, lesson: str) -> Class:
        """Opens a class on a lesson. Raises LessonError: no such lesson, or too many classes are open."""
        get_lesson(lesson, self.home)
        with self._lock:
            if sum(one.teacher == teacher and one.ended is None for one in self._all().values()) >= MOST_CLASSES:
                raise LessonError(f"You have {MOST_CLASSES} open classes; end one first.")
            made = Class(code=self._code(), teacher=teacher, lesson=lesson, opened=self._clock())
            self._keep(made)
            return made.model_copy(deep=True)

    def taught(self, teacher: str, code: str) -> Class:
        """The class, for its teacher alone. Raises LessonError for anybody else, as for a code that there is not."""
        found = self._all().get(_written(code))
        if found is None or found.teacher != teacher or not teacher:
            raise LessonError(f"You teach no class with the code {_shortened(code)}.")
        return found.model_copy(deep=True)

    def of_teacher(self, teacher: str) -> list[Class]:
        """The classes that a person opened, newest first."""
        mine = [one for one in self._all().values() if one.teacher == teacher and teacher]
        return sorted((one.model_copy(deep=True) for one in mine), key=lambda one: -one.opened)

    def take(self, teacher: str, code: str, lesson: str) -> Class:
        """Goes on with another lesson: nothing is held, shown or asked again there."""
        get_lesson(lesson, self.home)

        def change(one: Class) -> None:
            one.lesson, one.held, one.gathered, one.shown, one.again = lesson, None, None, None, {}

        return self._teach(teacher, code, change)

    def hold(self, teacher: str, code: str, step: int | None) -> Class:
        """Nobody gets beyond `step` (from 0) until it is held elsewhere; None lets people go as they like."""
        return self._teach(teacher, code, lambda one: setattr(one, "held", self._step(one, step)))

    def gather(self, teacher: str, code: str, step: int) -> Class:
        """Brings everyone to `step` (from 0) and holds the class there."""

        def change(one: Class) -> None:
            place = self._step(one, step)
            assert place is not None
            one.held, one.gathered = place, ((one.gathered or (0, 0))[0] + 1, place)

        return self._teach(teacher, code, change)

    def show(self, teacher: str, code: str, run: str | None) -> Class:
        """Shows a run to all; None ends that. Who may see which run is the caller's to check."""
        return self._teach(
            teacher, code, lambda one: setattr(one, "shown", ((one.shown or (0, ""))[0] + 1, run) if run else None)
        )

    def ask_again(self, teacher: str, code: str, question: str) -> Class:
        """Asks a question again, after the discussion; the first answers stay. Raises LessonError: no such question."""

        def change(one: Class) -> None:
            lesson = get_lesson(one.lesson, self.home)
            if question not in {step.name for step in lesson.steps if step.kind == "ask"}:
                raise LessonError(f"{lesson.title} asks no question {question!r}.")
            one.again[question] = self._clock()

        return self._teach(teacher, code, change)

    def end(self, teacher: str, code: str) -> Class:
        """Ends the class: people go on alone. What they did stays until it is deleted."""

        def change(one: Class) -> None:
            one.ended, one.held = self._clock(), None

        return self._teach(teacher, code, change)

    def delete(self, teacher: str, code: str) -> None:
        """Deletes the class, and what its people answered since they joined, in all lessons. Their runs stay theirs."""
        one = self.taught(teacher, code)
        for person in one.people:
            self.learners.change(person.visitor, lambda learner, since=person.joined: _forget(learner, since))
        with self._lock:
            self._all().pop(one.code, None)
            self._path(one.code).unlink(missing_ok=True)

    # --- the people -------------------------------------------------------------------------------------------------

    def join(self, visitor: str, code: str, name: str) -> Class:
        """Joins a class, or changes one's name there. Raises LessonError: no such class, ended, full, no name."""
        called = " ".join(name.split())[:LONGEST_NAME]
        if not called:
            raise LessonError("Give a name that the teacher will know you by; any name will do.")

        def change(one: Class) -> None:
            found = one.member(visitor)
            if any(other.name.casefold() == called.casefold() and other is not found for other in one.people):
                raise LessonError(f"Somebody in this class is called {called} already; add a letter or a number.")
            if found is not None:
                found.name = called
            elif len(one.people) >= MOST_PEOPLE:
                raise LessonError(f"This class has {MOST_PEOPLE} people; no more can join.")
            else:
                number = max((other.number for other in one.people), default=0) + 1
                one.people.append(Member(visitor=visitor, name=called, number=number, joined=self._clock()))

        return self._change(self._open(code), change)

    def leave(self, visitor: str, code: str) -> None:
        """Leaves a class; what was answered there is no longer counted in it."""
        self._change(
            self._open(code), lambda one: setattr(one, "people", [p for p in one.people if p.visitor != visitor])
        )

    def attended(self, visitor: str, code: str) -> Class:
        """The class, for one of its people. Raises LessonError for anybody else, as for a code that there is not."""
        found = self._all().get(_written(code))
        if found is None or found.member(visitor) is None:
            raise LessonError(f"You are in no class with the code {_shortened(code)}.")
        return found.model_copy(deep=True)

    def limit(self, visitor: str, lesson: str) -> int | None:
        """The last step that this person may open in a lesson, by the classes that they are in; None for any."""
        held = [
            one.held
            for one in self._all().values()
            if one.ended is None and one.lesson == lesson and one.held is not None and one.member(visitor) is not None
        ]
        return min(held, default=None)

    # --- keeping ----------------------------------------------------------------------------------------------------

    def _teach(self, teacher: str, code: str, do: Callable[[Class], None]) -> Class:
        with self._lock:
            one = self.taught(teacher, code)
            if one.ended is not None:
                raise LessonError("This class has ended.")
            return self._change(one, do)

    def _open(self, code: str) -> Class:
        found = self._all().get(_written(code))
        if found is None:
            raise LessonError(f"There is no class with the code {_shortened(code)}. Look at the wall again.")
        if found.ended is not None:
            raise LessonError("This class has ended.")
        return found

    def _change(self, one: Class, do: Callable[[Class], None]) -> Class:
        with self._lock:
            changed = self._all().get(one.code, one).model_copy(deep=True)
            do(changed)
            self._keep(changed)
            return changed.model_copy(deep=True)

    def _keep(self, one: Class) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(one.code), one.model_dump(mode="json"))
        self._all()[one.code] = one

    def _all(self) -> dict[str, Class]:
        with self._lock:
            if self._kept is None:
                self._kept = {}
                for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
                    try:
                        one = Class.model_validate(read_json(path) or {})
                    except ValidationError:
                        continue  # damaged, or of another version of this app
                    self._kept[one.code] = one
            return self._kept

    def _code(self) -> str:
        while True:
            code = "".join(secrets.choice(LETTERS) for _ in range(CODE_LENGTH))
            if code not in self._all():
                return code

    def _path(self, code: str) -> Path:
        return self.folder / f"{code}.json"

    def _step(self, one: Class, step: int | None) -> int | None:
        count = len(get_lesson(one.lesson, self.home).steps)
        if step is not None and not 0 <= step < count:
            raise LessonError(f"The lesson has {count} steps; there is no step {step + 1}.")
        return step


def _forget(learner: Learner, since: float) -> None:
    learner.lessons = {name: attempt for name, attempt in learner.lessons.items() if attempt.started < since}
    for attempt in learner.lessons.values():
        kept = {name: [one for one in given if one.at < since] for name, given in attempt.answers.items()}
        attempt.answers = {name: given for name, given in kept.items() if given}


def _written(code: str) -> str:
    """A code as it is kept: people type small letters and spaces."""
    return "".join(code.split()).upper()


def _shortened(code: str) -> str:
    return repr(code[:20])
