"""Limits for each person on a shared server, and the messages for those who exceed them.

`jobs.supervisor` checks them before it accepts anything. This module knows no browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lora_playground.errors import JobError
from lora_playground.jobs.store import TERMINAL, Row
from lora_playground.runs import RunStore
from lora_playground.wording import counted


@dataclass(frozen=True)
class Limits:
    """Limits of one person; 0 means no limit. `ALONE` is for one person on a machine, `SHARED` for a shared server.

    Attributes:
        running: jobs that train at once. waiting: queued jobs. runs: stored runs. gigabytes: size of these on disk.
        uploads: stored datasets. chats: questions that are being answered at once.
    """

    running: int = 0
    waiting: int = 64
    runs: int = 0
    gigabytes: float = 0.0
    uploads: int = 0
    chats: int = 0

    @classmethod
    def parse(cls, text: str, start: Limits) -> Limits:
        """Reads limits from a text such as 'running=1,gigabytes=2.5'; those that it leaves out are taken from `start`.
        Raises JobError."""
        kinds = {field.name: float if field.name == "gigabytes" else int for field in fields(cls)}
        found = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            try:
                found[name] = kinds[name](value)
                if not found[name] >= 0:
                    raise ValueError(value)
            except (KeyError, ValueError) as error:
                raise JobError(
                    f"--limits {part!r}: give NAME=NUMBER, 0 for no limit, with a name of {', '.join(kinds)}."
                ) from error
        return replace(start, **found)  # type: ignore[arg-type]

    def check_waiting(self, mine: int) -> None:
        """Raises JobError if one more queued job would be too many. The other checks do the same for what they
        count."""
        if self.waiting and mine >= self.waiting:
            raise JobError(
                f"You have {counted(mine, 'run')} waiting, and {counted(self.waiting, 'is', many='are')} allowed; "
                "wait, or remove one."
            )

    def check_uploads(self, mine: int) -> None:
        if self.uploads and mine >= self.uploads:
            raise JobError(
                f"You have uploaded {counted(mine, 'dataset')}, and this server keeps {self.uploads} of one person; "
                "use one of those, or ask whoever runs it for more."
            )

    def check_chats(self, mine: int) -> None:
        if self.chats and mine >= self.chats:
            raise JobError(
                f"You have {counted(mine, 'question')} being answered, and "
                f"{counted(self.chats, 'at once is', many='at once are')} allowed; wait until one is answered."
            )

    def check_kept(self, mine: int, size: int) -> None:
        """Raises JobError if one more run is too many beside `mine` runs, which take `size` bytes on disk."""
        if self.runs and mine >= self.runs:
            raise JobError(
                f"You have {counted(mine, 'run')} here, and {counted(self.runs, 'is', many='are')} kept of one person; "
                "delete one first."
            )
        if self.gigabytes and size >= self.gigabytes * 1e9:
            raise JobError(
                f"Your runs take {size / 1e9:.2f} GB, and {self.gigabytes:g} GB are kept of one person; delete one "
                "first."
            )


ALONE = Limits()
SHARED = Limits(running=2, waiting=8, runs=100, gigabytes=5.0, uploads=20, chats=3)


class RunUsage:
    """Counts a person's runs and their size on disk. Runs that have ended are measured only once."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._sizes: dict[tuple[str, int], int] = {}

    def of(self, rows: Sequence[Row]) -> tuple[int, int]:
        """(number of these jobs' runs, bytes of their folders). A file that two runs share counts for both."""
        return len(rows), sum(self._size(row) for row in rows)

    def _size(self, row: Row) -> int:
        key = (row.id, row.attempt)
        if key not in self._sizes:
            size = folder_bytes(self._runs.folder / row.id)
            if row.state not in TERMINAL:
                return size
            self._sizes[key] = size
        return self._sizes[key]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 if it does not exist."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
