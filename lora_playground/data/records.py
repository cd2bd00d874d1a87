"""From a file's bytes to numbered records: JSON lines, JSON, tables, plain text and Parquet.

A record is one line, row or paragraph, whose fields have no meaning yet (`data.columns` finds it). Files may be
hostile: endless lines, deep nesting, numbers of thousands of digits and repeated keys are refused.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lora_playground.data import json_shapes, parquet
from lora_playground.data.columns import find_layout
from lora_playground.data.json_shapes import kind_of
from lora_playground.data.text_decoding import decode
from lora_playground.data.values import RowError, parse_json
from lora_playground.errors import DataError
from lora_playground.wording import counted

FORMATS = ("jsonl", "json", "csv", "tsv", "txt")
MAX_ROWS = 1_000_000
MAX_LINE = 2_000_000
"""The most characters in a line of JSON or in a cell."""

Record = dict[str, Any] | RowError
"""The named fields of a row, or the reason why it cannot be read."""


@dataclass(frozen=True)
class Contents:
    """The records of a file.

    Attributes:
        format: 'jsonl', 'json', 'csv', 'tsv', 'txt' or 'parquet'; encoding: of its text.
        records: each with the line (for JSON and Parquet the row) where it begins, from 1.
        notes: for the user.
        unused: keys of the document beside its rows.
        label_names: column → names of its classes, for columns that have them.
    """

    format: str
    encoding: str
    records: list[tuple[int, Record]]
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    label_names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What the numbers count: 'line' or 'row'."""
        return "row" if self.format in ("json", "parquet") else "line"

    @property
    def columns(self) -> list[str]:
        """All field names, in order of first appearance among the first thousand records."""
        fields = (record for _, record in self.records[:1000] if isinstance(record, dict))
        return list(dict.fromkeys(str(key) for record in fields for key in record))


def read_records(data: bytes, name: str) -> Contents:
    """Splits a file into records.

    Args:
        data: the file's bytes.
        name: the file's name, whose ending gives the format, without control characters.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    if not data.strip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"):
        raise DataError(f"{name} is empty: line 1 holds nothing. Give a file with at least one example.")
    if name.lower().endswith(".parquet") and data.startswith(b"PAR1"):
        rows, label_names = parquet.records(data, name, MAX_ROWS)
        contents = Contents("parquet", "parquet", list(enumerate(rows, 1)), label_names=label_names)
    else:
        contents = _of_text(*decode(data, name), name)
    if len(contents.records) > MAX_ROWS:
        raise DataError(f"{name} has {len(contents.records)} rows; at most {MAX_ROWS} can be read. Use a part of it.")
    if not contents.records:
        raise DataError(f"{name} has a header in line 1 but no rows. Add at least one example below it.")
    return contents


def _of_text(text: str, encoding: str, notes: list[str], name: str) -> Contents:
    kind = _format(name, text)
    if kind == "txt" and (inside := _inside_txt(text)):
        kind = inside
        notes.append(f"The text holds {_INSIDE[kind]}; it was read as such.")
    if kind == "json":
        try:
            value = parse_json(text)
        except RowError as error:
            raise DataError(f"{name}: {error}") from None
        rows, unused = json_shapes.rows_of(value, name)
        records = [(number, _object(row)) for number, row in enumerate(rows, 1)]
        return Contents(kind, encoding, records, notes, unused, json_shapes.label_names(value))
    readers = {"jsonl": _jsonl, "txt": _txt}
    if kind in readers:
        return Contents(kind, encoding, list(readers[kind](text)), notes)
    return Contents(kind, encoding, list(_table(text, name, "\t" if kind == "tsv" else None)), notes)


_INSIDE = {"jsonl": "one JSON object in each line", "json": "a JSON list", "csv": "a table", "tsv": "a table"}


def _format(name: str, text: str) -> str:
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    head = text[:2000].lstrip().lower()
    if head.startswith(("<!doctype", "<html", "<?xml")):
        raise DataError(
            f"{name}, line 1: this is a web page or XML, not data. Download the file itself, as jsonl or csv."
        )
    if ending in ("ndjson", "jsonlines"):
        ending = "jsonl"
    if ending not in FORMATS:
        raise DataError(f"{name}: the ending must be one of {', '.join(FORMATS)}; rename or convert the file.")
    if ending == "json" and head.startswith("{") and _first_is_object(text):
        return "jsonl"
    if ending == "jsonl" and head.startswith("["):
        return "json"
    return ending


def _first_is_object(text: str) -> bool:
    """Whether the first of several lines is a whole JSON object."""
    first, _, rest = text.lstrip().partition("\n")
    return bool(rest.strip()) and first.startswith("{") and _is_json(first)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _inside_txt(text: str) -> str:
    """'jsonl', 'json', 'csv' or 'tsv' if a .txt file holds such data, '' if it holds text.

    A table is recognised by a header of known columns and as many cells in each of its first rows.
    """
    lines = [line for line in text.split("\n") if line.strip()][:20]
    if lines[0].startswith("{") and all(line.startswith("{") and _is_json(line) for line in lines):
        return "jsonl"
    if text.lstrip().startswith("[") and _is_json(text):
        return "json"
    delimiter = _delimiter(text)
    rows = list(csv.reader(lines, delimiter=delimiter))
    known = find_layout([cell.strip() for cell in rows[0]], None, "", required=False).kind
    if known and len(rows[0]) > 1 and len(rows) > 1 and len({len(row) for row in rows}) == 1:
        return "tsv" if delimiter == "\t" else "csv"
    return ""


def _jsonl(text: str) -> Iterator[tuple[int, Record]]:
    # str.splitlines would also break at U+2028 and the like, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _json_object(line)


def _json_object(line: str) -> Record:
    if len(line) > MAX_LINE:
        return RowError(
            f"the line has {len(line):,} characters; at most {MAX_LINE:,} are allowed. Put one example on each line."
        )
    try:
        return _object(parse_json(line), " on each line")
    except RowError as error:
        return error


def _object(value: Any, where: str = "") -> Record:
    """An object unchanged, a list of turns as an object with these messages, or the reason why neither applies."""
    value = json_shapes.record_of(value)
    if isinstance(value, dict | RowError):
        return value
    return RowError(f"there is {kind_of(value)} where an object is needed. Write {{...}} with named fields{where}.")


def _txt(text: str) -> Iterator[tuple[int, Record]]:
    """Paragraphs between empty lines; if there are no empty lines, lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not re.search(r"\n[ \t]*\n", text.strip()):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, {"text": line.strip()}
        return
    start, lines = 0, []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            start = start or number
            lines.append(line.rstrip())
        elif lines:
            yield start, {"text": "\n".join(lines)}
            start, lines = 0, []


