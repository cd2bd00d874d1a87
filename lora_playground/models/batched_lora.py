"""Per-row updates: y = W x + strength · ΔW x, where every row of a batch has a ΔW of its own, or none.

W is only read. This module knows modules and hooks; it knows nothing of tokens, caches or sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from lora_playground.analysis.truncation import Truncation
from lora_playground.errors import ModelError
from lora_playground.models.deltas import Delta, Rows
from lora_playground.models.placed_update import named_modules


class Placed(Protocol):
    """An update or a mixture of updates that is placed on a model.

    Attributes:
        family: identifies adapters that `base_check` need not check separately.
    """

    @property
    def family(self) -> object: ...

    def slice(self, truncation: Truncation | None) -> dict[str, list[Delta]]:
        """Deltas by module name, of the singular directions that `truncation` keeps; None keeps all."""


@dataclass(frozen=True, eq=False)
class RowUpdate:
    """The update of one row of a batch.

    Attributes:
        adapter: the update, placed on the model.
        strength: factor on ΔW, −2 to 2 in the app; 0 is the base.
        truncation: which singular directions of every ΔW are kept; None keeps all.
        deltas: what each module adds; computed on the thread that makes this object, since truncation takes time.
    """

    adapter: Placed
    strength: float = 1.0
    truncation: Truncation | None = None
    deltas: dict[str, list[Delta]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", self.adapter.slice(self.truncation))


_Part: TypeAlias = tuple[Delta, Rows, float]
"""One delta, the rows of a batch that get it, and its strength."""


class BatchUpdate:
    """The updates of all modules for one composition of a batch.

    Args:
        modules: the model's modules by name.
        rows: the update of each row, None for the base.
    """

    def __init__(self, modules: dict[str, nn.Module], rows: Sequence[RowUpdate | None]) -> None:
        groups: dict[tuple[Placed, Truncation | None, float], list[int]] = {}
        for index, row in enumerate(rows):
            if row is not None and row.strength != 0.0:
                groups.setdefault((row.adapter, row.truncation, row.strength), []).append(index)
        device = next((module.weight.device for module in modules.values() if hasattr(module, "weight")), None)
        found: dict[str, list[_Part]] = {}
        for (_, _, strength), indices in groups.items():
            update, selected = rows[indices[0]], _selected(indices, device)
            assert update is not None
            for name, deltas in update.deltas.items():
                found.setdefault(name, []).extend((delta, selected, strength) for delta in deltas)
        self._rows = len(rows)
        self._length = 0  # of what is read while it is applied
        self._forwards = [(vars(modules[name]), self._adding(modules[name], parts)) for name, parts in found.items()]

    @contextmanager
    def applied(self, length: int) -> Iterator[None]:
        """Within the block the modules add their deltas.

        Args:
            length: T, how many tokens of each row are read.
        """
        # Not by forward hooks, since calling one takes longer than the small products for one token.
        self._length = length
        before = [own.get("forward") for own, _ in self._forwards]
        for own, forward in self._forwards:
            own["forward"] = forward
        try:
            yield
        finally:
            for (own, _), forward in zip(self._forwards, before):
                if forward is None:
                    del own["forward"]
                else:
                    own["forward"] = forward

    def _adding(self, module: nn.Module, parts: list[_Part]) -> Callable[..., torch.Tensor]:
        """The module's forward with its deltas added."""
        own, R, inside = module.forward, self._rows, False

        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            nonlocal inside
            y = own(x, *args, **kwargs)
            if not inside:  # a delta may call the module again, with other weights
                inside = True
                try:
                    x, by_row = _by_row(x, R, self._length), _by_row(y, R, self._length)
                    for delta, rows, strength in parts:
                        delta.add(module, x, by_row, rows, strength)
                finally:
                    inside = False
            return y

        return forward


def batch_update(model: nn.Module, rows: Sequence[RowUpdate | None]) -> BatchUpdate:
    """The update of a batch whose row i has rows[i]."""
    return BatchUpdate(named_modules(model), rows)


def _selected(indices: list[int], device: Any) -> Rows:
    """The rows as an index or a slice where they are one or neighbours, so that no tensor is copied."""
    first, last = indices[0], indices[-1]
    if first == last:
        return first
    if last - first + 1 == len(indices):
        return slice(first, last + 1)
    return torch.tensor(indices, device=device)


def _by_row(tensor: torch.Tensor, R: int, T: int) -> torch.Tensor:
    """A module's input or output, the R rows first. Models with experts have (R·T, d) before some modules, and those
    with latent attention (R, 1, columns, d), which become (R, T, d) and (R, columns, d)."""
    if tensor.dim() == 3 and tensor.shape[0] == R:
        return tensor
    *before, width = tensor.shape
    if tensor.is_floating_point() and before == [R * T]:
        return tensor.view(R, T, width)
    if len(before) == 3 and before[:2] == [R, 1]:
        return tensor.view(R, before[2], width)
    if tensor.shape[0] == R:
        return tensor
    raise ModelError(
        f"A module of this model reads {tuple(tensor.shape)} where {R} rows of {T} tokens are read, so that an update "
        "cannot be added row by row."
    )
