"""Reads a run's events: the only reader of `events.jsonl`, used by live view, plots, queue and command line.

A run is trained in one attempt or several. The first `plan` event of an attempt says after which step it continues;
what earlier attempts reported about later steps is dropped, since those steps are trained again. Further plans of the
same attempt only correct the number of steps, as for a time budget. It knows no figure and no page, and ignores unknown
types of events.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read_events(path: Path, offset: int = 0, most: int | None = None) -> tuple[list[Event], int]:
    """(events from byte `offset` on, the offset to continue from). An incomplete last line is left for the next call,
    damaged lines are skipped, a missing file has no events.

    Args:
        most: about how many bytes to read at most, but at least one line.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read() if most is None else file.read(most) + file.readline()
    except OSError:
        return [], offset
    whole = data.rfind(b"\n") + 1
    events = []
    for line in data[:whole].splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and "type" in event:
            events.append(event)
    return events, offset + whole


def history(events: Iterable[Event]) -> list[Event]:
    """All events, without those of steps that a later attempt trained again."""
    kept: list[Event] = []
    attempt = 1
    for event in events:
        if event["type"] == "plan" and event.get("attempt", 1) > attempt:
            attempt, start = event["attempt"], int(event.get("start_step", 0))
            kept = [cut for old in kept if (cut := _until(old, start)) is not None]
        kept.append(event)
    return kept


def _until(event: Event, last: int) -> Event | None:
    """An event without its values for steps after `last`; None if nothing is left of it."""
    if event["type"] != "loss":
        return None if isinstance(event.get("step"), int) and event["step"] > last else event
    keep = sum(1 for step in event["steps"] if step <= last)
    cut = {key: event[key][:keep] for key in ("steps", "losses", "learning_rates") if key in event}
    return event | cut if keep else None


