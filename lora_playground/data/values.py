"""Converts single values of uploaded files: to text that can be learned, and from lists written as text in a cell.

It knows neither columns nor formats.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from typing import Any

MAX_NESTED = 2_000_000
"""The most characters of a cell that is parsed as a list."""
MISSING = ("NaN", "nan", "<NA>")
"""How pandas writes a missing value into a table."""


class RowError(Exception):
    """Why a row cannot be used and what to do about it; the message does not name the row."""


def text_of(value: Any, column: str, blank: bool = False) -> str:
    """A value as text; numbers are written out.

    Args:
        column: for the error.
        blank: whether the text may be empty.

    Raises:
        RowError: it is neither text nor a number, or it is empty.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
        kind = kinds.get(type(value), f"a {type(value).__name__}")  # Parquet has dates, bytes and decimals
        raise RowError(f"{column[:40]!r} holds {kind} where text is needed. Write it as text in quotes.")
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:
        raise RowError(f"{column[:40]!r} holds a number of thousands of digits. Write it as text in quotes.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(f"{column[:40]!r} holds a number that is not finite. Write what is meant as text in quotes.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{column[:40]!r} holds half a character ({text[error.start]!a} at position {error.start}). "
            "Replace it by the whole character, or delete it."
        ) from None
    if "\0" in text:
        raise RowError(f"{column[:40]!r} holds a NUL character at position {text.index(chr(0))}. Delete it.")
    if not blank and not text.strip():
        raise RowError(f"{column[:40]!r} is empty. Fill it in, or leave the row out.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """Strict JSON: no NaN, no repeated keys, no endless nesting or numbers. Raises RowError.

    Numbers with a point stay the text that was written, so that 1.10 does not become 1.1.
    """
    try:
        return json.loads(
            text, parse_constant=_no_constant, parse_float=_as_written, object_pairs_hook=_unique, strict=False
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise RowError(
            f"this is no valid JSON ({error.msg} at {place}column {error.colno}). "
            "Check quotes, commas and brackets there."
        ) from None
    except RecursionError:
        raise RowError("it is nested too deeply. Give flat fields with text.") from None
    except ValueError:
        raise RowError("a number in it has thousands of digits. Write it as text in quotes.") from None


def _as_written(number: str) -> Any:
    return number if math.isfinite(float(number)) else float(number)


def _no_constant(constant: str) -> None:
    raise RowError(f"{constant} is no JSON value. Leave the row out, or write the text that is meant in quotes.")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RowError(f"the field {key[:40]!r} stands in it twice. Keep one.")
        found[key] = value
    return found


def unpacked(value: Any) -> Any:
    """The list or object that a table's cell holds as text, in JSON or as Python prints it; other values unchanged."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{") or len(value) > MAX_NESTED:
        return value
    try:
        found = parse_json(value)
    except RowError:
        try:
            found = ast.literal_eval(_without_arrays(value.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return found if isinstance(found, list | dict) else value


_ARRAY = re.compile(r"\barray\((\[[^\[\]]*\])(?:,\s*dtype=[\w.'<>|]+)?\)")


def _without_arrays(text: str) -> str:
    """A printed value with NumPy's arrays, which pandas writes for nested columns, replaced by plain lists."""
    return _ARRAY.sub(r"\1", text) if "array(" in text else text


def is_list_of_texts(text: str) -> bool:
    """Whether a text is a list of texts as Python prints it, which is not JSON."""
    found = unpacked(text) if text.lstrip().startswith(("['", "array(")) else None
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def answer_in(value: Any, column: str) -> tuple[Any, bool, list[str]]:
    """Takes the answer from a value that may be a list of answers, or an object with an answer and its position.

    A cell's text is parsed as such an object if it has its keys, and as a list if the column is called 'answers'.

    Returns:
        (the answer, whether it is the first of several, the object's other keys).

    Raises:
        RowError: the list is empty.
    """
    inside = unpacked(value)
    if isinstance(value, str) and isinstance(inside, dict) and not {"text", "answer_start"} <= set(inside):
        inside = value
    if isinstance(value, str) and isinstance(inside, list) and column.strip().lower() != "answers":
        inside = value
    unused: list[str] = []
    if isinstance(inside, dict):
        key = next((key for key in ("text", "value") if key in inside), "")
        unused = [other for other in inside if key and other != key]
        inside = inside[key] if key else inside
    if inside == []:
        raise RowError(f"{column[:40]!r} is an empty list: the row has no answer. Leave it out.")
    if isinstance(inside, list) and all(isinstance(one, dict) and "text" in one for one in inside):
        unused = [*dict.fromkeys(key for one in inside for key in one if key != "text")]
        inside = [one["text"] for one in inside]
    if isinstance(inside, list) and all(isinstance(one, str) for one in inside):
        return inside[0], len(inside) > 1, unused
    return inside, False, unused
