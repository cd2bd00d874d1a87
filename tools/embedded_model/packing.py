"""Packs tokenised chats into rows of fixed length for pretraining. No chat is cut, and none attends to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

OPEN_ROWS = 32  # rows filled at the same time; more of them leave less padding


def pack(chats: Iterable[list[int]], length: int, pad: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yields rows of `length`: (tokens, chat numbers). Padding has chat number 0; chats longer than a row are skipped.
    A chat that begins with -1 gets an odd number, any other an even one. Odd chats are trained on in full, even ones on
    the assistant's words only.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for marked in chats:
        full, ids = marked[0] == -1, marked[1:] if marked[0] == -1 else marked
        if len(ids) > length:
            continue
        fitting = [row for row in rows if len(row[0]) + len(ids) <= length]
        if fitting:
            row = max(fitting, key=lambda r: len(r[0]))
        else:
            if len(rows) >= OPEN_ROWS:
                fullest = max(range(len(rows)), key=lambda i: len(rows[i][0]))
                yield _padded(rows.pop(fullest), length, pad)
            row = ([], [])
            rows.append(row)
        number = (row[1][-1] if row[1] else 0) // 2 * 2 + (3 if full else 2)
        row[0].extend(ids)
        row[1].extend([number] * len(ids))
        if len(row[0]) == length:
            rows.remove(row)
            yield row


def _padded(row: tuple[list[int], list[int]], length: int, pad: int) -> tuple[list[int], list[int]]:
    gap = length - len(row[0])
    return row[0] + [pad] * gap, row[1] + [0] * gap


def write_rows(chats: Iterable[list[int]], length: int, pad: int, rows: int, path: Path) -> np.ndarray[Any, Any]:
    """Writes `rows` packed rows as uint16 (rows, 2, length): tokens and chat numbers. Returns them as a memory map."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(rows, 2, length))
    for i, (tokens, numbers) in zip(range(rows), pack(chats, length, pad), strict=False):
        out[i, 0], out[i, 1] = tokens, numbers
    out.flush()
    return np.load(path, mmap_mode="r")
