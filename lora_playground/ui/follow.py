"""Follows run folders: reads what was appended since the last look; one digest a run for all browsers together.

It knows no Gradio and changes nothing; a run that is gone simply has no digest any more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_playground.runs import Run

KEPT = 64
"""Digests kept in memory; the least recently looked at goes first, and is read again from its folder when needed."""


@dataclass
class Digest:
    """What the events of one run say so far.

    Attributes:
        version: grows by the number of events read; equal versions mean that nothing is new.
        curve: version of what the loss plot shows; picture: of what the spectrum plots show; asked: of the probes.
        steps, losses: one entry an optimiser step. validation: (step, loss). probes: (step, answers).
        download: bytes of the base model that are here, and in all; (0, 0) where none had to be fetched.
        spectra: the newest `spectra` event. seen: values of that module and step, for the growing scree.
    """

    version: int = 0
    curve: int = 0
    picture: int = 0
    asked: int = 0
    attempt: int = 1
    phase: str = ""
    clock: float = 0.0
    plan: dict[str, Any] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    spectra: dict[str, Any] = field(default_factory=dict)
    probes: list[tuple[int, list[dict[str, str]]]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    tokens_per_second: float = 0.0
    eta: float | None = None
    checkpoint: int = 0
    download: tuple[int, int] = (0, 0)
    offset: int = 0

    @property
    def step(self) -> int:
        """The last optimiser step that was reported."""
        return self.steps[-1] if self.steps else int(self.plan.get("start_step", 0))

    def spark(self, buckets: int = 20) -> tuple[float, ...]:
        """Mean losses of equal parts of the planned steps; only whole parts, so that it seldom changes."""
        planned = int(self.plan.get("steps", 0))
        width = max(1, planned // buckets)
        whole = len(self.losses) // width
        parts = (self.losses[number * width : (number + 1) * width] for number in range(min(whole, buckets)))
        return tuple(round(sum(part) / width, 3) for part in parts)

    def take(self, event: dict[str, Any]) -> None:
        """Adds one event; unknown types are left alone, so that an older page can follow a newer worker."""
        self.version += 1
        self.clock = float(event.get("t", self.clock))
        self.attempt = int(event.get("attempt", self.attempt))
        reader = getattr(self, f"_take_{event.get('type')}", None)
        if reader is not None:
            reader(event)

    def _take_phase(self, event: dict[str, Any]) -> None:
        self.phase = event["phase"]

    def _take_plan(self, event: dict[str, Any]) -> None:
        self.plan = event
        # A resumed run goes on from a checkpoint: what came after that checkpoint is trained again.
        start = int(event.get("start_step", 0))
        kept = [index for index, step in enumerate(self.steps) if step <= start]
        self.steps, self.losses = [self.steps[i] for i in kept], [self.losses[i] for i in kept]
        self.validation = [(step, loss) for step, loss in self.validation if step <= start]
        self.probes = [(step, answers) for step, answers in self.probes if step <= start]
        self.curve += 1

    def _take_loss(self, event: dict[str, Any]) -> None:
        self.steps += event["steps"]
        self.losses += event["losses"]
        self.tokens_per_second = event.get("tokens_per_second") or self.tokens_per_second
        self.eta = event.get("eta")
        self.curve += 1

    def _take_validation(self, event: dict[str, Any]) -> None:
        self.validation.append((event["step"], event["loss"]))
        self.curve += 1

    def _take_spectra(self, event: dict[str, Any]) -> None:
        self.spectra = event
        self.picture += 1

    def _take_probe(self, event: dict[str, Any]) -> None:
        self.probes.append((event["step"], event["answers"]))
        self.asked += 1

    def _take_download(self, event: dict[str, Any]) -> None:
        self.download = (int(event["done"]), int(event["total"]))

    def _take_checkpoint(self, event: dict[str, Any]) -> None:
        self.checkpoint = event["step"]

    def _take_message(self, event: dict[str, Any]) -> None:
        self.messages.append((event.get("level", "info"), event["text"]))


class Follower:
    """Digests of runs, read on demand; safe to call from many threads."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, Digest] = OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def look(self, run: Run) -> Digest:
        """The digest of `run`, brought up to date. Readers treat it as read-only."""
        with self._lock:
            digest = self._digests.setdefault(run.id, Digest())
            self._digests.move_to_end(run.id)
            lock = self._locks.setdefault(run.id, threading.Lock())
            while len(self._digests) > KEPT:
                gone, _ = self._digests.popitem(last=False)
                self._locks.pop(gone, None)
        with lock:
            events, digest.offset = run.events(digest.offset)
            for event in events:
                digest.take(event)
        return digest
