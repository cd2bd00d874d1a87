"""Stores classes: code, teacher, members, and what the teacher has set. One JSON file for each class.

People are identified by their signed cookie. This module knows lessons only by name, and nothing of web pages.
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
"""Characters of a code, without those that look alike on a projector (I and 1, O and 0)."""
CODE_LENGTH = 6
MAX_MEMBERS = 200
MAX_OPEN_CLASSES = 20
"""Classes that one teacher may have open at a time."""
MAX_NAME_LENGTH = 40

T = TypeVar("T")


class Member(BaseModel):
    """One member of a class.

    Attributes:
        visitor: the identity in the signed cookie. name: chosen by themselves. number: from 1, in order of joining.
        joined: Unix seconds.
    """

    model_config = ConfigDict(extra="ignore")

    visitor: str
    name: str
    number: int
    joined: float


class Class(BaseModel):
    """A class as stored.

    Attributes:
        code: what people type to join. teacher: identity of the person who opened it.
        lesson: name of the current lesson. opened, ended: Unix seconds; `ended` is None while the class is open.
        held: the last step (from 0) that members may open; None for any.
        gathered: (number of times that the teacher has brought everyone to a step, the last such step), or None. Pages
            follow when the number changes.
        shown: (number of times that the teacher has shown a run, id of the run now shown), or None.
        again: {name of a question: Unix seconds at which it was asked again}.
        people: the members, in order of joining.
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
        """The member with this identity; None if they have not joined."""
        return next((one for one in self.people if one.visitor == visitor), None)


