"""Finds the encoding of an uploaded file's bytes, and refuses what is no text. It knows nothing of formats and rows."""

from __future__ import annotations

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


def decode(data: bytes, name: str) -> tuple[str, str, list[str]]:
    """The text, the name of its encoding, and notes for the person; raises DataError naming line and byte.

    A mark at the start decides; without one UTF-8 is tried, then UTF-16 where every other byte is zero, then
    Windows-1252, unless the bytes look binary.
    """
    for magic, what, remedy in _SIGNATURES:
        if data.startswith(magic):
            raise DataError(f"{name} is {what}, whatever its name says (line 1 shows it); {remedy}.")
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
                           (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):  # fmt: skip
        if data.startswith(mark):
            return _strictly(data, "utf-8-sig" if encoding == "utf-8" else encoding, name), encoding, []
    try:
        text = data.decode("utf-8")
        encoding, notes = "utf-8", []
    except UnicodeDecodeError as error:
        guess = _wide_guess(data)
        if guess:
            return _strictly(data, guess, name), guess, []
        line = data.count(b"\n", 0, error.start) + 1
        if _control_share(data) > 0.02:
            raise DataError(
                f"{name}, line {line}: byte {error.start} is no text; the file looks binary. "
                "Give jsonl, json, csv, tsv or txt in UTF-8."
            ) from error
        text, encoding = data.decode("cp1252", errors="replace"), "windows-1252"
        notes = [
            f"Line {line} is not UTF-8; the file was read as Windows-1252. If letters look wrong, save it as UTF-8."
        ]
    if "\0" in text:
        guess = _wide_guess(data)
        if guess:
            return _strictly(data, guess, name), guess, []
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}, line {line}: there is a NUL byte, so this is no text file. Save it as UTF-8 text.")
    return text, encoding, notes


def _strictly(data: bytes, encoding: str, name: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte {error.start} is not valid {encoding}, which the file's first bytes promise. "
            "Save it as UTF-8."
        ) from error
    return text.removeprefix("\ufeff")


def _wide_guess(data: bytes) -> str | None:
    """UTF-16 without a mark shows as every other byte being zero."""
    sample = data[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    if odd > 0.4 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.1 * half:
        return "utf-16-be"
    return None


def _control_share(data: bytes) -> float:
    sample = data[:65_536]
    return sum(byte < 32 and byte not in (9, 10, 12, 13) for byte in sample) / max(1, len(sample))
