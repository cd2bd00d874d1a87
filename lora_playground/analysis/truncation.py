"""Cut an update down to some of its directions and scale it, from factors, never forming m × n. It knows no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_playground.analysis.spectra import nonzero, update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import ConfigError

Mode = Literal["all", "top", "bottom", "range", "one"]
MODES: tuple[Mode, ...] = ("all", "top", "bottom", "range", "one")


@dataclass(frozen=True)
class Cut:
    """Which directions of every module's ΔW stay, and how strongly.

    Attributes:
        mode: 'all'; 'top' the `k` strongest; 'bottom' the `k` weakest that are not zero; 'range' directions `first` to
            `last`; 'one' direction `first` alone. Directions count from 1, the strongest.
        k, first, last: as the mode needs them.
        strength: what is kept is multiplied by this; 0 to 2.
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
            raise ConfigError("cut.strength", self.strength, "give a number from 0 to 2")
        if not 0.0 <= self.strength <= 2.0:
            raise ConfigError("cut.strength", self.strength, "give a number from 0 to 2")

    def kept(self, rank: int) -> slice:
        """The slice of `rank` directions, strongest first, that stay."""
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


class Cutter:
    """A run's updates, decomposed once, so that every further cut is a slice.

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

    def cut(self, cut: Cut) -> list[Update]:
        """The updates that are left. Nothing cut and strength 1 gives the very same arrays back, so that an answer is
        identical to the untouched adapter's; nothing kept gives an empty list, which is the base."""
        if cut.strength == 0 or not any(self._keeps(update, cut) for update in self.updates):
            return []
        result = []
        for update in self.updates:
            left = self._cut_one(update, cut)
            if left is not None:
                result.append(left)
        return result

    def _keeps(self, update: Update, cut: Cut) -> bool:
        if cut.mode == "all":
            return True
        if cut.mode in ("top", "bottom") and cut.k == 0:
            return False
        kept = cut.kept(self._decompose(update).values.size if len(update.shape) == 2 else 1)
        return kept.stop > kept.start

    def _cut_one(self, update: Update, cut: Cut) -> Update | None:
        if cut.mode == "all":
            return scaled(update, cut.strength)
        if len(update.shape) != 2:
            return scaled(update, cut.strength) if self._keeps(update, cut) else None
        parts = self._decompose(update)
        kept = cut.kept(parts.values.size)
        if kept.start == 0 and kept.stop == parts.values.size:
            return scaled(update, cut.strength)
        if kept.start == kept.stop:
            return None
        # Both factors get √σ, so that neither overflows a half precision type.
        root = np.sqrt(parts.values[kept])
        B = parts.U[:, kept] * (root * cut.strength)
        A = root[:, None] * parts.Vt[kept]
        return Update(update.name, B.astype(np.float32), A.astype(np.float32))

    def energy(self, cut: Cut) -> float:
        """Share of Σ‖ΔW‖_F² over all matrices that the cut keeps, before its strength."""
        kept = total = 0.0
        for update in self.updates:
            if len(update.shape) == 2:
                squares = self._decompose(update).values ** 2
                kept += float(squares[cut.kept(squares.size)].sum())
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


def energy_kept(spectra: dict[str, np.ndarray], cut: Cut) -> float:
    """As `Cutter.energy`, from singular values alone."""
    kept = total = 0.0
    for values in spectra.values():
        squares = np.asarray(values, dtype=np.float64) ** 2
        used = squares[squares > 1e-14 * squares[0]] if squares.size and squares[0] > 0 else squares[:0]
        kept += float(used[cut.kept(used.size)].sum())
        total += float(squares.sum())
    return kept / total if total else 0.0
