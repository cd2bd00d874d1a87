"""From a file's bytes to numbered records: JSON lines, JSON, tables, plain text and Parquet.

A record is what stands in one line, row or paragraph, before anybody asks what its fields mean (`data.columns`). Files
may be hostile: endless lines, deep nesting, numbers of thousands of digits and repeated keys are refused.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lora_playground.data import parquet
from lora_playground.data.columns import RowError, find_layout
from lora_playground.data.text_decoding import decode
from lora_playground.errors import DataError

FORMATS = ("jsonl", "json", "csv", "tsv", "txt")
MAX_ROWS = 1_000_000
MAX_LINE = 2_000_000
"""Characters in a line of JSON or in a cell."""

_LIST_KEYS = ("data", "rows", "examples", "train", "conversations", "items")

Record = dict[str, Any] | RowError
"""The named fields of a row, or why there are none."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        format: 'jsonl', 'json', 'csv', 'tsv', 'txt' or 'parquet'; encoding: of its text.
        records: each with the line (for JSON and Parquet the row) where it begins, from 1.
        notes: what a person should know.
    """

    format: str
    encoding: str
    records: list[tuple[int, Record]]
    notes: list[str]

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
    """The records of a file; raises DataError where the file as a whole cannot be read.

    Args:
        name: the file's name, whose ending gives the format, fit for a message.
    """
    if not data.strip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"):
        raise DataError(f"{name} is empty: line 1 holds nothing. Give a file with at least one example.")
    if name.lower().endswith(".parquet") and data.startswith(b"PAR1"):
        contents = Contents("parquet", "parquet", list(enumerate(parquet.records(data, name, MAX_ROWS), 1)), [])
    else:
        text, encoding, notes = decode(data, name)
        kind = _format(name, text)
        contents = Contents(kind, encoding, list(_records(kind, text, name)), notes)
    if len(contents.records) > MAX_ROWS:
        raise DataError(f"{name} has {len(contents.records)} rows; at most {MAX_ROWS} can be read. Use a part of it.")
    if not contents.records:
        raise DataError(f"{name} has a header in line 1 but no rows. Add at least one example below it.")
    return contents


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
    if ending == "json" and head.startswith("{") and _is_jsonl(text):
        return "jsonl"
    if ending == "jsonl" and head.startswith("["):
        return "json"
    return ending


def _is_jsonl(text: str) -> bool:
    """Whether a '.json' file holds one object a line: then its first line is complete."""
    first, _, rest = text.lstrip().partition("\n")
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _records(kind: str, text: str, name: str) -> Iterator[tuple[int, Record]]:
    if kind == "jsonl":
        yield from _jsonl(text)
    elif kind == "json":
        yield from _json(text, name)
    elif kind == "txt":
        yield from _txt(text)
    else:
        yield from _table(text, name, "\t" if kind == "tsv" else None)


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
        value = _parse(line)
    except RowError as error:
        return error
    if not isinstance(value, dict):
        return RowError(
            f"there is {_kind(value)} where an object is needed. Write one {{...}} with named fields on each line."
        )
    return value


def _json(text: str, name: str) -> Iterator[tuple[int, Record]]:
    try:
        value = _parse(text)
    except RowError as error:
        raise DataError(f"{name}: {error}") from None
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if lists and len(lists) == len(value) and len({len(item) for item in lists.values()}) == 1:
            if any(key.lower() in _LIST_KEYS and item and isinstance(item[0], dict) for key, item in lists.items()):
                value = next(iter(lists.values()))
            else:
                value = [dict(zip(lists, cells)) for cells in zip(*lists.values())]
        else:
            key = next((key for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
            value = value[key] if key and "messages" not in value else [value]
    if not isinstance(value, list):
        raise DataError(f"{name}, row 1: there is {_kind(value)} where a list is needed. Write [{{...}}, {{...}}].")
    if not value:
        raise DataError(f"{name} holds an empty list: there is no row 1. Give at least one example.")
    for number, item in enumerate(value, 1):
        if isinstance(item, dict):
            yield number, item
        else:
            yield (
                number,
                RowError(f"there is {_kind(item)} where an object is needed. Write {{...}} with named fields."),
            )


def _parse(text: str) -> Any:
    """Strict JSON: no NaN, no repeated keys, no endless nesting or numbers."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique, strict=False)
    except RowError:
        raise
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


def _no_constant(constant: str) -> None:
    raise RowError(f"{constant} is no JSON value. Leave the row out, or write the text that is meant in quotes.")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RowError(f"the field {key[:40]!r} stands in it twice. Keep one.")
        found[key] = value
    return found


def _txt(text: str) -> Iterator[tuple[int, Record]]:
    """Paragraphs between empty lines; where there are none, lines."""
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
        if not any(cell.strip() for cell in cells):
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
            f"a quotation mark opens a cell that is never closed, so {swallowed} more lines cannot be read. "
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
    """The delimiter that cuts the header into known columns, else into most columns."""
    best, score = ",", (-1, -1)
    first = text.lstrip("\n\r").split("\n", 1)[0]
    for candidate in ",;\t|":
        try:
            cells = next(csv.reader([first], delimiter=candidate), [])
        except csv.Error:
            continue
        known = find_layout([cell.strip() for cell in cells], None, "", required=False).kind != ""
        if (int(known), len(cells)) > score:
            best, score = candidate, (int(known), len(cells))
    return best


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
