"""Keeps only some singular directions of an update and scales them, without forming ΔW (m, n) from factors. It knows no
model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import ConfigError

Mode = Literal["all", "top", "bottom", "range", "one"]
MODES: tuple[Mode, ...] = ("all", "top", "bottom", "range", "one")


@dataclass(frozen=True)
class Truncation:
    """Which directions of every module's ΔW are kept, and how strongly.

    Attributes:
        mode: 'all'; 'top' the `k` strongest; 'bottom' the `k` weakest that are not zero; 'range' directions `first` to
            `last`; 'one' direction `first` alone. Directions count from 1, the strongest.
        k, first, last: used by the modes above.
        strength: factor of the kept part, −2 to 2. Below 0 the update is subtracted instead of added.
    """

    mode: Mode = "all"
    k: int = 0
    first: int = 1
    last: int = 1
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError("cut.mode", self.mode, f"choose one of {', '.join(MODES)}")
        for name, value, low in (("k", self.k, 0), ("first", self.first, 1), ("last", self.last, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"cut.{name}", value, f"give a whole number, at least {low}")
        if self.mode == "range" and self.last < self.first:
            raise ConfigError("cut.last", self.last, f"a range's last direction is at least its first ({self.first})")
        if isinstance(self.strength, bool) or not isinstance(self.strength, int | float):
            raise ConfigError("cut.strength", self.strength, "give a number from -2 to 2")
        if not -2.0 <= self.strength <= 2.0:
            raise ConfigError("cut.strength", self.strength, "give a number from -2 to 2")

    @classmethod
    def between(cls, low: int, high: int) -> Truncation:
        """Directions `low` to `high` − 1, counted from 0; (−k, 0) means the k weakest, of however many there are."""
        if low < 0:
            return cls("bottom", k=-low)
        if low == 0 or high <= low:
            return cls("top", k=max(0, high - low))
        return cls("range", first=low + 1, last=high)

    def kept(self, rank: int) -> slice:
        """The slice of `rank` directions, strongest first, that is kept."""
        bounds = {
            "all": (0, rank),
            "top": (0, self.k),
            "bottom": (rank - self.k, rank),
            "range": (self.first - 1, self.last),
            "one": (self.first - 1, self.first),
        }
        start, stop = bounds[self.mode]
        start, stop = min(max(start, 0), rank), min(max(stop, 0), rank)
        return slice(start, max(start, stop))

    def describe(self) -> str:
        """In words: 'the 2 strongest directions at strength 1'."""
        noun = "direction" if self.k == 1 else "directions"
        words = {
            "all": "all directions",
            "top": f"the {self.k} strongest {noun}" if self.k != 1 else "the strongest direction",
            "bottom": f"the {self.k} weakest {noun}" if self.k != 1 else "the weakest direction",
            "range": f"directions {self.first} to {self.last}",
            "one": f"direction {self.first} alone",
        }
        return words[self.mode] + ("" if self.strength == 1 else f" at strength {self.strength:g}")


@dataclass(frozen=True)
class _Parts:
    update: Update
    U: np.ndarray
    values: np.ndarray
    Vt: np.ndarray


class Decomposition:
    """A run's updates with their singular value decompositions, each computed once, when it is first needed.

    Args:
        updates: of all modules. A vector (norms and biases of full fine-tuning) counts as one direction, its strongest.
    """

    def __init__(self, updates: Iterable[Update]) -> None:
        self.updates = list(updates)
        self._parts: dict[str, _Parts] = {}

    def _decompose(self, update: Update) -> _Parts:
        if update.name not in self._parts:
            U, values, Vt = update_svd(update)
            used = nonzero(values)
            self._parts[update.name] = _Parts(update, U[:, :used], values[:used], Vt[:used])
        return self._parts[update.name]

    @property
    def rank(self) -> int:
        """The most directions any module has."""
        return max((self._decompose(u).values.size for u in self.updates if len(u.shape) == 2), default=0)

    def truncate(self, truncation: Truncation) -> list[Update]:
        """The truncated updates; an empty list if no direction is kept or the strength is 0.

        If all directions of an update are kept and the strength is 1, the same Update object is returned, so that
        answers are identical to those of the whole adapter.
        """
        if truncation.strength == 0 or not any(self._keeps(update, truncation) for update in self.updates):
            return []
        result = []
        for update in self.updates:
            left = self._truncate_one(update, truncation)
            if left is not None:
                result.append(left)
        return result

    def _keeps(self, update: Update, truncation: Truncation) -> bool:
        if truncation.mode == "all":
            return True
        if truncation.mode in ("top", "bottom") and truncation.k == 0:
            return False
        kept = truncation.kept(self._decompose(update).values.size if len(update.shape) == 2 else 1)
        return kept.stop > kept.start

    def _truncate_one(self, update: Update, truncation: Truncation) -> Update | None:
        if truncation.mode == "all":
            return scaled(update, truncation.strength)
        if len(update.shape) != 2:
            return scaled(update, truncation.strength) if self._keeps(update, truncation) else None
        parts = self._decompose(update)
        kept = truncation.kept(parts.values.size)
        if kept.start == 0 and kept.stop == parts.values.size:
            return scaled(update, truncation.strength)
        if kept.start == kept.stop:
            return None
        # Both factors get √σ, so that neither overflows a half precision type.
        root = np.sqrt(parts.values[kept])
        B = parts.U[:, kept] * (root * truncation.strength)
        A = root[:, None] * parts.Vt[kept]
        return Update(update.name, B.astype(np.float32), A.astype(np.float32))

    def energy(self, truncation: Truncation) -> float:
        """Share of Σ‖ΔW‖_F² over all matrices that is kept at strength 1."""
        kept = total = 0.0
        for update in self.updates:
            if len(update.shape) == 2:
                squares = self._decompose(update).values ** 2
                kept += float(squares[truncation.kept(squares.size)].sum())
                total += float(squares.sum())
        return kept / total if total else 0.0


def scaled(update: Update, strength: float) -> Update:
    """The update times `strength`; the same object for 1."""
    if strength == 1:
        return update
    if update.B is not None and update.A is not None:
        return Update(update.name, (update.B * np.float32(strength)).astype(update.B.dtype), update.A)
    assert update.dense is not None
    return Update(update.name, dense=(update.dense * np.float32(strength)).astype(update.dense.dtype))


def energy_kept(spectra: dict[str, np.ndarray], truncation: Truncation) -> float:
    """As `Decomposition.energy`, from singular values alone."""
    kept = total = 0.0
    for values in spectra.values():
        squares = np.asarray(values, dtype=np.float64) ** 2
        used = squares[squares > 1e-14 * squares[0]] if squares.size and squares[0] > 0 else squares[:0]
        kept += float(used[truncation.kept(used.size)].sum())
        total += float(squares.sum())
    return kept / total if total else 0.0