@dataclass
class RunProgress:
    """What the events of one run have said. Only this class changes its attributes.

    Attributes:
        version: number of events read. changed: {type of event: version at which the last one was read}.
        attempt: number of the latest attempt, 0 before its first event.
        phase: its phase. clock: seconds from its start to its last event.
        plan: the latest `plan` event. steps, losses, learning_rates: one entry for each optimiser step.
        validation: (step, loss). probes: (step, answers). messages: (level, text).
        spectra: the latest `spectra` event. checkpoint: step of the latest checkpoint, 0 if there is none.
        partition, rounds: the `partition` event and the `round` events of a federated run.
        client: the name of the federated client that trains, or ''.
        eta: seconds from the last event until the run has its result; None if unknown.
        scoring: the latest `scoring` event of this attempt.
        download: (bytes of the base model that are downloaded, all bytes); (0, 0) if nothing had to be downloaded.
    """

    version: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    attempt: int = 0
    phase: str = ""
    clock: float = 0.0
    plan: Event = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    probes: list[tuple[int, list[dict[str, str]]]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    spectra: Event = field(default_factory=dict)
    checkpoint: int = 0
    partition: Event = field(default_factory=dict)
    rounds: list[Event] = field(default_factory=list)
    client: str = ""
    tokens_per_second: float = 0.0
    eta: float | None = None
    scoring: Event = field(default_factory=dict)
    download: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._offset = 0
        self._unplanned = True
        self._lengths = [(0, 0)]  # points of training and of validation, at each version
        self._cut_at = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, events: Iterable[Event]) -> RunProgress:
        """The progress after these events."""
        progress = cls()
        for event in events:
            progress.take(event)
        return progress

    @property
    def step(self) -> int:
        """The last optimiser step that has been reported."""
        return self.steps[-1] if self.steps else int(self.plan.get("start_step", 0))

    @property
    def planned(self) -> int:
        """The number of optimiser steps planned, 0 if unknown."""
        return int(self.plan.get("steps", 0))

    @property
    def curve_version(self) -> int:
        """The version at which the last loss, validation or plan was read."""
        return max(self.changed[name] for name in ("loss", "validation", "plan"))

    def spark(self, buckets: int = 20) -> tuple[float, ...]:
        """Mean losses over equal parts of the planned steps, for a small curve. Only complete parts, so it seldom
        changes."""
        width = max(1, self.planned // buckets)
        whole = len(self.losses) // width
        parts = (self.losses[number * width : (number + 1) * width] for number in range(min(whole, buckets)))
        return tuple(round(sum(part) / width, 3) for part in parts)

    def read(self, path: Path) -> RunProgress:
        """Reads the events that were appended to `path` since the last call. Thread-safe."""
        with self._lock:
            events, self._offset = read_events(path, self._offset)
            for event in events:
                self.take(event)
        return self

    def take(self, event: Event) -> None:
        """Adds one event."""
        kind = str(event["type"])
        self.version += 1
        self.changed[kind] = self.version
        if event.get("attempt", 1) > self.attempt:
            self.attempt, self._unplanned = event.get("attempt", 1), True
            self.phase, self.eta, self.scoring, self.download = "", None, {}, (0, 0)
        self.clock = float(event.get("t", self.clock))
        self.client = str(event.get("client", "")) if kind == "loss" else ""
        if (take := getattr(self, f"_take_{kind}", None)) is not None:
            take(event)
        self._lengths.append((len(self.steps), len(self.validation)))

    def _take_phase(self, event: Event) -> None:
        self.phase = event["phase"]

    def _take_plan(self, event: Event) -> None:
        self.plan = event
        if self._unplanned:
            self._unplanned = False
            self._cut(int(event.get("start_step", 0)))

    def _cut(self, start: int) -> None:
        """Drops what was reported about steps after `start`."""
        kept = sum(1 for step in self.steps if step <= start)
        # New lists, so that another thread that draws the old ones sees them unchanged.
        self.steps, self.losses = self.steps[:kept], self.losses[:kept]
        self.learning_rates = self.learning_rates[:kept]
        self.validation = [(step, loss) for step, loss in self.validation if step <= start]
        self.probes = [(step, answers) for step, answers in self.probes if step <= start]
        self.rounds = [event for event in self.rounds if event["step"] <= start]
        self.checkpoint = min(self.checkpoint, start)
        self._cut_at = self.version

    def _take_loss(self, event: Event) -> None:
        self.learning_rates += event.get("learning_rates", [])
        self.losses += [_number(loss) for loss in event["losses"]]
        self.steps += event["steps"]  # last, so that another thread finds a loss for every step
        self.tokens_per_second = event.get("tokens_per_second") or self.tokens_per_second
        self.eta = event.get("eta")

    def _take_validation(self, event: Event) -> None:
        self.validation.append((event["step"], _number(event["loss"])))

    def _take_spectra(self, event: Event) -> None:
        self.spectra = event

    def _take_probe(self, event: Event) -> None:
        self.probes.append((event["step"], event["answers"]))

    def _take_download(self, event: Event) -> None:
        self.download = (int(event["done"]), int(event["total"]))

    def _take_checkpoint(self, event: Event) -> None:
        self.checkpoint = event["step"]

    def _take_message(self, event: Event) -> None:
        self.messages.append((event.get("level", "info"), event["text"]))

    def _take_partition(self, event: Event) -> None:
        self.partition = event

    def _take_round(self, event: Event) -> None:
        self.rounds.append(event)

    def _take_scoring(self, event: Event) -> None:
        self.scoring, self.eta = event, event["eta"]

    def curve(self, since: int = 0) -> Event:
        """The points of the loss curve that are new since version `since`; 0, or a version that this run never had, for
        all points.

        Returns:
            {version, planned, kept, steps, losses, validation}: the last three are the new points, in which a loss that
            is not finite is None; `kept` is (training points, validation points) known at `since` that stay before
            them: all, or none if an attempt went back to a checkpoint.
        """
        with self._lock:
            steps, checks = self._lengths[since if self._cut_at <= since <= self.version else 0]
            return {
                "version": self.version,
                "kept": [steps, checks],
                "planned": self.planned,
                "steps": self.steps[steps:],
                "losses": [_finite(loss) for loss in self.losses[steps:]],
                "validation": [(step, _finite(loss)) for step, loss in self.validation[checks:]],
            }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
