"""What the people of a class did in its lesson, counted: who is where, what was predicted, what came out.

Plain data for JSON. It reads people's progress and finished runs, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_playground.classroom.classes import Class, Member
from lora_playground.lessons import judging
from lora_playground.lessons.catalogue import get_lesson
from lora_playground.lessons.figures import stored
from lora_playground.lessons.measuring import Measuring
from lora_playground.lessons.progress import Attempt, Learners
from lora_playground.lessons.quantities import Quantity, written
from lora_playground.lessons.schema import Ask, Lesson

View = dict[str, Any]


class Overview:
    """Counts for the classes of one home; safe to call from many threads.

    Args:
        home: where lessons of one's own are. learners: where progress is kept. measuring: takes numbers from runs.
    """

    def __init__(self, home: Path, learners: Learners, measuring: Measuring) -> None:
        self._home, self._learners, self._measuring = home, learners, measuring

    def people(self, course: Class) -> list[tuple[Member, Attempt | None]]:
        """Everybody and their way through the lesson, in order of joining; None where they have not begun."""
        return [(person, self._learners.get(person.visitor).lessons.get(course.lesson)) for person in course.people]

    def grid(self, course: Class) -> View:
        """The lesson's steps, and for each person what became of each: done, skipped, seen or not yet."""
        lesson = get_lesson(course.lesson, self._home)
        people = self.people(course)
        rows: list[View] = [
            {
                "number": person.number, "name": person.name, "at": attempt.step if attempt else None,
                "steps": [_state(attempt, place) for place in range(len(lesson.steps))],
                "runs": attempt.runs if attempt else {},
            }
            for person, attempt in people
        ]  # fmt: skip
        steps = [
            {"kind": step.kind, "title": step.title, "done": sum(row["steps"][place] == "done" for row in rows)}
            for place, step in enumerate(lesson.steps)
        ]
        return {"title": lesson.title, "steps": steps, "people": rows}

    def questions(self, course: Class) -> list[View]:
        """Every prediction of the lesson: how it was answered, and what came out where runs or stored figures tell."""
        lesson = get_lesson(course.lesson, self._home)
        attempts = [(person, attempt) for person, attempt in self.people(course) if attempt is not None]
        return [
            self._question(lesson, ask, attempts) | {"step": place, "asked_again": ask.name in course.again}
            for place, ask in enumerate(lesson.steps)
            if isinstance(ask, Ask)
        ]

    def _question(self, lesson: Lesson, ask: Ask, attempts: list[tuple[Member, Attempt]]) -> View:
        first = [
            (one.number, attempt.answers[ask.name][0].value)
            for one, attempt in attempts
            if attempt.answers.get(ask.name)
        ]
        later = [
            (one.number, attempt.answers[ask.name][-1].value)
            for one, attempt in attempts
            if len(attempt.answers.get(ask.name, [])) > 1
        ]
        shown: View = {
            "name": ask.name, "title": ask.title, "form": ask.form, "x": ask.x, "x_label": ask.x_label,
            "choices": [choice.text for choice in ask.choices], "axis": ask.axis.model_dump() if ask.axis else None,
            "first": [{"number": number, "value": value} for number, value in first],
            "later": [{"number": number, "value": value} for number, value in later],
        }  # fmt: skip
        return shown | {"came": self.came_out(lesson, ask, [attempt.runs for _, attempt in attempts])}

    def came_out(self, lesson: Lesson, ask: Ask, runs: Iterable[dict[str, str]]) -> View | None:
        """What a prediction is held against: measured on the first person's runs that have all of it, else the stored
        figures. {values, texts, solutions (of a choice), own}; None where neither tells, or nothing reveals it."""
        reveal = lesson.reveal_of(ask)
        if reveal is None:
            return None
        result = [] if len(reveal.asks) > 1 else reveal.result
        wanted = judging.needed(ask, result)
        figures, measured, own = stored(lesson.name), {}, True
        for ids in runs:
            measured = self._measuring.all(wanted, ids) if ids else {}
            if len(measured) == len(set(wanted)):
                break
        else:
            own = False
            measured = figures.means(wanted)
        if len(measured) < len(set(wanted)):
            return None
        values = [(one, measured[one]) for one in map(Quantity.parse, result)]
        return {
            "own": own,
            "values": [value for _, value in values],
            "texts": [f"{one.label} {written(value, one.unit)}" for one, value in values],
            "solutions": list(judging.solutions(ask.choices, measured)) if ask.form == "choice" else [],
        }


def for_a_person(course: Class, visitor: str, questions: list[View], attempt: Attempt | None) -> View:
    """What one of its people is told: what the teacher has set, and all answers, without names, to the questions that
    they have answered. Args: questions: of `Overview.questions`; attempt: the person's own."""
    answers = attempt.answers if attempt else {}
    pending = [name for name, at in course.again.items() if answers.get(name) and answers[name][-1].at < at]
    told = []
    for question in questions:
        if answers.get(question["name"]):
            values = {when: sorted((one["value"] for one in question[when]), key=str) for when in ("first", "later")}
            told.append(
                {key: question[key] for key in ("name", "title", "step", "form", "choices", "axis", "x", "x_label")}
                | values
            )
    person = course.member(visitor)
    return {
        "code": course.code, "lesson": course.lesson, "ended": course.ended is not None, "held": course.held,
        "gathered": course.gathered, "shown": course.shown, "again": pending, "answers": told,
        "people": len(course.people), "name": person.name if person else "",
    }  # fmt: skip


def _state(attempt: Attempt | None, place: int) -> str:
    if attempt is None:
        return ""
    for state in ("done", "skipped", "seen"):
        if place in getattr(attempt, state):
            return state
    return ""
