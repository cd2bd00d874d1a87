"""Shows on standard error how far a command has come: as a bar on a terminal, else as plain lines.

It takes a run's events (docs/architecture.md) or a count of rows, and starts nothing.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_LINES = 10
"""Number of lines from 0 to 100%, without a terminal."""


class Progress:
    """Shows a command's progress. Used as a context manager, which removes the bar at the end."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._name = ""
        self._said = 0
        self._steps = 0
        self._seen = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def count(self, done: int, total: int, unit: str = "rows", left: float | None = None, beside: str = "") -> None:
        """Shows that `done` of `total` are done.

        Args:
            unit: what is counted; when it changes, a new bar begins.
            left: seconds until the end; None estimates them from the pace.
            beside: further text to show, such as the loss.
        """
        if unit != self._name:
            self._end()
            self._name, self._said = unit, 0
            if sys.stderr.isatty():
                shape = "  {desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
                self._bar = tqdm(total=total, desc=unit, file=sys.stderr, leave=False, bar_format=shape, initial=0)
        shown = [*([beside] if beside else []), *([f"{_duration(left)} left"] if left is not None else [])]
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
            self._bar.n = done
            self._bar.refresh()
        elif done * _LINES // max(1, total) > self._said or done >= total > self._said:
            self._said = total if done >= total else done * _LINES // max(1, total)
            print("  " + ", ".join([f"{done:,} of {total:,} {unit}", *shown]), file=sys.stderr)

    def event(self, event: dict[str, Any]) -> None:
        """Shows one event of a run."""
        kind = event["type"]
        if kind == "phase":
            self._end()
            self.say(f"  {event['phase']} ...")
        elif kind == "plan":
            self._steps = event["steps"]
        elif kind == "loss" and event["steps"]:
            beside = f"loss {event['losses'][-1]:.3f}"
            self.count(event["steps"][-1], self._steps or event["steps"][-1], "steps", event.get("eta"), beside)
        elif kind == "scoring":
            self.count(event["done"], event["of"], "rows", event.get("eta"))
        elif kind == "validation":
            self.say(f"  step {event['step']}: validation loss {event['loss']:.3f}")
        elif kind == "download":
            self.download(event["done"], event["total"])
        elif kind == "message":
            self.say(f"  {event['level']}: {event['text']}")
        elif kind == "round" and event["round"]:
            self.say(f"  {_round(event)}")

    def download(self, done: int, total: int) -> None:
        """Shows that `done` of `total` bytes were downloaded, at most once a second."""
        if done >= total or time.monotonic() - self._seen >= 1.0:
            self._seen = time.monotonic()
            self.count(round(done / 1e6), max(1, round(total / 1e6)), "MB")

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _round(event: dict[str, Any]) -> str:
    """A federated round in words."""
    parts = [f"round {event['round']}"]
    if event.get("score") is not None:
        parts.append(f"score {100 * event['score']:.0f}%")
    if event.get("error") is not None:
        parts.append("exact" if event["error"] < 1e-5 else f"aggregation error {100 * event['error']:.0f}%")
    sent = event["bytes"]
    return ", ".join([*parts, f"{sent['up'] / 1e6:.2f} MB up, {sent['down'] / 1e6:.2f} MB down"])
