"""Multiple choice: the choices are listed below the question, and the answer is one of their labels.

It knows records and the roles of their columns; no file formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from lora_playground.data.values import RowError, text_of, unpacked

OPTIONS = ("choices", "options", "alternatives", "answer_choices", "answer_options", "endings")
"""Names of a column that lists the choices."""
_LETTERS, _DIGITS = "abcdefgh", "12345678"
_PREFIXES = ("option_", "choice_", "answer_", "option", "choice", "answer")
_EACH = ("a", "opa", *(prefix + sign for prefix in _PREFIXES for sign in "a01"))
"""Names of the first column where each column holds one choice."""
_MARKED = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(.+)", re.DOTALL)


def option_roles(lower: Mapping[str, str]) -> dict[str, str]:
    """'options' for a column that lists the choices, or 'option 1', 'option 2', ... for columns that hold one each.

    Args:
        lower: the column's name in lower case, with underscores for spaces → column.
    """
    listed = next((lower[name] for name in OPTIONS if name in lower), "")
    if listed:
        return {"options": listed}
    for first in _EACH:
        signs = _LETTERS if first[-1] == "a" else "01234567" if first[-1] == "0" else _DIGITS
        found = [lower[first[:-1] + sign] for sign in signs if first[:-1] + sign in lower]
        if first in lower and len(found) > 1:
            return {f"option {number}": column for number, column in enumerate(found, 1)}
    return {}


class Choices:
    """Lists choices and finds the right one.

    Args:
        roles: role → column. records: all of the file's, to decide whether answers count from 0 or from 1.
    """

    def __init__(self, roles: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> None:
        self.listed = roles.get("options", "")
        self.each = [column for role, column in roles.items() if role.startswith("option ")]
        self.answer = roles.get("completion", "")
        numbers: list[tuple[int, int]] = []
        for record in records if self else ():
            value, choices = str(record.get(self.answer, "")).strip(), [str(one) for _, one in self._options(record)]
            if value.isdigit() and len(value) < 3 and len(choices) > 1 and value not in choices:
                numbers.append((int(value), len(choices)))
        ends = any(number == count for number, count in numbers) and min(numbers)[0] > 0
        self.numbered, self.first = bool(numbers), 1 if ends else 0
        self.unfit = ""
        given = [record for record in records if self._options(record)] if self else []
        if 2 * sum(self._fits(record) for record in given) < len(given):  # such as options of a product
            self.unfit, self.listed, self.each = self.listed or ", ".join(self.each), "", []

    def _fits(self, record: Mapping[str, Any]) -> bool:
        try:
            self.right(record, record.get(self.answer))
        except RowError:
            return False
        return True

    def __bool__(self) -> bool:
        return bool(self.listed or self.each)

    def _options(self, record: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """(label, choice) of each; empty if the row has no choices."""
        if self.each:
            values = [record.get(column) for column in self.each]
            return [(label, value) for label, value in zip(ascii_uppercase, values) if value not in (None, "")]
        found = unpacked(record.get(self.listed)) if self.listed else None
        if isinstance(found, dict) and isinstance(found.get("text"), list):
            labels, texts = found.get("label"), found["text"]
            return list(zip(labels if isinstance(labels, list) else ascii_uppercase, texts))
        if isinstance(found, dict):
            return list(found.items())
        if not isinstance(found, list) or len(found) > len(ascii_uppercase):
            return []
        if all(isinstance(one, dict) and "text" in one for one in found):  # [{"label": "A", "text": ...}]
            return [(str(one.get("label", sign)), one["text"]) for one, sign in zip(found, ascii_uppercase)]
        marked = [_MARKED.fullmatch(one) if isinstance(one, str) else None for one in found]
        if all(marked) and [one[1].upper() for one in marked if one] == list(ascii_uppercase[: len(marked)]):
            return [(one[1].upper(), one[2]) for one in marked if one]
        return list(zip(ascii_uppercase, found))

    def below(self, record: Mapping[str, Any]) -> str:
        """The choices as lines 'A. ...'; '' if the row has none."""
        where = self.listed or "a choice"
        return "\n".join(f"{label}. {text_of(choice, where)}" for label, choice in self._options(record))

    def right(self, record: Mapping[str, Any], value: Any) -> Any:
        """The label of the right choice if `value` is a label or a number, else `value` unchanged.

        Raises:
            RowError: it is none of the choices.
        """
        options = self._options(record)
        if not options or isinstance(value, dict | list):
            return value
        said, labels = str(value).strip(), [str(label) for label, _ in options]
        if any(said == str(choice).strip() for _, choice in options):
            return value
        same = next((label for label in labels if label.casefold() == said.strip("().").casefold()), None)
        if same is not None:
            return same
        if said.isdigit() and 0 <= int(said) - self.first < len(labels):
            return labels[int(said) - self.first]
        raise RowError(f"the answer {said[:40]!r} is none of the choices {', '.join(labels)}.")

    def notes(self) -> list[str]:
        """Changes to the rows that the user may not expect."""
        if self.unfit:
            return [f"not used: {self.unfit}, of which most answers are none"]
        if not self:
            return []
        said = "The choices are listed below each question."
        return [f"{said} Answers that are numbers count them from {self.first}." if self.numbered else said]
