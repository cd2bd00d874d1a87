"""Reads the rows of a Parquet file with pyarrow, which is optional. It does not know what the columns mean."""

from __future__ import annotations

import json
from typing import Any

from lora_playground.errors import DataError

MAX_UNPACKED = 400 * 2**20


def records(data: bytes, name: str, most: int) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Reads a Parquet file.

    Args:
        data: the file's bytes. name: the file's, for messages.
        most: the most rows; a file with more is refused before it is unpacked.

    Returns:
        (rows, column → names of its classes, for columns that have them).

    Raises:
        DataError: the file is damaged or too large, or pyarrow is missing.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{name} is a Parquet file, which needs pyarrow here: install it "
            "(pip install -r requirements-parquet.txt), or give jsonl."
        ) from None
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        about = file.metadata
        size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if about.num_rows > most or size > MAX_UNPACKED:
            raise DataError(
                f"{name} has {about.num_rows} rows and {size >> 20} MB unpacked; at most {most} rows and "
                f"{MAX_UNPACKED >> 20} MB can be read. Use a part of it."
            )
        return list(file.read().to_pylist()), _label_names(file.schema_arrow.metadata or {})
    except (arrow.ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:120]
        raise DataError(
            f"{name}, row 1: this is no complete Parquet file ({first}). Write it again, or give jsonl."
        ) from None


def _label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Names of classes as the library `datasets` stores them in a file's metadata."""
    found: dict[str, list[str]] = {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        for column, feature in features.items():
            names = feature.get("names") if isinstance(feature, dict) else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                found[str(column)] = names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found
