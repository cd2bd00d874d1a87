"""A class as CSV, for a teacher's own analysis: one line for each answer and for each step seen, done or skipped."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

from lora_playground.classroom.classes import Class, Member
from lora_playground.lessons.progress import Attempt
from lora_playground.lessons.schema import Ask, Lesson

COLUMNS = ("person", "name", "lesson", "what", "step", "title", "question", "attempt", "answer", "time", "seconds")


def table(course: Class, lesson: Lesson, people: list[tuple[Member, Attempt | None]], names: bool = True) -> str:
    """The text of the CSV file. Its column `seconds` counts from when the member began the lesson; `time` is in UTC.

    Args:
        people: as `Overview.people` returns them. names: False leaves the column `name` empty.
    """
    out = io.StringIO()
    lines = csv.writer(out)
    lines.writerow(COLUMNS)
    for person, attempt in people:
        if attempt is None:
            continue
        who = [person.number, _safe(person.name) if names else "", course.lesson]
        for place, step in enumerate(lesson.steps):
            for what in ("seen", "done", "skipped"):
                if (at := getattr(attempt, what).get(place)) is not None:
                    lines.writerow([*who, what, place + 1, step.title, "", "", "", _utc(at), _since(attempt, at)])
            for number, given in enumerate(attempt.answers.get(step.name, []) if isinstance(step, Ask) else [], 1):
                value = _words(step, given.value) if isinstance(step, Ask) else ""
                when = [_utc(given.at), _since(attempt, given.at)]
                lines.writerow([*who, "answer", place + 1, step.title, getattr(step, "name", ""), number, value, *when])
    return out.getvalue()


def _words(step: Ask, value: object) -> str:
    if step.form == "choice":
        return step.choices[int(value)].text  # type: ignore[call-overload]
    return " ".join(f"{one:g}" for one in value) if isinstance(value, list) else f"{value:g}"


def _safe(text: str) -> str:
    """The text with a quote before a character that would make a spreadsheet read it as a formula."""
    return f"'{text}" if text[:1] in "=+-@\t" else text


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _since(attempt: Attempt, at: float) -> str:
    return f"{at - attempt.started:.1f}"
