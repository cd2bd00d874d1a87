"""Functions for a notebook or a script: train a run, load one, ask base and adapted model, see what was learned.

    from lora_playground import train, chat, spectra, load_run

Options, errors and answers are the same as in command line, page and API. Torch is imported only when it is needed.
"""

from __future__ import annotations

import asyncio
import atexit
import html
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.chat.client import ChatClient
from lora_playground.config import RunConfig
from lora_playground.runs import Run, RunStore, default_home
from lora_playground.service import catalogue, conversation, run_options
from lora_playground.service import spectra as spectra_of
from lora_playground.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

Home = Path | str | None

__all__ = ["chat", "estimate", "list_runs", "load_run", "spectra", "train", "upload_dataset"]


@dataclass(frozen=True)
class NotebookRun:
    """A run, with a short text that a notebook shows for it.

    Attributes:
        id, label, state: see `runs.Run`. config: its RunConfig. folder: has its files.
        losses: training loss of every optimiser step. result: the contents of `result.json`, {} before there is one.
    """

    run: Run

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def label(self) -> str:
        return self.run.label

    @property
    def state(self) -> str:
        return self.run.state()

    @property
    def config(self) -> RunConfig:
        return self.run.config()

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def losses(self) -> list[float]:
        return self.run.progress().losses

    @property
    def result(self) -> dict[str, Any]:
        return self.run.result() or {}

    def __repr__(self) -> str:
        losses, score = self.losses, self.result.get("score")
        parts = [f"{self.label} ({self.id}): {self.state}"]
        parts += [f"loss {losses[0]:.3f} → {losses[-1]:.3f}"] if losses else []
        parts += [f"{score['metric']} {score['base']:.0%} → {score['adapted']:.0%}"] if score else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Answers:
    """The answers of base and adapted models to one question. A notebook shows them as a table.

    Attributes:
        prompt: the question. base: the base's answer. adapted: {run id: answer}.
    """

    prompt: str
    base: str
    adapted: dict[str, str]

    def __repr__(self) -> str:
        return "\n".join([f"base: {self.base}", *(f"{run}: {text}" for run, text in self.adapted.items())])

    def _repr_html_(self) -> str:
        cells = [("base", self.base), *self.adapted.items()]
        rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in cells)
        return f"<table><caption>{html.escape(self.prompt)}</caption>{rows}</table>"


class Spectra:
    """Singular values of a run's updates. A notebook shows those of the strongest module as a picture.

    Attributes:
        modules: {module: {'name', 'shape', 'singular_values', 'effective_rank', 'stable_rank', ...}}.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.modules = {entry["name"]: entry for entry in spectra_of.numbers(run)["modules"]}

    def picture(self, module: str = "") -> bytes:
        """One module's singular values as a PNG; '' takes the module with the largest singular value."""
        return spectra_of.picture(self._run, module)

    def _repr_png_(self) -> bytes:
        return self.picture()

    def __repr__(self) -> str:
        mean = sum(entry["effective_rank"] for entry in self.modules.values()) / max(1, len(self.modules))
        return f"{len(self.modules)} modules, {mean:.2f} directions used on average (effective rank)"


def train(home: Home = None, progress: Callable[[str], None] | None = print, **options: Any) -> NotebookRun:
    """Trains a run in this process to its end, and returns it. An interrupt stops it after the current step.

    Args:
        home: folder of runs; None takes LORA_PLAYGROUND_HOME or ~/.lora-playground.
        progress: called now and then with a line of text that says how far it has come; None for silence.
        options: those of `lora-playground train`, with underscores: dataset, variant, rank, steps, seed, preset, ...

    Raises:
        ConfigError: an option is not allowed. Other subclasses of PlaygroundError: training failed.
    """
    from lora_playground.jobs.admission import check
    from lora_playground.jobs.pipeline import execute

    store, config = RunStore(home), run_options.build(options)
    tell = progress or (lambda _: None)
    for warning in check(config, store.home):
        tell(f"warning: {warning}")
    run = store.create(config)
    tell(f"run {run.id}: {run.label}")
    with _interruptible() as stop:
        execute(run, stop.is_set, emit=_ProgressPrinter(tell).event)
    return NotebookRun(run)


