"""Finds the rows of a JSON document in any of the usual shapes: a list, columns, a table with an index, one chat.

It does not know what the fields mean, except for the names that distinguish a chat's turns from rows.
"""

from __future__ import annotations

from typing import Any

from lora_playground.data.values import RowError
from lora_playground.errors import DataError

TURNS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns", "contents")
"""Names of a field that holds the turns of one chat."""
_LISTS = ("data", "rows", "examples", "train", "items", "records", "instances", "samples", *TURNS)
"""Names of a field that holds all rows."""
SPEAKER, SAID = ("role", "from", "speaker"), ("content", "value", "text", "parts")
"""Names of a turn's fields: the speaker, and the text."""
_CLASSES = ("label_names", "class_names", "classes", "id2label")
"""Names of a document's field that lists the labels' names."""


def is_turn(value: Any) -> bool:
    """Whether a JSON value is one turn of a chat: an object with a speaker and a text."""
    if not isinstance(value, dict):
        return False
    return any(key in value for key in SPEAKER) and any(key in value for key in (*SAID, "tool_calls"))


def is_chat(value: Any) -> bool:
    """Whether a JSON value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def rows_of(value: Any, name: str) -> tuple[list[Any], list[str]]:
    """(rows, keys beside them that are not used) of a whole document.

    Args:
        value: parsed JSON. name: the file's, for the error.

    Raises:
        DataError: it has none of the shapes that are known.
    """
    unused: list[str] = []
    if isinstance(value, dict):
        value, unused = _rows_of_object(value)
    if not isinstance(value, list):
        raise DataError(f"{name}, row 1: there is {kind_of(value)} where a list is needed. Write [{{...}}, {{...}}].")
    if not value:
        raise DataError(f"{name} holds an empty list: there is no row 1. Give at least one example.")
    header = value[0]
    named = isinstance(header, list) and all(isinstance(cell, str) for cell in header)
    if len(value) > 1 and named and _lists_of(value, len(header)) and len(set(header)) == len(header) > 1:
        value = [dict(zip(header, row)) for row in value[1:]]  # rows as lists below their names
    return value, unused


def _rows_of_object(value: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """(rows, keys that were not used) of a document that is one object."""
    if any(is_chat(value.get(key)) for key in TURNS):
        return [value], []
    columns, cells = value.get("columns"), value.get("data")
    if isinstance(columns, list) and _lists_of(cells, len(columns)) and all(isinstance(name, str) for name in columns):
        rows = [dict(zip(columns, row)) for row in cells or []]  # pandas' orient="split"
        return rows, [key for key in value if key not in ("columns", "data", "index")]
    key = next((key for key in _LISTS if isinstance(value.get(key), list)), None)
    if key is not None and value[key] and isinstance(value[key][0], dict | list):
        return list(value[key]), [other for other in value if other not in (key, "features", "schema", *_CLASSES)]
    inner = list(value.values())
    if inner and all(isinstance(item, list) for item in inner) and len({len(item) for item in inner}) == 1:
        return [dict(zip(value, row)) for row in zip(*inner)], []  # columns
    if len(inner) > 1 and all(isinstance(item, dict) for item in inner) and len({tuple(item) for item in inner}) == 1:
        return _indexed(value), []
    return [value], []


def _indexed(value: dict[str, dict[str, Any]]) -> list[Any]:
    """Objects with the same keys: pandas' columns of indexed cells, or its indexed rows."""
    if all(key.lstrip("-").isdigit() for key in value):
        return list(value.values())
    return [dict(zip(value, row)) for row in zip(*(column.values() for column in value.values()))]


def _lists_of(value: Any, length: int) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and len(row) == length for row in value)


def record_of(item: Any) -> Any:
    """One row as an object: a list of turns is a chat, and a row of a dataset viewer stands inside `row`. If the viewer
    has cut its cells, a RowError is returned, not raised. Other values are returned unchanged."""
    if is_chat(item):
        return {"messages": item}
    if isinstance(item, dict) and isinstance(item.get("row"), dict) and "row_idx" in item:
        cut = item.get("truncated_cells")
        if cut:
            return RowError(f"the cells {', '.join(map(str, cut))[:80]} were cut by the viewer. Get the file itself.")
        return item["row"]
    return item


def label_names(value: Any) -> dict[str, list[str]]:
    """Column → names of its classes, from a document's list of features in the format of the hub's dataset viewer. If
    the document only lists names, the key is '' and they hold for any column."""
    features = value.get("features") if isinstance(value, dict) else None
    found: dict[str, list[str]] = {}
    for feature in features if isinstance(features, list) else []:
        kind = feature.get("type") if isinstance(feature, dict) else None
        names = kind.get("names") if isinstance(kind, dict) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[str(feature.get("name"))] = names
    for names in (value.get(key) for key in _CLASSES) if isinstance(value, dict) else ():
        if isinstance(names, dict) and sorted(names) == sorted(map(str, range(len(names)))):
            names = [names[str(number)] for number in range(len(names))]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            found[""] = names
    return found


def kind_of(value: Any) -> str:
    """The type of a JSON value in words."""
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
