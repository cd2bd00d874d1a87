"""A lesson as a sheet to print: its questions with room for answers or, for the teacher, with the results.

Text is Markdown. The results are the stored figures; nothing is trained.
"""

from __future__ import annotations

from lora_playground.lessons import judging
from lora_playground.lessons.figures import Figures, stored
from lora_playground.lessons.quantities import Quantity, written
from lora_playground.lessons.schema import Ask, Axis, Lesson

_LINE = "\\_" * 34


def sheet(lesson: Lesson, answers: bool = False) -> str:
    """The sheet of one lesson as Markdown.

    Args:
        answers: the teacher's copy, with the results measured on the embedded base.
    """
    figures = stored(lesson.name)
    parts = [
        f"# {lesson.title}",
        f"{lesson.minutes} minutes. Afterwards: {lesson.after}",
        "" if answers else "Name: " + _LINE,
    ]
    number = 0
    for step in lesson.steps:
        if isinstance(step, Ask):
            number += 1
            parts += [f"## {number}. {step.title}", figures.fill(step.text), *_room(step)]
            if answers:
                parts += _solution(lesson, step, figures)
        elif step.kind in ("run", "modify"):
            parts += [f"**{step.title}.** {figures.fill(step.text)}", *([] if answers else [f"What I saw: {_LINE}"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _room(ask: Ask) -> list[str]:
    """The lines or boxes for a handwritten answer."""
    if ask.form == "choice":
        return ["\n".join(f"- [ ] {choice.text}" for choice in ask.choices)]
    axis = ask.axis or Axis(label="")
    unit = axis.unit or axis.label
    if ask.form == "number":
        return [f"My prediction: {_LINE} {unit}"]
    head, rule = "| " + " | ".join(f"{x:g}" for x in ask.x) + " |", "|" + " --- |" * len(ask.x)
    return [f"{axis.label} for each {ask.x_label}:", f"{head}\n{rule}\n|" + "   |" * len(ask.x)]


def _solution(lesson: Lesson, ask: Ask, figures: Figures) -> list[str]:
    reveal = lesson.reveal_of(ask)
    if reveal is None:
        return []
    result = [] if len(reveal.asks) > 1 else reveal.result
    measured = figures.means(judging.needed(ask, result))
    if len(measured) < len(judging.needed(ask, result)):
        return ["*Came out: not measured yet.*"]
    came = ", ".join(f"{one.label} {written(measured[one], one.unit)}" for one in map(Quantity.parse, result))
    lines = [f"*Came out: {came}.*"] if came else []
    if ask.form == "choice":
        right = judging.solutions(ask.choices, measured)
        lines.append(
            "\n".join(
                f"- {'right' if place in right else 'wrong'}: {choice.text}. {figures.fill(choice.because)}"
                for place, choice in enumerate(ask.choices)
            )
        )
    else:
        lines.append(f"- near: {ask.near}\n- too low: {ask.low}\n- too high: {ask.high}")
    return lines
