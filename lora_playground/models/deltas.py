"""The update of one module as tensors, and how it is added to the module's output for some rows of a batch.

ΔW is applied only here; W is only read. It knows nothing of runs, tokens or caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

Rows: TypeAlias = int | slice | torch.Tensor
"""Rows of a batch: one as its index, neighbours as a slice, others as a tensor of indices."""


@dataclass(frozen=True)
class Factors:
    """ΔW = B·A of a linear module, as At = Aᵀ (in, k) and Bt = Bᵀ (k, out); with a core ΔW = B·K·A, Kt = Kᵀ between."""

    At: torch.Tensor
    Bt: torch.Tensor
    Kt: torch.Tensor | None = None

    def add(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: Rows, strength: float) -> None:
        """Adds strength · ΔW x of some rows to y (R, T, out), in place; x is (R, T, in)."""
        read = _flat(x, rows).mm(self.At)
        _add_product(y, rows, read if self.Kt is None else read.mm(self.Kt), self.Bt, strength)


@dataclass(frozen=True)
class Dense:
    """ΔWᵀ (in, out) of a linear module."""

    Wt: torch.Tensor

    def add(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: Rows, strength: float) -> None:
        """Adds strength · ΔW x of some rows to y (R, T, out), in place; x is (R, T, in)."""
        _add_product(y, rows, _flat(x, rows), self.Wt, strength)


@dataclass(frozen=True)
class Bias:
    """Δb (out,) of a linear module."""

    b: torch.Tensor

    def add(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: Rows, strength: float) -> None:
        """Adds strength · Δb to some rows of y (R, T, out), in place."""
        _add(y, rows, self.b, strength)


@dataclass(frozen=True)
class Table:
    """ΔE (V, d) of an embedding's weight."""

    E: torch.Tensor

    def add(self, module: nn.Module, ids: torch.Tensor, y: torch.Tensor, rows: Rows, strength: float) -> None:
        """Adds strength · ΔE[ids] to some rows of y (R, T, d), in place; ids is (R, T). The module is called with ΔE as
        its weight, so that it applies its own scale, if it has one, as Gemma's does."""
        _add(y, rows, torch.func.functional_call(module, {"weight": self.E}, (ids[rows],)).to(y.dtype), strength)


@dataclass(frozen=True)
class Parameters:
    """Δp of the other parameters of a module, such as a norm's weight and bias, by name."""

    changes: dict[str, torch.Tensor]

    def add(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: Rows, strength: float) -> None:
        """Replaces some rows of y by the module's output with p + strength · Δp."""
        own = {name: getattr(module, name) for name in self.changes}
        changed = {name: p + strength * self.changes[name].to(p.dtype) for name, p in own.items()}
        y[rows] = torch.func.functional_call(module, changed, (x[rows],))


Delta = Factors | Dense | Bias | Table | Parameters


def _flat(x: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Some rows of a linear module's input (R, T, in), token by token: (R'·T, in)."""
    return x[rows] if isinstance(rows, int) else x[rows].flatten(0, 1)


def _add_product(y: torch.Tensor, rows: Rows, x: torch.Tensor, W: torch.Tensor, strength: float) -> None:
    """y[rows] += strength · x W, in place; x (R'·T, k), W (k, out)."""
    part = y[rows]
    if isinstance(rows, int):
        part.addmm_(x, W, alpha=strength)
        return
    part.view(-1, W.shape[1]).addmm_(x, W, alpha=strength)
    if isinstance(rows, torch.Tensor):  # then y[rows] is a copy
        y[rows] = part


def _add(y: torch.Tensor, rows: Rows, change: torch.Tensor, strength: float) -> None:
    """y[rows] += strength · change, in place."""
    part = y[rows].add_(change, alpha=strength)
    if isinstance(rows, torch.Tensor):  # then y[rows] is a copy
        y[rows] = part
