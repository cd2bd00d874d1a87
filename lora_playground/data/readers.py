"""Turns an uploaded file into rows: finds its encoding and format, and says by line what cannot be used and why.

It knows no torch, no tokenizer and no model; what the columns mean is `data.columns`' business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_playground.data.catalogue import Row
from lora_playground.data.columns import Layout, RowError, build_row, find_layout
from lora_playground.data.records import read_records
from lora_playground.errors import DataError

MAX_BYTES = 100 * 2**20
LISTED = 200
"""Rows that are named one by one."""


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
    """What was found in a file.

    Attributes:
        rows: usable rows in the file's order; lines: where each began.
        problems: the first LISTED rows that cannot be used; bad: how many there are in all.
        format, encoding: as found; unit: what `lines` count, 'line' or 'row'.
        layout: which columns were taken for what.
        columns: names of all columns.
        duplicates: usable rows that repeat an earlier one; repeats: lines of the first LISTED of them.
        notes: other things a person should know.
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

    def require_all(self) -> None:
        """Raises DataError for the first bad row: for callers that do not want to skip any."""
        if self.problems:
            more = f" ({self.bad - 1} more rows cannot be used either.)" if self.bad > 1 else ""
            raise DataError(self.problems[0].text + more)


def read_file(path: Path, name: str | None = None, mapping: Mapping[str, str] | None = None) -> Reading:
    """Reads an uploaded file.

    Args:
        path: where the bytes lie.
        name: the name it had, whose ending gives the format; else the path's own.
        mapping: role → column name, to overrule detection, such as {'prompt': 'Frage', 'completion': 'Antwort'};
            roles are messages, system, prompt, input, completion, text.

    Raises:
        DataError: the file as a whole cannot be used, or no row of it can.
    """
    shown = _shown(name or path.name)
    return read_bytes(_bytes(path, shown), shown, mapping)


def read_bytes(data: bytes, name: str, mapping: Mapping[str, str] | None = None) -> Reading:
    """As `read_file`, from bytes."""
    name = _shown(name)
    contents = read_records(data, name)
    # Where every row is broken the first one says why, and no layout is needed.
    columns = contents.columns or ["text"]
    layout = find_layout(columns, mapping, name)
    reading = Reading(contents.format, contents.encoding, contents.unit, layout, columns, notes=contents.notes)
    seen: set[str] = set()
    for line, record in contents.records:
        try:
            if isinstance(record, RowError):
                raise record
            row = build_row(record, layout)
        except RowError as error:
            reading.bad += 1
            if len(reading.problems) < LISTED:
                reading.problems.append(Problem(line, f"{name}, {contents.unit} {line}: {error}"))
            continue
        key = json.dumps(row, sort_keys=True)
        if key in seen:
            reading.duplicates += 1
            if len(reading.repeats) < LISTED:
                reading.repeats.append(line)
        seen.add(key)
        row["meta"] = {"line": line}
        reading.rows.append(row)
        reading.lines.append(line)
    if not reading.rows:
        first = reading.problems[0].text
        raise DataError(first if reading.bad <= 1 else f"{first} No row of the {reading.bad} in the file can be used.")
    if len(reading.rows) == 1:
        reading.notes.append("There is only one usable row: it is trained on, and nothing is left to test with.")
    return reading


def columns_of(path: Path, name: str | None = None) -> list[str]:
    """Names of a file's columns, also where no layout fits them, so that a person can say which is which.

    Raises DataError where the file cannot be read at all.
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
