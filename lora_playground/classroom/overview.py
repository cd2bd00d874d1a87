"""Counts what the members of a class did in its lesson: where each is, what they predicted, what the results are.

Returns plain data for JSON. It reads progress and finished runs, and changes nothing.
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
    """Counts what the members of classes did. Thread-safe.

    Args:
        home: for lessons under HOME/lessons. learners: stores progress. measuring: takes numbers from runs.
    """

    def __init__(self, home: Path, learners: Learners, measuring: Measuring) -> None:
        self._home, self._learners, self._measuring = home, learners, measuring

    def people(self, course: Class) -> list[tuple[Member, Attempt | None]]:
        """(member, their progress in the class's lesson or None if they have not begun), in order of joining."""
        return [(person, self._learners.get(person.visitor).lessons.get(course.lesson)) for person in course.people]

    def grid(self, course: Class) -> View:
        """The progress of all members.

        Returns:
            `title` of the lesson; `steps`: [{kind, title, done: number of members who completed it}]; `people`:
            [{number, name, at: their step from 0 or None, steps: 'done', 'skipped', 'seen' or '' for each, runs: {key:
            run id}}].
        """
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
        """Every question of the lesson with its answers: `first` (the predictions) and `later` (answers to a question
        that was asked again), each [{number of the member, value}], and `came`, see `came_out`."""
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
        """The result that a prediction is compared with: measured on the runs of the first member who has all of them,
        else the stored figures of the lesson.

        Args:
            runs: for each member {key of the lesson's run: run id}.

        Returns:
            `values`: numbers, with `texts` that name them; `solutions`: for a choice the indices of the right ones;
            `own`: whether it was measured on members' runs. None if there is no result, or no step reveals it.
        """
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
    """What the page of one member shows: what the teacher has set, and everybody's answers, without names, to the
    questions that this member has answered.

    Args:
        questions: as `Overview.questions` returns them. attempt: the member's progress.
    """
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
