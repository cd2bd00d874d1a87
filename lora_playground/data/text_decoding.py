"""From a file's bytes to its text: finds the encoding, and refuses what is not text. It knows no formats and no
rows."""

from __future__ import annotations

from charset_normalizer import from_bytes, is_binary

from lora_playground.errors import DataError

_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "export the sheet as CSV, or unpack the archive"),
    (b"PAR1", "a Parquet file", "convert it to jsonl"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"%PDF", "a PDF", "give the text as txt, or the examples as jsonl"),
    (b"\x89PNG", "a picture", "give text"),
    (b"\xff\xd8\xff", "a picture", "give text"),
    (b"\x7fELF", "a program", "give text"),
    (b"SQLite format 3", "a database", "export the table as CSV"),
    (b"\x80\x04", "a Python pickle", "write the rows as jsonl"),
    (b"\x80\x05", "a Python pickle", "write the rows as jsonl"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "export it as CSV"),
)
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OLD = {
    "cp1252": "Windows-1252", "cp1250": "Windows-1250", "cp1251": "Windows-1251", "cp1253": "Windows-1253",
    "koi8_r": "KOI8-R", "cp932": "Shift JIS", "gb18030": "GB 18030", "big5": "Big5", "cp949": "EUC-KR",
}  # fmt: skip
"""Encodings from before Unicode that are tried, the commonest first."""
_SAMPLE = 65_536


def decode(data: bytes, name: str) -> tuple[str, str, list[str]]:
    """Decodes a file.

    A byte order mark decides. Without one it is UTF-16 if every other byte is zero, else UTF-8 if all bytes fit that,
    else one of the older encodings, of which charset-normalizer picks the likeliest.

    Returns:
        (the text, the name of its encoding, notes for the user).

    Raises:
        DataError: it is not text; the message names line and byte.
    """
    for magic, what, remedy in _SIGNATURES:
        if data.startswith(magic):
            raise DataError(f"{name} is {what}, whatever its name says (line 1 shows it); {remedy}.")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding, name), encoding, []
    if wide := _wide_guess(data):
        return _strictly(data, wide, name), wide, []
    try:
        text, encoding, notes = data.decode("utf-8"), "utf-8", list[str]()
    except UnicodeDecodeError as error:
        text, encoding, notes = _older(data, name, error.start)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}, line {line}: there is a NUL byte, so this is no text file. Save it as UTF-8 text.")
    return text, encoding, notes


def _older(data: bytes, name: str, place: int) -> tuple[str, str, list[str]]:
    """Text in an encoding from before Unicode; `place`: index of the first byte that is not UTF-8."""
    line = data.count(b"\n", 0, place) + 1
    part = data[max(0, place - _SAMPLE // 2) :][:_SAMPLE]
    likely = from_bytes(part, cp_isolation=list(_OLD))
    fits = (
        []
        if is_binary(data[:_SAMPLE])
        else [(match.chaos, list(_OLD).index(name), name) for match in likely for name in match.could_be_from_charset]
    )
    for _, _, encoding in sorted(fits):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        shown = _OLD[encoding]
        note = f"Line {line} is not UTF-8; the file was read as {shown}. If letters look wrong, save it as UTF-8."
        return text, shown.lower(), [note]
    raise DataError(
        f"{name}, line {line}: byte {place} is no text; the file looks binary. "
        "Give jsonl, json, csv, tsv or txt in UTF-8."
    )


def _strictly(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte {error.start} is not valid {encoding}, which the file's first bytes promise. "
            "Save it as UTF-8."
        ) from error


def _wide_guess(data: bytes) -> str | None:
    """The byte order of UTF-16 without a mark, in which every other byte is zero; None if it is not UTF-16."""
    sample = data[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    if odd > 0.4 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.1 * half:
        return "utf-16-be"
    return None