class Classes:
    """All classes. Thread-safe. Every method that returns a class returns a copy.

    Args:
        learners: stores the members' progress. clock: returns Unix seconds.
    """

    def __init__(self, home: Path, learners: Learners, clock: Callable[[], float] = time.time) -> None:
        self.home, self.folder, self.learners, self._clock = home, home / FOLDER, learners, clock
        self._lock = threading.RLock()
        self._kept: dict[str, Class] | None = None

    # --- for teachers -----------------------------------------------------------------------------------------------

    def open(self, teacher: str, lesson: str) -> Class:
        """Opens a class on a lesson. Raises LessonError if there is no such lesson, or too many classes are open."""
        get_lesson(lesson, self.home)
        with self._lock:
            if sum(one.teacher == teacher and one.ended is None for one in self._all().values()) >= MAX_OPEN_CLASSES:
                raise LessonError(f"You have {MAX_OPEN_CLASSES} open classes; end one first.")
            made = Class(code=self._code(), teacher=teacher, lesson=lesson, opened=self._clock())
            self._keep(made)
            return made.model_copy(deep=True)

    def taught(self, teacher: str, code: str) -> Class:
        """The class with this code, for its teacher. Raises the same LessonError for an unknown code and for anybody
        else, so that codes cannot be guessed."""
        found = self._all().get(_written(code))
        if found is None or found.teacher != teacher or not teacher:
            raise LessonError(f"You teach no class with the code {_shortened(code)}.")
        return found.model_copy(deep=True)

    def of_teacher(self, teacher: str) -> list[Class]:
        """The classes that a teacher has opened, newest first."""
        mine = [one for one in self._all().values() if one.teacher == teacher and teacher]
        return sorted((one.model_copy(deep=True) for one in mine), key=lambda one: -one.opened)

    def take(self, teacher: str, code: str, lesson: str) -> Class:
        """Changes to another lesson, in which nothing is held, shown or asked again yet."""
        get_lesson(lesson, self.home)

        def change(one: Class) -> None:
            one.lesson, one.held, one.gathered, one.shown, one.again = lesson, None, None, None, {}

        return self._teach(teacher, code, change)

    def hold(self, teacher: str, code: str, step: int | None) -> Class:
        """Sets the last step (from 0) that members may open; None lets them open any."""
        return self._teach(teacher, code, lambda one: setattr(one, "held", self._step(one, step)))

    def gather(self, teacher: str, code: str, step: int) -> Class:
        """Moves all members to `step` (from 0) and holds the class there."""

        def change(one: Class) -> None:
            place = self._step(one, step)
            assert place is not None
            one.held, one.gathered = place, ((one.gathered or (0, 0))[0] + 1, place)

        return self._teach(teacher, code, change)

    def show(self, teacher: str, code: str, run: str | None) -> Class:
        """Shows a run to all members; None ends that. The caller checks that the teacher may see the run."""
        return self._teach(
            teacher, code, lambda one: setattr(one, "shown", ((one.shown or (0, ""))[0] + 1, run) if run else None)
        )

    def ask_again(self, teacher: str, code: str, question: str) -> Class:
        """Asks a question a second time, such as after a discussion; first answers are kept. Raises LessonError if the
        lesson has no such question."""

        def change(one: Class) -> None:
            lesson = get_lesson(one.lesson, self.home)
            if question not in {step.name for step in lesson.steps if step.kind == "ask"}:
                raise LessonError(f"{lesson.title} asks no question {question!r}.")
            one.again[question] = self._clock()

        return self._teach(teacher, code, change)

    def end(self, teacher: str, code: str) -> Class:
        """Ends the class: its members continue on their own. Its data stays until it is deleted."""

        def change(one: Class) -> None:
            one.ended, one.held = self._clock(), None

        return self._teach(teacher, code, change)

    def delete(self, teacher: str, code: str) -> None:
        """Deletes the class, with all lessons that its members began and all answers that they gave since they joined.
        Their runs stay."""
        one = self.taught(teacher, code)
        for person in one.people:
            self.learners.change(person.visitor, lambda learner, since=person.joined: _forget(learner, since))
        with self._lock:
            self._all().pop(one.code, None)
            self._path(one.code).unlink(missing_ok=True)

    # --- for members ------------------------------------------------------------------------------------------------

    def join(self, visitor: str, code: str, name: str) -> Class:
        """Joins a class; a member who joins again changes their name. Raises LessonError if there is no such class, it
        has ended or is full, or the name is empty or taken."""
        called = " ".join(name.split())[:MAX_NAME_LENGTH]
        if not called:
            raise LessonError("Give a name that the teacher will know you by; any name will do.")

        def change(one: Class) -> None:
            found = one.member(visitor)
            if any(other.name.casefold() == called.casefold() and other is not found for other in one.people):
                raise LessonError(f"Somebody in this class is called {called} already; add a letter or a number.")
            if found is not None:
                found.name = called
            elif len(one.people) >= MAX_MEMBERS:
                raise LessonError(f"This class has {MAX_MEMBERS} people; no more can join.")
            else:
                number = max((other.number for other in one.people), default=0) + 1
                one.people.append(Member(visitor=visitor, name=called, number=number, joined=self._clock()))

        return self._change(self._open(code), change)

    def leave(self, visitor: str, code: str) -> None:
        """Leaves a class, whose counts then leave out this person's answers."""
        self._change(
            self._open(code), lambda one: setattr(one, "people", [p for p in one.people if p.visitor != visitor])
        )

    def attended(self, visitor: str, code: str) -> Class:
        """The class with this code, for one of its members. Raises the same LessonError for an unknown code and for
        anybody else."""
        found = self._all().get(_written(code))
        if found is None or found.member(visitor) is None:
            raise LessonError(f"You are in no class with the code {_shortened(code)}.")
        return found.model_copy(deep=True)

    def limit(self, visitor: str, lesson: str) -> int | None:
        """The last step (from 0) that this person may open in a lesson: the lowest that one of their classes has set;
        None for any."""
        held = [
            one.held
            for one in self._all().values()
            if one.ended is None and one.lesson == lesson and one.held is not None and one.member(visitor) is not None
        ]
        return min(held, default=None)

    # --- storage ----------------------------------------------------------------------------------------------------

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
                        continue  # damaged, or written by another version of this app
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
    """A code in its stored form: capital letters without spaces, however it was typed."""
    return "".join(code.split()).upper()


def _shortened(code: str) -> str:
    return repr(code[:20])
