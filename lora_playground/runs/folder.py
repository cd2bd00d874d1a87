"""The run folder: create, append events, read, list, delete.

It knows plain files and the RunConfig; nothing of jobs, training or torch. Whoever only reads needs no lock. A stored
config is read by the variant's own schema, so import `lora_playground.variants` before asking for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError, RunError
from lora_playground.runs.files import read_json, write_json, writing
from lora_playground.runs.history import RunProgress, history, read_events

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
LOG_LINES = 40
ABOUT, LONGEST = "about.json", {"name": 80, "note": 1000}
"""The file with the name and the note that people gave a run, and the most characters of each."""
HIDDEN = "hidden"
"""The file that marks a run that is left out of all lists that people see."""
_LOCK_TRIES = 25
KEPT = 64
"""Number of runs whose progress a store keeps in memory; the least recently used is dropped first."""

HOME_VARIABLE = "LORA_PLAYGROUND_HOME"


def default_home() -> Path:
    """The folder of runs, uploads, converted models and caches: LORA_PLAYGROUND_HOME, or ~/.lora-playground."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".lora-playground")


@contextlib.contextmanager
def home_at(home: Path | str | None) -> Iterator[None]:
    """Makes `home` the default within the block, for this process and those that it starts; None changes nothing."""
    before = os.environ.get(HOME_VARIABLE)
    if home:
        os.environ[HOME_VARIABLE] = str(Path(home).expanduser().absolute())
    try:
        yield
    finally:
        os.environ.pop(HOME_VARIABLE, None)
        if before is not None:
            os.environ[HOME_VARIABLE] = before


