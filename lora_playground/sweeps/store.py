"""Stores sweeps in HOME/sweeps, one JSON file each, replaced atomically: the configs, and the decisions of a race.

The state of the runs is not in it: `status` reads that from their own folders. It knows no queue.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_card
from lora_playground.errors import ConfigError, RunError
from lora_playground.runs.files import read_json, write_json, writing
from lora_playground.runs.folder import ID_PATTERN
from lora_playground.sweeps.grid import Point

Wish = Literal["run", "pause", "stop"]


@dataclass
class Entry:
    """One run of a sweep.

    Attributes:
        config: the RunConfig as plain data. variant, rank, learning_rate, seed: its values of the swept options.
        run: its id, '' until it is queued.
        out: None, or how the race eliminated it: {'step', 'loss' at that step, 'place' among the 'of' runs compared}.
        paused: whether a pause of the sweep stopped it, so that it is resumed with the sweep.
        gone: whether its run was deleted.
    """

    config: dict[str, Any]
    variant: str
    rank: int | None
    learning_rate: float | None
    seed: int
    run: str = ""
    out: dict[str, Any] | None = None
    paused: bool = False
    gone: bool = False

    @property
    def name(self) -> str:
        """The run's title."""
        return str(self.config.get("title", ""))


@dataclass
class Sweep:
    """A sweep as stored.

    Attributes:
        owner: the visitor who started it, '' for the command line. created: Unix time.
        race: whether the worse half stops early. steps: of each run.
        level: how many of the race's comparisons have been made. wish: the user's last request.
        ended: Unix time at which nothing was left to do, None before that.
        active: seconds during which at least one of its runs was training.
    """

    id: str
    label: str
    owner: str
    created: float
    race: bool
    steps: int
    entries: list[Entry] = field(default_factory=list)
    level: int = 0
    wish: Wish = "run"
    ended: float | None = None
    active: float = 0.0

    @property
    def runs(self) -> list[str]:
        """Ids of the runs that have been queued."""
        return [entry.run for entry in self.entries if entry.run]


class SweepStore:
    """The sweeps of one home. Thread-safe. Only one process may change sweeps that have not ended."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "sweeps"
        self._read: dict[str, tuple[int, Sweep]] = {}
        self._lock = threading.Lock()

    def create(self, points: Sequence[Point], label: str, race: bool, owner: str = "") -> Sweep:
        """Stores a new sweep.

        Raises:
            ConfigError: the dataset does not exist, or a race has no number of steps. RunError: HOME cannot be written.
        """
        first = points[0].config
        get_card(first.data.dataset, self.folder.parent)
        if race and first.training.seconds is not None:
            raise ConfigError("race", "a time budget", "runs are compared at equal steps; give steps")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        id = f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"
        entries = [
            Entry(one.config.model_dump(mode="json"), one.variant, one.rank, one.learning_rate, one.seed)
            for one in points
        ]
        sweep = Sweep(id, label, owner, time.time(), race, points[0].config.training.steps, entries)
        self.save(sweep)
        return sweep

    def save(self, sweep: Sweep) -> None:
        """Writes a sweep atomically. Raises RunError if HOME cannot be written."""
        write_json(self._path(sweep.id), asdict(sweep))

    def remove(self, id: str) -> None:
        """Deletes a sweep's file; its runs stay. Raises RunError if HOME cannot be written."""
        with writing(self._path(id)):
            self._path(id).unlink(missing_ok=True)
        with self._lock:
            self._read.pop(id, None)

    def get(self, id: str) -> Sweep:
        """Reads a sweep from its file. Raises RunError if the id is malformed or unknown, or the file damaged."""
        if not isinstance(id, str) or not ID_PATTERN.fullmatch(id):
            raise RunError(f"{id!r} is not a sweep's id; ids have letters, digits, - and _, at most 64.")
        found = read_json(self._path(id))
        if found is None:
            raise RunError(f"There is no sweep {id} under {self.folder}.")
        try:
            entries = [Entry(**entry) for entry in found.pop("entries")]
            return Sweep(**found, entries=entries)
        except (TypeError, KeyError) as error:
            raise RunError(f"Sweep {id} cannot be read ({error}); remove {self._path(id)}.") from error

    def list(self) -> list[Sweep]:
        """All readable sweeps, newest first. The objects are cached and shared: to change one, take it from `get`."""
        try:
            names = sorted((entry.name for entry in os.scandir(self.folder)), reverse=True)
        except OSError:
            return []
        return [sweep for name in names if name.endswith(".json") and (sweep := self._known(name[:-5])) is not None]

    def _known(self, id: str) -> Sweep | None:
        """Like `get`, but cached until the file changes, and None for a sweep that cannot be read."""
        try:
            stamp = self._path(id).stat().st_mtime_ns
            with self._lock:
                known = self._read.get(id)
            if known is None or known[0] != stamp:
                known = (stamp, self.get(id))
                with self._lock:
                    self._read[id] = known
            return known[1]
        except (OSError, RunError):
            return None

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"


def config_of(entry: Entry) -> RunConfig:
    """An entry's validated config. Raises ConfigError."""
    return RunConfig.parse(entry.config)