def load_run(run: str, home: Home = None) -> NotebookRun:
    """The run with this id. Raises RunError if there is none."""
    return NotebookRun(RunStore(home).get(run))


def list_runs(home: Home = None) -> list[dict[str, Any]]:
    """All runs, newest first, one row for each."""
    return [catalogue.run_row(run, run.state()) for run in RunStore(home).list()]


def spectra(run: NotebookRun | str, home: Home = None) -> Spectra:
    """Singular values of every module's update. Raises RunError if the run has no saved update."""
    return Spectra(_found(run, home))


def chat(prompt: str, *runs: NotebookRun | str, home: Home = None, **settings: Any) -> Answers:
    """Asks the base model and up to three runs the same question, with the same sampling noise.

    Args:
        runs: runs or their ids; without any, only the base answers.
        settings: system, history, model, seed, temperature, top_p, max_new_tokens, strength, keep (see docs/api.md).

    Raises:
        ConfigError: a setting is not allowed. RunError: a run does not exist or has no update. ChatError: the chat
            process failed.
    """
    found = [_found(run, home) for run in runs]
    for run in found:
        run.require_update()
    place = found[0].folder.parent.parent if found else Path(home).expanduser() if home else default_home()
    given = {"history": None, "system": "", "model": None} | settings
    request = conversation.request(prompt, [run.id for run in found], who="", **given)

    async def ask() -> dict[str, Any]:
        answer: dict[str, Any] = {}
        async for newest in conversation.answers(_client(place), request):
            answer = newest
        return answer

    with ThreadPoolExecutor(1) as thread:  # asyncio.run does not work in a notebook's thread, which has a loop already
        answer = thread.submit(asyncio.run, ask()).result()
    return Answers(prompt, answer["base"], answer["adapted"])


def estimate(home: Home = None, **options: Any) -> dict[str, Any]:
    """What a run with these options would cost: memory by cause in bytes, seconds, trained parameters. See `train`."""
    from lora_playground.models.precision import probe

    machine = probe()
    return catalogue.estimated(RunStore(home), run_options.build(options), machine.device, machine.dtype)


def upload_dataset(path: Path | str, home: Home = None, columns: dict[str, str] | None = None,
                   metric: str | None = None, seed: int = 0) -> str:  # fmt: skip
    """Makes a dataset of a file, and returns its id for `train(dataset=...)`.

    Args:
        columns: {role: column}, such as {"prompt": "Question"}; None finds the roles.
        metric: how answers are scored; None chooses one. seed: of the split into train, validation and test.

    Raises:
        DataError: the file cannot be read as a dataset.
    """
    from lora_playground.data.readers import read_file
    from lora_playground.data.uploads import store_once

    file = Path(path).expanduser()
    reading = read_file(file, mapping=catalogue.columns_of(columns))
    return store_once(reading, RunStore(home).home, file.name, seed, metric).name


class _ProgressPrinter:
    """Puts events of a training run into words: phases, messages, and about ten losses."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._steps, self._said = tell, 1, 0

    def event(self, event: dict[str, Any]) -> None:
        """Prints one event of a run, if it is of interest."""
        kind = event["type"]
        if kind == "plan":
            self._steps = max(1, event["steps"])
        elif kind == "phase":
            self._tell(f"  {event['phase']} ...")
        elif kind == "message":
            self._tell(f"  {event['level']}: {event['text']}")
        elif kind == "loss" and event["steps"] and event["steps"][-1] * 10 // self._steps > self._said:
            self._said = event["steps"][-1] * 10 // self._steps
            self._tell(f"  {event['steps'][-1]} of {counted(self._steps, 'step')}, loss {event['losses'][-1]:.3f}")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yields an event that Ctrl+C (or a notebook's stop button) sets; only in the main thread, which gets the
    signal."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


@cache
def _client(home: Path) -> ChatClient:
    """The client of one chat process for each home, which ends with this process."""
    client = ChatClient(home)
    atexit.register(client.close)
    return client


def _found(run: NotebookRun | str, home: Home) -> Run:
    return run.run if isinstance(run, NotebookRun) else RunStore(home).get(run)
