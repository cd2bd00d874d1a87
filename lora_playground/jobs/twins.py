"""Runs that would come out the same: training is deterministic, so the second takes over what the first one made.

A run's identity says what it will compute: its config but for the title, the contents of dataset and base model, and
this app's code. It stands in the run's folder; a run without one is trained whatever there is. It knows folders, no
queue.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path

import lora_playground
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_card
from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import folder_of
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import write_json
from lora_playground.runs.folder import HIDDEN

_NAME = "identity"
_OWN = {_NAME, "config.json", "result.json", "error.json", "log.txt", "checkpoints", "hold.json", ".lock", HIDDEN}
"""What a run does not take over from another."""
_CHANGES = {"events.jsonl", "answers.json"}
"""What may be written to later, and so is copied; the other files are the same on the disk."""


def identity(config: RunConfig, home: Path) -> str | None:
    """A digest of all that decides what a run will learn; None where that depends on the clock or is not known yet."""
    if config.training.seconds is not None:
        return None
    try:
        base = folder_of(config.model.source)
        data = get_card(config.data.dataset, home).folder
    except PlaygroundError:
        return None
    if base is None:
        return None
    said = json.dumps(config.model_dump(mode="json", exclude={"title"}), sort_keys=True)
    digest = hashlib.sha256("\n".join([said, _contents(data), _stamps(base), _code()]).encode())
    return digest.hexdigest()[:32]


def _contents(folder: Path) -> str:
    """Digest of a dataset's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _stamps(folder: Path) -> str:
    """Names, sizes and times of a base model's files, which may be too large to be read here."""
    return repr(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()))


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this app's source, as it was when the server first asked."""
    digest = hashlib.sha256()
    for path in sorted(Path(lora_playground.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Twins:
    """Finds finished runs by their identity."""

    def __init__(self, runs: RunStore) -> None:
        self.runs = runs
        self._identities: dict[str, str] = {}
        self._finished: dict[str, str] | None = None

    def mark(self, run: Run) -> None:
        """Allows a run to take over what another one made. Without a place to write it is simply trained."""
        with contextlib.suppress(OSError, PlaygroundError):
            if (found := identity(run.config(), self.runs.home)) is not None:
                (run.folder / _NAME).write_text(found)

    def of(self, id: str) -> str:
        """A run's identity, '' where it has none."""
        if id not in self._identities:
            try:
                self._identities[id] = (self.runs.folder / id / _NAME).read_text()
            except OSError:
                self._identities[id] = ""
        return self._identities[id]

    def ended(self, run: Run) -> None:
        """Notes a run that has its result."""
        if self._finished is not None and self.of(run.id):
            self._finished[self.of(run.id)] = run.id

    def finished(self, id: str) -> Run | None:
        """A finished and scored run with the same identity, or None."""
        if not (wanted := self.of(id)):
            return None
        if self._finished is None or not (self.runs.folder / self._finished.get(wanted, "")).exists():
            self._finished = {}  # at first, and after one was deleted
            for run in reversed(self.runs.list()):
                if run.result_path.exists():
                    self.ended(run)
        with contextlib.suppress(PlaygroundError):
            twin = self.runs.get(self._finished.get(wanted, ""))
            scoring = (twin.result() or {}).get("scoring", {})
            if twin.result() is not None and (scoring.get("rows") or not scoring.get("note")):
                return twin
        return None


def take_over(run: Run, twin: Run, attempt: int) -> None:
    """Fills a run with what its twin made, the result last. Large files are links, so that they are on the disk once
    and stay until the last run that has them is deleted."""
    for path in twin.folder.iterdir():
        if path.name in _OWN or path.name.endswith(".tmp"):
            continue
        target = run.folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=_link, dirs_exist_ok=True)
        elif path.name in _CHANGES:
            shutil.copyfile(path, target)
        else:
            _link(path, target)
    result = twin.result() or {}
    seconds = sum((result.get("seconds") or {}).values())
    first = result.get("replayed", {}).get("seconds", seconds)
    write_json(run.result_path, result | {"attempt": attempt, "replayed": {"run": twin.id, "seconds": first}})


def _link(source: str | Path, target: str | Path) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