class Run:
    """One run's folder. Reading is safe at any time; one process at a time writes (see `locked`).

    Attributes:
        opened: monotonic seconds at which this object was made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.attempt = 1
        self.opened = self._began = time.monotonic()
        self._torn: bool | None = None

    def __repr__(self) -> str:
        return f"Run({self.id})"

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"

    @property
    def error_path(self) -> Path:
        return self.folder / "error.json"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def update_path(self) -> Path:
        return self.folder / "update.safetensors"

    def require_update(self) -> None:
        """Raises RunError, which says what to do, if there is no saved update."""
        if not self.update_path.is_file():
            remedy = "Train it to the end first."
            if "imported" in (self.result() or {}):
                remedy = "It was imported without its base model: import it again and say which one it is."
            raise RunError(f"Run {self.id} has no saved update; it is {self.state()}. {remedy}")

    @property
    def answers_path(self) -> Path:
        return self.folder / "answers.json"

    @property
    def hold_path(self) -> Path:
        return self.folder / "hold.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def config(self) -> RunConfig:
        """The RunConfig. Raises RunError if its file is missing, ConfigError if it is not valid."""
        try:
            text = self.config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"Run {self.id} has no readable config.json ({error}). Delete the run.") from error
        return RunConfig.parse_json(text)

    def about(self) -> dict[str, str]:
        """{'name', 'note'} that people gave this run; without those that they did not give."""
        told = read_json(self.folder / ABOUT) or {}
        return {key: told[key] for key in ("name", "note") if isinstance(told.get(key), str)}

    @property
    def label(self) -> str:
        """The run's name, the same everywhere. For errors see `config`."""
        return self.about().get("name") or self.config().label

    def describe(self, **about: str) -> None:
        """Stores a `name` or a `note`; '' removes it. Raises RunError or DiskFull if it cannot be written."""
        told = self.about() | {key: " ".join(text.split())[: LONGEST[key]] for key, text in about.items()}
        write_json(self.folder / ABOUT, {key: text for key, text in told.items() if text})

    def hold(self, step: int | None, watched: bool = True) -> None:
        """Sets the step after which training stops until it is resumed (None for the end), and whether the run is asked
        prompts while it learns. Raises RunError."""
        if step is None and watched:
            self.hold_path.unlink(missing_ok=True)
        else:
            write_json(self.hold_path, {"step": step, "watched": watched})

    def held_at(self) -> int | None:
        """The step after which training stops, or None."""
        return (read_json(self.hold_path) or {}).get("step")

    @property
    def watched(self) -> bool:
        """Whether it is asked prompts while it learns: no run of a sweep is."""
        return bool((read_json(self.hold_path) or {"watched": True}).get("watched"))

    def created(self) -> float:
        """Unix time at which the run was made (from its config file)."""
        try:
            return self.config_path.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def hidden(self) -> bool:
        """Whether it is left out of the lists that people see, because they get only a copy of its adapter."""
        return (self.folder / HIDDEN).exists()

    def hide(self) -> None:
        """Leaves it out of the lists that people see. Raises RunError or DiskFull if that cannot be written."""
        with writing(self.folder / HIDDEN):
            (self.folder / HIDDEN).touch()

    def result(self) -> dict[str, Any] | None:
        """The contents of `result.json`; None if there is none."""
        return read_json(self.result_path)

    def finished(self, attempt: int) -> bool:
        """Whether this attempt has written its result. Then the run is done, however its process ends."""
        return (self.result() or {}).get("attempt") == attempt

    def error(self) -> dict[str, Any] | None:
        """The contents of `error.json`: {code, message, attempt, log}; None if the run has not failed."""
        return read_json(self.error_path)

    def fail(self, code: str, message: str) -> dict[str, Any]:
        """Writes `error.json` with the last 40 lines of the log, and returns its contents, also if the disk is full."""
        error = {"code": code, "message": message, "attempt": self.attempt, "log": self.log_tail()}
        with contextlib.suppress(RunError):
            write_json(self.error_path, error)
        return error

    def begin(self, attempt: int) -> None:
        """Starts an attempt in this process: sets the clock of its events, removes an earlier attempt's error."""
        self.attempt, self._began, self._torn = attempt, time.monotonic(), None
        self.error_path.unlink(missing_ok=True)

    def append(self, event: dict[str, Any]) -> None:
        """Appends one event, with `t` and `attempt`, as one line in one write. Raises DiskFull."""
        if self._torn is None:
            self._torn = self._ends_torn()
        stamped = event | {"t": round(time.monotonic() - self._began, 3), "attempt": self.attempt}
        line = json.dumps(stamped, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if self._torn:
            line = b"\n" + line  # an earlier writer died within a line, which stays damaged
        with writing(self.events_path):
            handle = os.open(self.events_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                written = os.write(handle, line)
            finally:
                os.close(handle)
            self._torn = written < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _ends_torn(self) -> bool:
        try:
            with open(self.events_path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False  # missing or empty

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """See `history.read_events`."""
        return read_events(self.events_path, offset)

    def history(self) -> list[dict[str, Any]]:
        """All events, without those of steps that a later attempt trained again."""
        return history(self.events()[0])

    def progress(self) -> RunProgress:
        """What its events say, read from the beginning. (`RunStore.progress` reads only new events.)"""
        return RunProgress().read(self.events_path)

    def log_tail(self) -> list[str]:
        """The last LOG_LINES lines of `log.txt`, each at most 500 characters."""
        try:
            with open(self.log_path, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 65_536))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line[:500] for line in text.splitlines()[-LOG_LINES:]]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the run while this process executes it. Raises RunError if another process does."""
        with writing(self.folder):
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for patience in reversed(range(_LOCK_TRIES)):  # `alive` of another process holds the lock for a moment
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not patience:
                        text = f"Run {self.id} is being executed already; wait for it or stop it first."
                        raise RunError(text) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def alive(self) -> bool:
        """Whether a process is executing this run."""
        try:
            handle = os.open(self.folder / ".lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def state(self) -> str:
        """The state as far as the folder shows it: queued, a phase, done, failed, cancelled or interrupted.

        For a run in a server's queue the server's table is the authority (`jobs.supervisor`); this is for runs that
        were made without a server, and for reading without one.
        """
        if self.alive():
            return self.progress().phase or "loading"
        error = self.error()
        if error is not None:
            return "cancelled" if error.get("code") in ("cancelled", "held") else "failed"
        if self.result() is not None:
            return "done"
        return "interrupted" if self.events_path.exists() else "queued"

    def sweep(self) -> None:
        """Removes files that a killed process left half-written (`*.tmp`), here and among the checkpoints."""
        for folder in (self.folder, self.checkpoints):
            for path in folder.glob("*.tmp"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


Runs = list[Run]


class RunStore:
    """All runs under one home folder. Thread-safe."""

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = Path(home).expanduser() if home else default_home()
        self.folder = self.home / "runs"
        self._progress: OrderedDict[str, RunProgress] = OrderedDict()
        self._labels: dict[str, str] = {}
        self._lock = threading.Lock()

    def progress(self, run: Run) -> RunProgress:
        """What a run's events say. The object is cached and shared by all callers, and reads only new events."""
        with self._lock:
            progress = self._progress.setdefault(run.id, RunProgress())
            self._progress.move_to_end(run.id)
            while len(self._progress) > KEPT:
                self._progress.popitem(last=False)
        return progress.read(run.events_path)

    def create(self, config: RunConfig) -> Run:
        """Makes a run's folder with its config. Raises RunError or DiskFull if home cannot be written."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            now = datetime.now(UTC)
            name = f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"
            folder = self.folder / name
            with writing(folder):
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    continue
        run, label = Run(folder), config.label
        try:
            write_json(run.config_path, config.model_dump(mode="json"))
            if number := self._equals(run, label):
                run.describe(name=f"{label} #{number + 1}")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def _equals(self, run: Run, label: str) -> int:
        """The number of other runs that were made with this name."""
        others = [one for one in self.list() if one.id != run.id]
        for one in others:
            if one.id not in self._labels:
                with contextlib.suppress(PlaygroundError):
                    self._labels[one.id] = one.config().label
        return sum(self._labels.get(one.id) == label for one in others)

    def get(self, id: str) -> Run:
        """The run with this id. Raises RunError if the id is malformed (such as a path) or unknown."""
        if not isinstance(id, str) or not ID_PATTERN.fullmatch(id):
            shown = repr(id)[:60]
            raise RunError(f"{shown} is not a run's id; ids have letters, digits, - and _, at most 64.")
        folder = self.folder / id
        if folder.is_symlink() or not (folder / "config.json").is_file():
            raise RunError(f"There is no run {id} under {self.folder}. List the runs to see what there is.")
        return Run(folder)

    def list(self) -> Runs:
        """All runs, hidden ones included, newest first."""
        try:
            names = sorted((entry.name for entry in os.scandir(self.folder)), reverse=True)
        except OSError:
            return []
        runs = []
        for name in names:
            with contextlib.suppress(RunError):
                runs.append(self.get(name))
        return runs

    def delete(self, id: str) -> None:
        """Deletes a run. Raises RunError while it is being executed."""
        run = self.get(id)
        if run.alive():
            raise RunError(f"Run {id} is being executed; stop it first.")
        trash = self.folder / f".{id}.deleted"
        with writing(run.folder):
            os.replace(run.folder, trash)  # gone at once for all readers, even if deleting its files is interrupted
        shutil.rmtree(trash, ignore_errors=True)
