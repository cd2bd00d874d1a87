"""Turns an uploaded file into rows: finds its encoding and format, and says by line what cannot be used and why.

It knows no torch, no tokenizer and no model; what the columns mean is `data.columns`' business.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_playground.data import parquet
from lora_playground.data.catalogue import Row
from lora_playground.data.columns import Layout, RowError, build_row, find_layout
from lora_playground.data.text_decoding import decode
from lora_playground.errors import DataError

FORMATS = ("jsonl", "json", "csv", "tsv", "txt")
MAX_BYTES = 100 * 2**20
MAX_ROWS = 1_000_000
MAX_LINE = 2_000_000
LISTED = 200

_LIST_KEYS = ("data", "rows", "examples", "train", "conversations", "items")


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
        format, encoding: as found; layout: which columns were taken for what.
        columns: names of all columns.
        duplicates: usable rows that repeat an earlier one; repeats: lines of the first LISTED of them.
        notes: other things a person should know.
    """

    format: str
    encoding: str
    layout: Layout
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    duplicates: int = 0
    repeats: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What the numbers of its rows count: 'line' or 'row'."""
        return _where(self.format)

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
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{shown} is {size / 2**20:.0f} MB; at most {MAX_BYTES >> 20} MB can be read. Split it.")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); choose another file.") from error
    return read_bytes(data, shown, mapping)


def read_bytes(data: bytes, name: str, mapping: Mapping[str, str] | None = None) -> Reading:
    """As `read_file`, from bytes."""
    name = _shown(name)
    if not data.strip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"):
        raise DataError(f"{name} is empty: line 1 holds nothing. Give a file with at least one example.")
    kind, encoding, raw, notes = _read(data, name)
    if len(raw) > MAX_ROWS:
        raise DataError(f"{name} has {len(raw)} rows; at most {MAX_ROWS} can be read. Use a part of it.")
    if not raw:
        raise DataError(f"{name} has a header in line 1 but no rows. Add at least one example below it.")
    columns = _columns(raw)
    layout = find_layout(columns, mapping, name)
    reading = Reading(kind, encoding, layout, columns, notes=notes)
    seen: set[str] = set()
    for line, record in raw:
        try:
            if isinstance(record, RowError):
                raise record
            row = build_row(record, layout)
        except RowError as error:
            reading.bad += 1
            if len(reading.problems) < LISTED:
                reading.problems.append(Problem(line, f"{name}, {_where(kind)} {line}: {error}"))
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
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); choose another file.") from error
    return _columns(_read(data, shown)[2])


# ----------------------------------------------------------------------------------------------- bytes to records


def _read(data: bytes, name: str) -> tuple[str, str, list[tuple[int, Record]], list[str]]:
    """(format, encoding, numbered records, notes) of a file's bytes."""
    if name.lower().endswith(".parquet") and data.startswith(b"PAR1"):
        return "parquet", "parquet", list(enumerate(parquet.records(data, name, MAX_ROWS), 1)), []
    text, encoding, notes = decode(data, name)
    kind = _format(name, text)
    return kind, encoding, list(_records(kind, text, name)), notes


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


Record = dict[str, Any] | RowError


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


# ------------------------------------------------------------------------------------------------------- helpers


def _columns(raw: list[tuple[int, Record]]) -> list[str]:
    """All field names, in order of first appearance among the first thousand rows."""
    names: dict[str, None] = {}
    for _, record in raw[:1000]:
        if isinstance(record, dict):
            names.update(dict.fromkeys(str(key) for key in record))
    if not names:
        problems = [(line, record) for line, record in raw if isinstance(record, RowError)]
        if problems:
            # Every row is broken: the first one says why, and no layout is needed.
            return ["text"]
    return list(names)


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _where(kind: str) -> str:
    return "row" if kind in ("json", "parquet") else "line"


def _shown(name: str) -> str:
    """A file name fit for a message: its last part, without control characters, at most 80 characters."""
    last = re.split(r"[\\/]", name)[-1]
    clean = "".join(char for char in last if char.isprintable()) or "file"
    return clean if len(clean) <= 80 else clean[:60] + "…" + clean[-19:]
