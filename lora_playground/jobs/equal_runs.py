"""Finds equal runs. Training is deterministic, so a run takes over the files of an equal one that was made before.

A run's identity is a digest of everything that decides what it computes: its config without the title, the contents of
dataset and base model, and this app's code. It is stored in the run's folder; a run without one is always trained. This
module knows folders, no queue.
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
"""Files and folders that a run does not take over from another."""
_CHANGES = {"events.jsonl", "answers.json"}
"""Files that may be written to later, and are therefore copied. All others are hard links."""


def identity(config: RunConfig, home: Path) -> str | None:
    """A run's identity; None if what it learns depends on the clock, or its base model is not on this disk."""
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
    """Digest of names, sizes and times of a base model's files, whose contents may be too large to read."""
    return repr(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()))


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this app's source code, computed once for each process."""
    digest = hashlib.sha256()
    for path in sorted(Path(lora_playground.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class EqualRuns:
    """Finds finished runs by their identity."""

    def __init__(self, runs: RunStore) -> None:
        self.runs = runs
        self._identities: dict[str, str] = {}
        self._finished: dict[str, str] | None = None

    def mark(self, run: Run) -> None:
        """Writes a run's identity into its folder, so that it can take over another run. If that fails it is
        trained."""
        with contextlib.suppress(OSError, PlaygroundError):
            if (found := identity(run.config(), self.runs.home)) is not None:
                # The files of an unwatched run lack probes and moments, so it must not stand in for a watched one.
                (run.folder / _NAME).write_text(found if run.watched else f"{found} unwatched")

    def of(self, id: str) -> str:
        """A run's identity; '' if it has none."""
        if id not in self._identities:
            try:
                self._identities[id] = (self.runs.folder / id / _NAME).read_text()
            except OSError:
                self._identities[id] = ""
        return self._identities[id]

    def ended(self, run: Run) -> None:
        """Notes that a run has finished, so that others can take it over."""
        if self._finished is not None and self.of(run.id):
            self._finished[self.of(run.id)] = run.id

    def finished(self, id: str) -> Run | None:
        """A finished and scored run with the same identity; None if there is none."""
        if not (wanted := self.of(id)):
            return None
        if self._finished is None or not (self.runs.folder / self._finished.get(wanted, "")).exists():
            self._finished = {}  # filled at the first call, and again after a run was deleted
            for run in reversed(self.runs.list()):
                if run.result_path.exists():
                    self.ended(run)
        with contextlib.suppress(PlaygroundError):
            source = self.runs.get(self._finished.get(wanted, ""))
            scoring = (source.result() or {}).get("scoring", {})
            if source.result() is not None and (scoring.get("rows") or not scoring.get("note")):
                return source
        return None


def take_over(run: Run, source: Run, attempt: int) -> None:
    """Fills a run's folder with the files of an equal, finished run, the result last. Large files are hard links, so
    that they take space once, and exist until the last run that has them is deleted."""
    for path in source.folder.iterdir():
        if path.name in _OWN or path.name.endswith(".tmp"):
            continue
        target = run.folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=_link, dirs_exist_ok=True)
        elif path.name in _CHANGES:
            shutil.copyfile(path, target)
        else:
            _link(path, target)
    result = source.result() or {}
    seconds = sum((result.get("seconds") or {}).values())
    first = result.get("replayed", {}).get("seconds", seconds)
    write_json(run.result_path, result | {"attempt": attempt, "replayed": {"run": source.id, "seconds": first}})


def _link(source: str | Path, target: str | Path) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
