"""Compares what a person predicted or did with what was measured. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import LessonError
from lora_playground.lessons.quantities import Quantity, holds, quantities_in
from lora_playground.lessons.schema import Ask, Axis, Check, Choice

Answer = int | float | list[float]
"""The index of a choice (from 0), a number, or the heights of a sketch in the order of its x."""


@dataclass(frozen=True)
class Verdict:
    """How a prediction compares with the result.

    Attributes:
        right: whether the choice was right, or the number or sketch was near the result.
        because: the lesson's sentence for this case.
        off: absolute error of a number, mean absolute error of a sketch's heights; None for a choice.
        solutions: for a choice the indices of the right answers.
    """

    right: bool
    because: str
    off: float | None = None
    solutions: tuple[int, ...] = ()


def checked_answer(ask: Ask, value: Any) -> Answer:
    """Checks an answer to a question. Raises LessonError, which says what was given and what is allowed."""
    if ask.form == "choice":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(ask.choices):
            raise LessonError(f"{value!r} is no choice here; give 0 to {len(ask.choices) - 1}.")
        return value
    if ask.form == "number":
        return _number(ask.axis, value)
    if not isinstance(value, list) or len(value) != len(ask.x):
        raise LessonError(f"A sketch here has {len(ask.x)} heights, one over each point of its axis.")
    return [_number(ask.axis, one) for one in value]


def _number(axis: Axis | None, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LessonError(f"{value!r} is no number.")
    if axis is not None and not axis.low <= value <= axis.high:
        raise LessonError(f"{value:g} is outside the axis; give {axis.low:g} to {axis.high:g}.")
    return float(value)


def needed(ask: Ask, result: Sequence[str]) -> list[Quantity]:
    """The quantities that must be measured to judge a prediction.

    Args:
        result: the quantities of the step that reveals it, as text.
    """
    found = [Quantity.parse(text) for text in result]
    for choice in ask.choices:
        found += quantities_in(choice.when or "")
    return list(dict.fromkeys(found))


def judge(ask: Ask, answer: Answer, result: Sequence[str], measured: Mapping[Quantity, float]) -> Verdict:
    """The verdict on a prediction.

    Args:
        result: the quantities of the step that reveals it, as text.
        measured: the values of `needed(ask, result)`.

    Raises:
        KeyError: a value is missing.
    """
    if ask.form == "choice":
        right = solutions(ask.choices, measured)
        return Verdict(answer in right, ask.choices[int(answer)].because, None, right)  # type: ignore[arg-type]
    came = [measured[Quantity.parse(text)] for text in result]
    given = answer if isinstance(answer, list) else [float(answer)]
    off = sum(abs(a - b) for a, b in zip(given, came)) / len(came)
    if off <= (ask.within or 0.0):
        return Verdict(True, ask.near, off)
    return Verdict(False, ask.low if sum(given) < sum(came) else ask.high, off)


def solutions(choices: Sequence[Choice], measured: Mapping[Quantity, float]) -> tuple[int, ...]:
    """The indices of the right choices. A choice with a condition `when` is right if that holds for `measured`."""
    return tuple(
        place
        for place, choice in enumerate(choices)
        if (holds(choice.when, measured) if choice.when is not None else choice.right)
    )


def fits(check: Check, config: RunConfig) -> bool:
    """Whether a run's config meets all conditions of a check."""
    plain = config.model_dump(mode="json")
    return all(_meets(_at(plain, path), wanted) for path, wanted in check.where.items())


def _at(plain: Any, path: str) -> Any:
    for name in path.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain


def _meets(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return value == wanted
    if "not" in wanted and value == wanted["not"]:
        return False
    if value is None:
        return not {"at_least", "at_most"} & set(wanted)
    return value >= wanted.get("at_least", value) and value <= wanted.get("at_most", value)