_RULE, _SEPARATOR = re.compile(r"[\s:]*-{3}[-\s:]*"), re.compile(r"sep=.?")
"""The line below the header of a table in Markdown, and the first line of some tables for Excel."""


def _table(text: str, name: str, delimiter: str | None) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(MAX_LINE)
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _csv_problem(str(error), reader.line_num - line)
            if header is None:
                raise DataError(f"{name}, line {line}: {problem}") from None
            yield line, RowError(problem)
            continue
        if not any(cell.strip() for cell in cells) or (header and _RULE.fullmatch("".join(cells))):
            continue
        if header is None and _SEPARATOR.fullmatch("".join(cells)):  # tells Excel the delimiter
            continue
        if header is None:
            header = _header(cells, name, line)
        elif len(cells) != len(header):
            yield (
                line,
                RowError(
                    f"it has {len(cells)} cells, the header has {len(header)}. Put cells that contain "
                    f'{delimiter!r} or line breaks in "quotes".'
                ),
            )
        else:
            yield line, dict(zip(header, cells))


def _csv_problem(error: str, swallowed: int) -> str:
    if "unexpected end" in error:
        return (
            f"a quotation mark opens a cell that is never closed, so {counted(swallowed, 'more line')} cannot be read. "
            'Close it, or double it ("") where it belongs to the text.'
        )
    if "field larger" in error:
        return (
            f"a cell has more than {MAX_LINE:,} characters; maybe a quotation mark is not closed. Close or shorten it."
        )
    return f'the quotation marks do not fit ({error}). Double a mark ("") that belongs to the text.'


def _header(cells: list[str], name: str, line: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({cell for cell in header if header.count(cell) > 1 and cell})
    if twice:
        raise DataError(
            f"{name}, line {line}: the column {twice[0][:40]!r} stands in the header twice. Rename one of them."
        )
    return [cell or f"column {number}" for number, cell in enumerate(header, 1)]


def _delimiter(text: str) -> str:
    """The delimiter that splits the header into known columns, else into the most columns."""
    best, score = ",", (-1, -1)
    lines = [line for line in text.split("\n", 3) if line.strip() and not line.startswith("sep=")]
    first = lines[0] if lines else ""
    for candidate in ",;\t|":
        try:
            cells = next(csv.reader([first], delimiter=candidate), [])
        except csv.Error:
            continue
        known = find_layout([cell.strip() for cell in cells], None, "", required=False).kind != ""
        if (int(known), len(cells)) > score:
            best, score = candidate, (int(known), len(cells))
    return best
