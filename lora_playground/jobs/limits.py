"""How much one person may have of a server that many share, and the words for who asks for more.

It counts; `jobs.supervisor` asks before it takes anything. It knows no browser.
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
    """Of one person: 0 means no limit. `ALONE` is for one person on a machine, `SHARED` for a server that many use.

    Attributes:
        running: jobs at once. waiting: jobs in the queue. runs, gigabytes: kept, and their size on the disk.
        uploads: datasets. chats: questions that are being answered.
    """

    running: int = 0
    waiting: int = 64
    runs: int = 0
    gigabytes: float = 0.0
    uploads: int = 0
    chats: int = 0

    @classmethod
    def parse(cls, text: str, start: Limits) -> Limits:
        """Limits as on the command line, 'running=1,gigabytes=2.5', on top of `start`. Raises JobError."""
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
        """Raises JobError where one more would be too many; so do all checks."""
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


class Kept:
    """How many runs a person has, and how much they take on the disk. What ended is measured once."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._sizes: dict[tuple[str, int], int] = {}

    def of(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Number of these jobs' runs, and bytes of their folders; a file that two runs share counts for each."""
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
    """Bytes of all files in a folder; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
