"""The stored measurement of all lessons on the shipped base, and the texts that name figures of it.

`assets/lessons/figures.json` is made by `python benchmarks/lesson_figures.py`. A text writes {{r1.score}} and gets the
mean over the seeds that were measured, or with |range their least and most, so that no lesson names a number that
nobody measured.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lora_playground.config import FederatedConfig, RunConfig, options
from lora_playground.lessons.catalogue import SHIPPED, list_lessons
from lora_playground.lessons.quantities import Quantity, written
from lora_playground.lessons.schema import PLACEHOLDER, WORDS, Lesson
from lora_playground.runs.files import read_json
from lora_playground.variants import VARIANTS

FILE = SHIPPED / "figures.json"
_SIZES = (".rank", ".alpha")
STATED = {
    *("data.dataset", "data.rehearsal", "training.steps", "training.batch_tokens", "training.seed"),
    *(f"federated.{name}" for name in ("strategy", "clients", "rounds", "local_steps", "partition")),
}
"""Options that lessons' runs always set themselves, as they do rank and alpha of their variants. A change of their
defaults does not affect these runs."""


def digest(lesson: Lesson, key: str) -> str:
    """A digest of the options that a lesson's run sets, without title and seed. Figures with another digest are out of
    date. Options that the run leaves at their defaults are checked by `still_default`."""
    settings = lesson.runs[key].run_config().model_dump(mode="json", exclude={"title"}, exclude_unset=True)
    settings.get("training", {}).pop("seed", None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def defaults() -> dict[str, Any]:
    """{option: value} of what lessons' runs leave to the defaults: of data and training, of federated runs, and of the
    variants that lessons use, with their learning rates. Figures hold for runs with these defaults."""
    sections: dict[str, type[BaseModel]] = {"": RunConfig, "federated.": FederatedConfig}
    found = {option.path: option.default for start, section in sections.items() for option in options(section, start)}
    for config in (run.run_config().variant for lesson in list_lessons() for run in lesson.runs.values()):
        found |= {f"{config.name}.{option.path}": option.default for option in options(type(config))}
        found[f"{config.name}.learning_rate"] = VARIANTS[config.name].rate("embedded")
    return {path: value for path, value in sorted(found.items()) if path not in STATED and not path.endswith(_SIZES)}


def still_default(stored: dict[str, Any]) -> bool:
    """Whether the defaults equal `stored`, those that figures were measured with. Options that `stored` lacks do not
    count."""
    now = defaults()
    return all(path in now and now[path] == value for path, value in stored.items())


class Figures:
    """The stored measurement of one lesson.

    Attributes:
        runs: {key of the lesson's run: its `digest` when it was measured}.
        words: {key of the lesson's run: its first words, see `schema.PLACEHOLDER`}.
        values: {quantity: numbers, one a seed}.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.runs: dict[str, str] = data.get("runs", {})
        self.words: dict[str, list[str]] = data.get("words", {})
        self.values: dict[Quantity, list[float]] = {
            Quantity.parse(text): numbers for text, numbers in data.get("values", {}).items()
        }

    def mean(self, quantity: Quantity) -> float | None:
        """The mean over the seeds; None if nothing was measured."""
        numbers = self.values.get(quantity)
        return statistics.fmean(numbers) if numbers else None

    def means(self, quantities: Iterable[Quantity]) -> dict[Quantity, float]:
        """`mean` of those quantities that have been measured."""
        return {one: mean for one in quantities if (mean := self.mean(one)) is not None}

    def bounds(self, quantity: Quantity) -> tuple[float, float] | None:
        """The least and the most of the seeds."""
        numbers = self.values.get(quantity)
        return (min(numbers), max(numbers)) if numbers else None

    def fill(self, text: str) -> str:
        """The text with its figures; one that was not measured reads 'not measured yet'."""
        return PLACEHOLDER.sub(lambda match: self._named(match[1], bool(match[2])), text)

    def _named(self, name: str, spread: bool) -> str:
        if words := WORDS.fullmatch(name):
            return ", ".join(self.words.get(words[1], [])) or "(not measured yet)"
        return self._one(Quantity.parse(name), spread)

    def _one(self, quantity: Quantity, spread: bool) -> str:
        bounds, mean = self.bounds(quantity), self.mean(quantity)
        if bounds is None or mean is None:
            return "(not measured yet)"
        low, high = (written(one, quantity.unit) for one in bounds)
        if not spread or low == high:
            return written(mean, quantity.unit)
        return f"{low} to {high}"


def stored(name: str) -> Figures:
    """The stored measurement of a lesson; an empty one where there is none."""
    stamp = FILE.stat().st_mtime_ns if FILE.is_file() else 0
    return Figures(_read(stamp).get("lessons", {}).get(name, {}))


@lru_cache(maxsize=2)
def _read(stamp: int) -> dict[str, Any]:
    return read_json(FILE) or {}


def usual(value: float, bounds: tuple[float, float], unit: str) -> bool:
    """Whether a number agrees with what was measured over the seeds: it lies within their range, widened on both sides
    by the range itself and by a margin. The margin is 0.1 for shares, which few test questions measure no better, and
    an eighth of the larger bound for other numbers."""
    low, high = bounds
    tolerance = high - low + (0.1 if unit in ("%", "points") else 0.125 * max(abs(low), abs(high)))
    return low - tolerance <= value <= high + tolerance


def base_digest(folder: Path) -> str:
    """Digest of a base model's weights, to which figures belong."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
