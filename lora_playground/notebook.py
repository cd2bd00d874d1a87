"""A few functions for a notebook or a script: train here, load a run, ask both models, see what was learned.

    from lora_playground import train, chat, spectra, load_run

Options, errors and answers are those of command line, page and API. Torch is imported when something needs it.
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
    """A run as a notebook shows it.

    Attributes:
        id, label, state: as everywhere. config: its RunConfig. folder: its files.
        losses: one an optimiser step. result: what `result.json` holds, {} while there is none.
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
    """What base and adapted models said to one question. Attributes: base; adapted: {run id: text}; prompt."""

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
    """Singular values of what a run has learned; shown as a picture of its strongest module.

    Attributes:
        modules: {module: {'name', 'shape', 'singular_values', 'effective_rank', 'stable_rank', ...}}.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.modules = {entry["name"]: entry for entry in spectra_of.numbers(run)["modules"]}

    def picture(self, module: str = "") -> bytes:
        """One module's singular values as a PNG; '' takes the strongest."""
        return spectra_of.picture(self._run, module)

    def _repr_png_(self) -> bytes:
        return self.picture()

    def __repr__(self) -> str:
        mean = sum(entry["effective_rank"] for entry in self.modules.values()) / max(1, len(self.modules))
        return f"{len(self.modules)} modules, {mean:.2f} directions used on average (effective rank)"


def train(home: Home = None, progress: Callable[[str], None] | None = print, **options: Any) -> NotebookRun:
    """Trains a run here, in this process, to its end, and returns it. Interrupting stops it after the current step.

    Args:
        home: where runs live; None takes LORA_PLAYGROUND_HOME or ~/.lora-playground.
        progress: told in words how far it is, a few times; None for silence.
        options: those of `lora-playground train`, with underscores: dataset, variant, rank, steps, seed, preset, ...

    Raises:
        ConfigError: an option is not allowed. Other errors of training, as the command line tells them.
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
        execute(run, stop.is_set, emit=_Teller(tell).event)
    return NotebookRun(run)


def load_run(run: str, home: Home = None) -> NotebookRun:
    """The run of that id; raises RunError where there is none."""
    return NotebookRun(RunStore(home).get(run))


def list_runs(home: Home = None) -> list[dict[str, Any]]:
    """All runs, newest first, one line each."""
    return [catalogue.run_row(run, run.state()) for run in RunStore(home).list()]


def spectra(run: NotebookRun | str, home: Home = None) -> Spectra:
    """Singular values of every module's update; raises RunError where the run has none yet."""
    return Spectra(_found(run, home))


def chat(prompt: str, *runs: NotebookRun | str, home: Home = None, **settings: Any) -> Answers:
    """Asks the base model and up to three runs the same, with the same noise.

    Args:
        runs: runs or their ids; none asks the base alone.
        settings: system, history, model, seed, temperature, top_p, max_new_tokens, strength, keep, as the endpoint has
            them.

    Raises:
        ConfigError, RunError, ChatError: each says what is allowed.
    """
    found = [_found(run, home) for run in runs]
    for run in found:
        run.require_update()
    place = found[0].folder.parent.parent if found else Path(home).expanduser() if home else default_home()
    given = {"history": None, "system": "", "model": None} | settings
    request = conversation.request(prompt, [run.id for run in found], who="", **given)

    async def ask() -> dict[str, Any]:
        said: dict[str, Any] = {}
        async for told in conversation.answers(_client(place), request):
            said = told
        return said

    with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own already
        said = thread.submit(asyncio.run, ask()).result()
    return Answers(prompt, said["base"], said["adapted"])


def estimate(home: Home = None, **options: Any) -> dict[str, Any]:
    """What a run with these options would cost: memory by cause in bytes, seconds, trained parameters."""
    from lora_playground.models.precision import probe

    machine = probe()
    return catalogue.estimated(RunStore(home), run_options.build(options), machine.device, machine.dtype)


def upload_dataset(path: Path | str, home: Home = None, columns: dict[str, str] | None = None,
                   metric: str | None = None, seed: int = 0) -> str:  # fmt: skip
    """Makes a dataset of a file, and returns its id for `train(dataset=...)`; raises DataError."""
    from lora_playground.data.readers import read_file
    from lora_playground.data.uploads import store_once

    file = Path(path).expanduser()
    reading = read_file(file, mapping=catalogue.columns_of(columns))
    return store_once(reading, RunStore(home).home, file.name, seed, metric).name


class _Teller:
    """Events of a training in words, about ten times a stretch."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._steps, self._said = tell, 1, 0

    def event(self, event: dict[str, Any]) -> None:
        """One event of a run."""
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
    """An event that an interrupt sets, where this is the thread that gets them."""
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
    """One chat process a home; it ends with this process."""
    client = ChatClient(home)
    atexit.register(client.close)
    return client


def _found(run: NotebookRun | str, home: Home) -> Run:
    return run.run if isinstance(run, NotebookRun) else RunStore(home).get(run)
