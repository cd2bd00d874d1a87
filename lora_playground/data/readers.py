"""Turns an uploaded file into rows: finds its encoding and format, and lists the lines that cannot be used and why.

It knows no torch, no tokenizer and no model; `data.columns` finds what the columns mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_playground.data.catalogue import Row
from lora_playground.data.chats import Chats, understood
from lora_playground.data.classification import classify
from lora_playground.data.columns import Layout, find_layout
from lora_playground.data.records import Contents, read_records
from lora_playground.data.threads import joined_turns
from lora_playground.data.transcripts import read_chats
from lora_playground.data.values import RowError
from lora_playground.errors import DataError

MAX_BYTES = 100 * 2**20
LISTED = 200
"""The most unusable or repeated rows that are listed one by one."""


@dataclass(frozen=True)
class Problem:
    """One row that cannot be used.

    Attributes:
        line: line of the file where the row begins, from 1 (for a JSON array: the number of the row).
        text: what is wrong and what to do.
    """

    line: int
    text: str


@dataclass
class Reading:
    """The result of reading a file.

    Attributes:
        rows: usable rows in the file's order; lines: the line on which each begins, from 1.
        problems: the first LISTED rows that cannot be used; bad: how many there are in all.
        format, encoding: as detected; unit: what `lines` count, 'line' or 'row'.
        layout: which column plays which role.
        columns: names of all columns.
        duplicates: number of usable rows that repeat an earlier one; repeats: lines of the first LISTED of them.
        notes: other remarks for the user.
    """

    format: str
    encoding: str
    unit: str
    layout: Layout
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    duplicates: int = 0
    repeats: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_file(path: Path, name: str | None = None, mapping: Mapping[str, str] | None = None) -> Reading:
    """Reads an uploaded file.

    Args:
        path: the file.
        name: the name under which it was uploaded, whose ending gives the format; None takes the path's.
        mapping: role → column name, overrules detection, such as {'prompt': 'Frage', 'completion': 'Antwort'};
            the roles are `columns.ROLES`.

    Raises:
        DataError: the file as a whole cannot be used, or no row of it can.
    """
    shown = _shown(name or path.name)
    return read_bytes(_bytes(path, shown), shown, mapping)


def read_bytes(data: bytes, name: str, mapping: Mapping[str, str] | None = None) -> Reading:
    """As `read_file`, from bytes."""
    name = _shown(name)
    contents = read_records(data, name)
    # If every row is broken, the error of the first one is raised, and the layout does not matter.
    columns = contents.columns or ["text"]
    fields = [record for _, record in contents.records if isinstance(record, dict)]
    layout, notes = understood(find_layout(columns, mapping, name), fields)
    _refuse_empty(mapping or {}, fields, name)
    reading = Reading(contents.format, contents.encoding, contents.unit, layout, columns, notes=contents.notes + notes)
    records, named = contents.records, columns
    if layout.kind == "turns":
        records, told = joined_turns(records, layout)
        named = []  # the columns have become keys of turns, and `chats` notes the unused ones
        many = "one chat" if len(records) == 1 else f"{len(records)} chats"
        reading.notes += [f"Each {contents.unit} is one turn; they were read as {many}.", *told]
        layout = reading.layout = Layout("messages", {"messages": "messages"})
    chats = Chats(layout, fields)
    for line, record in records:
        try:
            if isinstance(record, RowError):
                raise record
            row = chats.build(record)
        except RowError as error:
            reading.bad += 1
            if len(reading.problems) < LISTED:
                reading.problems.append(Problem(line, f"{name}, {contents.unit} {line}: {error}"))
            continue
        if row is not None:
            reading.rows.append({**row, "meta": {"line": line}})
            reading.lines.append(line)
    if layout.kind == "text":
        reading.notes += read_chats(reading.rows)
    if layout.classifies and reading.rows:
        column = layout.roles["label"]
        names = contents.label_names.get(column) or contents.label_names.get("") or []
        reading.notes += classify(reading.rows, column, names)
    return _finished(reading, chats, contents, named)


def _finished(reading: Reading, chats: Chats, contents: Contents, columns: Sequence[str]) -> Reading:
    """Counts the repeats and adds the notes; raises DataError if no row is usable.

    Args:
        columns: candidates for the note on unused columns.
    """
    reading.notes += chats.notes()
    if not reading.rows:
        if not reading.problems:
            raise DataError(f"There is no row to learn from. {' '.join(chats.notes())}")
        first = reading.problems[0].text
        raise DataError(first if reading.bad <= 1 else f"{first} No row of the {reading.bad} in the file can be used.")
    seen: set[str] = set()
    for line, row in zip(reading.lines, reading.rows):
        key = json.dumps({name: value for name, value in row.items() if name != "meta"}, sort_keys=True)
        if key in seen:
            reading.duplicates += 1
            if len(reading.repeats) < LISTED:
                reading.repeats.append(line)
        seen.add(key)
    left = [*contents.unused, *chats.not_used(columns)]
    if left:
        reading.notes.append("not used: " + ", ".join(name[:40] for name in left[:40]))
    if len(reading.rows) == 1:
        reading.notes.append("There is only one usable row: it is trained on, and nothing is left to test with.")
    return reading


def _refuse_empty(mapping: Mapping[str, str], fields: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raises DataError if a column of the user's mapping is empty in every row."""
    for role, column in mapping.items():
        if fields and all(record.get(column) in (None, "", []) for record in fields):
            raise DataError(
                f"{name}: the column {column[:40]!r}, given for {role}, is empty in every row. Leave it out."
            )


def columns_of(path: Path, name: str | None = None) -> list[str]:
    """Names of a file's columns, even if no layout fits them, so that the user can map them.

    Raises:
        DataError: the file cannot be read at all.
    """
    shown = _shown(name or path.name)
    return read_records(_bytes(path, shown), shown).columns


def _bytes(path: Path, shown: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{shown} is {size / 2**20:.0f} MB; at most {MAX_BYTES >> 20} MB can be read. Split it.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); choose another file.") from error


def _shown(name: str) -> str:
    """A file name fit for a message: its last part, without control characters, at most 80 characters."""
    last = re.split(r"[\\/]", name)[-1]
    clean = "".join(char for char in last if char.isprintable()) or "file"
    return clean if len(clean) <= 80 else clean[:60] + "…" + clean[-19:]
