"""Executes a run on another machine: what is sent there, how it is executed, and how its files come back. It knows no
Ray.

A bundle is the run's folder with the uploaded dataset that it uses. The other machine unpacks it into a home of its
own. The server asks repeatedly what has changed in the folder, and copies the changes into its own folder of the run.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_playground import __version__
from lora_playground.errors import JobError, PlaygroundError
from lora_playground.runs import Run

APPENDED = {"events.jsonl", "log.txt"}
"""Files that only grow, of which only the new part is sent."""
LAST = ("adapter", "update.safetensors", "error.json", "result.json")
"""Written after all other files, in this order, since a result must not appear before the files that belong to it."""
PREFIX = "lora-playground-run-"

Known = dict[str, tuple[int, int]]
"""{path in the run's folder: (bytes, time of last change in ns)}."""


@dataclass
class Changes:
    """What is new in a run's folder.

    Attributes:
        files: {path: (offset, bytes)}; offset 0 replaces the file. gone: paths of deleted files.
        known: what the server has once it has these changes, for its next request.
        status: the exit status, None while it runs. cpu_seconds: processor time used.
    """

    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    known: Known = field(default_factory=dict)
    status: int | None = None
    cpu_seconds: float = 0.0


def pack(folder: Path) -> bytes:
    """The bundle of a run: its folder, and its dataset if that is an upload of this home. Raises JobError."""
    home = folder.parent.parent
    out = io.BytesIO()
    try:
        dataset = home / "uploads" / Run(folder).config().data.dataset
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as bundle:
            bundle.add(folder, f"runs/{folder.name}")
            if dataset.is_dir():
                bundle.add(dataset, f"uploads/{dataset.name}")
    except (OSError, PlaygroundError) as error:
        raise JobError(f"The run cannot be sent to another machine: {error}") from error
    return out.getvalue()


def lay(changes: Changes, folder: Path) -> None:
    """Applies changes to a run's folder. A checkpoint appears whole or not at all. Raises OSError."""
    whole: set[Path] = set()
    for name, (offset, content) in sorted(changes.files.items(), key=lambda item: _order(item[0])):
        path = _inside(folder, name)
        if name.startswith("checkpoints/"):
            final = folder / "checkpoints" / Path(name).parts[1]
            staged = final.with_name(f"{final.name}.tmp")
            whole.add(final)
            path = staged / path.relative_to(final)
        elif whole:
            _place(whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        if offset:
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(content)
                file.truncate()
        else:
            staged_file = path.with_name(f".{path.name}.part")
            staged_file.write_bytes(content)
            os.replace(staged_file, path)
    _place(whole)
    for name in changes.gone:
        _inside(folder, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for parent in Path(name).parents[:-1]:
                (folder / parent).rmdir()


def _place(checkpoints: set[Path]) -> None:
    for final in checkpoints:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(final.with_name(f"{final.name}.tmp"), final)
    checkpoints.clear()


def _order(name: str) -> tuple[int, str]:
    top = Path(name).parts[0]
    return LAST.index(top) + 1 if top in LAST else 0, name


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise OSError(f"{name!r} is no path inside a run's folder")
    return path


class RemoteRun:
    """Executes one attempt on the machine where it is created, in a thread of its process.

    Args:
        bundle: made by `pack`. name: of the run's folder. version: of the server's app.

    Raises:
        JobError: this machine has another version of the app.
    """

    def __init__(self, bundle: bytes, name: str, attempt: int, version: str) -> None:
        if version != __version__:
            raise JobError(f"This machine has lora-playground {__version__}, the server {version}; install the same.")
        _sweep()
        self._place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        with tarfile.open(fileobj=io.BytesIO(bundle)) as packed:
            packed.extractall(self._place, filter="data")
        self._run = Run(self._place / "runs" / name)
        self._unpacked = {name: _stamp(path) for name, path in self._files()}
        self._stop = threading.Event()
        self._status: int | None = None
        self._thread = threading.Thread(target=self._work, args=(attempt,), name="run", daemon=True)
        self._thread.start()

    def _work(self, attempt: int) -> None:
        from lora_playground.jobs.worker import exit_status

        os.environ["LORA_PLAYGROUND_HOME"] = str(self._place)
        status = 1
        with open(self._run.log_path, "a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stderr(log):
            print(f"attempt {attempt} on {os.uname().nodename}, process {os.getpid()}", file=log)
            try:
                from lora_playground.jobs.pipeline import execute

                execute(self._run, self._stop.is_set, attempt=attempt)
                status = 0
            except BaseException as error:
                status = exit_status(self._run, error)
        self._status = status

    def changes(self, known: Mapping[str, tuple[int, int]] | None) -> Changes:
        """What has changed since `known`, or since the bundle (None). The exit status is only in a reply that also has
        everything that was written before the end."""
        status, known = self._status, self._unpacked if known is None else known
        told = Changes(status=status, cpu_seconds=time.process_time())
        for name, path in self._files():
            try:
                now, before = _stamp(path), known.get(name)
                if now != before:
                    offset = before[0] if before and name in APPENDED and before[0] <= now[0] else 0
                    with open(path, "rb") as file:
                        file.seek(offset)
                        content = file.read(now[0] - offset)
                    told.files[name] = (offset, content)
                told.known[name] = now
            except FileNotFoundError:
                continue  # renamed or deleted meanwhile
        for name in [name for name in told.files if name.startswith("checkpoints/")]:
            if not (self._run.checkpoints / Path(name).parts[1]).is_dir():  # deleted while it was read
                told.files.pop(name)
                told.known.pop(name, None)
        told.gone = [name for name in known if name not in told.known]
        return told

    def _files(self) -> Iterator[tuple[str, Path]]:
        # Not by rglob, which fails if a folder is deleted while it walks, as old checkpoints are.
        walked = os.walk(self._run.folder)
        for path in sorted(Path(folder, file) for folder, _, files in walked for file in files):
            name = path.relative_to(self._run.folder)
            staged = any(part.endswith(".tmp") or part.startswith(".") for part in name.parts)
            if path.is_file() and not staged:
                yield str(name), path

    def stop(self) -> None:
        """Requests a stop after the current step."""
        self._stop.set()

    def close(self) -> None:
        """Deletes the unpacked files."""
        shutil.rmtree(self._place, ignore_errors=True)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _sweep() -> None:
    """Deletes what killed processes have left on this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = path.name[len(PREFIX) :].split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and sys.platform == "linux":
            shutil.rmtree(path, ignore_errors=True)
