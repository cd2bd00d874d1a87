"""Per-row updates: y = W x + strength · ΔW x, where every row of a batch has a ΔW of its own, or none.

W is only read. This module knows modules and hooks; it knows nothing of tokens, caches or sampling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_playground.analysis.truncation import Truncation
from lora_playground.errors import ModelError
from lora_playground.models.placed_update import (
    Bias,
    Delta,
    Dense,
    Factors,
    Parameter,
    PlacedUpdate,
    Table,
    named_modules,
)

WIDEST_BLOCK = 128
"""Up to so many columns of A together, one product with a block-diagonal B beats one product for each module."""

# Beyond so many columns one product for all adapters costs more than one product per adapter.
SHARED_COLUMNS = 256


@dataclass(frozen=True, eq=False)
class RowUpdate:
    """What one row of a batch gets.

    Attributes:
        adapter: the update, placed on the model.
        strength: factor on ΔW, 0 to 2 in the app; 0 is the base.
        truncation: which singular directions of every ΔW are kept; None keeps all. Its strength is not used here.
    """

    adapter: PlacedUpdate
    strength: float = 1.0
    truncation: Truncation | None = None


@dataclass
class Product:
    """x·At·Bt added to rows; `rows` None means all rows, `scale` (R, K) or None (one everywhere).

    `run` says the same where it can: (first row, how many, strength) of
    neighbouring rows with one adapter at one strength.
    """

    At: torch.Tensor
    Bt: torch.Tensor
    rows: torch.Tensor | None
    scale: torch.Tensor | None
    run: tuple[int, int, float] | None = None


class Linear:
    """What one linear module adds to a batch's output."""

    def __init__(self) -> None:
        self.products: list[Product] = []
        self.dense: list[tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]] = []
        self.bias: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether it is one product for all rows and nothing else, so that it can be joined with its neighbours'."""
        return len(self.products) == 1 and self.products[0].rows is None and not self.dense and self.bias is None

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x (R, T, in), y (R, T, out), which is changed and returned."""
        if x.dim() != 3:
            raise ModelError(
                "This model flattens its batch before a module that has an update; it cannot decode row by row."
            )
        R, T, _ = x.shape
        for product in self.products:
            if product.rows is None:
                t = x.reshape(R * T, -1) @ product.At
                if product.scale is not None:
                    t = t.mul_(product.scale) if T == 1 else (t.view(R, T, -1) * product.scale[:, None]).view(R * T, -1)
                y.view(R * T, -1).addmm_(t, product.Bt)
            else:
                t = x[product.rows] @ product.At
                if product.scale is not None:
                    t = t * product.scale[:, None]
                y.index_add_(0, product.rows, t @ product.Bt)
        for rows, Wt, strength in self.dense:
            if rows is None:
                y += (x @ Wt) * strength
            else:
                y.index_add_(0, rows, (x[rows] @ Wt) * strength)
        if self.bias is not None:
            y += self.bias
        return y


class Lookup:
    """Adds ΔE[ids] to the rows of an embedding's output."""

    def __init__(self) -> None:
        self.parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add(self, module: nn.Module, ids: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """ids (R, T), y (R, T, d). The module itself is called on ΔE, so that its own scale (Gemma) is applied."""
        for rows, E, strength in self.parts:
            delta = torch.func.functional_call(module, {"weight": E}, (ids[rows],))
            y = y.index_add(0, rows, delta.to(y.dtype) * strength)
        return y


class Replaced:
    """Calls a module again for some rows with other parameters."""

    def __init__(self) -> None:
        self.parts: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def add(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x (R, ...), y (R, ...)."""
        y = y.clone()
        for rows, parameters in self.parts:
            y[rows] = torch.func.functional_call(module, parameters, (x[rows],))
        return y


Operation = Linear | Lookup | Replaced


class Planner:
    """Turns the updates of a batch's rows into one `Plan`; keeps what plans have in common, and the last `keep` plans
    (for a model whose modules stay)."""

    def __init__(self, model: nn.Module, keep: int = 0) -> None:
        self._modules = named_modules(model)
        self._keep = keep
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._joined: OrderedDict[Any, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def plan(self, rows: Sequence[RowUpdate | None]) -> Plan:
        """The plan of a batch whose row i has rows[i]; one of the last few, where it is asked for again."""
        # The adapters are part of the key, not their ids, which might be given to others.
        key = tuple(None if row is None else (row.adapter, row.strength, row.truncation) for row in rows)
        found = self._plans.pop(key, None) or self._plan(rows)
        if self._keep:
            self._plans[key] = found
            while len(self._plans) > self._keep:
                self._plans.popitem(last=False)
        return found

    def _plan(self, rows: Sequence[RowUpdate | None]) -> Plan:
        groups: dict[tuple[int, Truncation | None], list[int]] = {}
        for index, row in enumerate(rows):
            if row is not None and row.strength != 0.0:
                groups.setdefault((id(row.adapter), row.truncation), []).append(index)
        by_module: dict[str, list[tuple[list[int], Delta]]] = {}
        for indices in groups.values():
            row = rows[indices[0]]
            assert row is not None
            for name, deltas in row.adapter.slice(row.truncation).items():
                for delta in deltas:
                    by_module.setdefault(name, []).append((indices, delta))
        strengths = [0.0 if row is None else row.strength for row in rows]
        builder = _Builder(self, strengths)
        return Plan(
            {
                name: (self._modules[name], builder.operation(name, self._modules[name], parts))
                for name, parts in by_module.items()
            },
            len(rows),
        )

    def joined(self, name: str, factors: list[Factors]) -> tuple[torch.Tensor, torch.Tensor]:
        """All factors of a module side by side: At (in, K), Bt (K, out)."""
        if len(factors) == 1:
            return factors[0].At, factors[0].Bt
        key = (name, *(id(f.At) for f in factors))
        if key not in self._joined:
            # The factors are kept beside their join, so that an id is not given to another tensor meanwhile.
            self._joined[key] = (torch.cat([f.At for f in factors], 1), torch.cat([f.Bt for f in factors], 0), factors)  # type: ignore[assignment]
            while len(self._joined) > 2048:
                self._joined.popitem(last=False)
        self._joined.move_to_end(key)
        return self._joined[key][:2]


class _Builder:
    """Operations of one plan; scales and row indices are shared between modules."""

    def __init__(self, planner: Planner, strengths: list[float]) -> None:
        self.planner, self.strengths = planner, strengths
        self._scales: dict[Any, torch.Tensor | None] = {}
        self._indices: dict[Any, torch.Tensor] = {}

    def operation(self, name: str, module: nn.Module, parts: list[tuple[list[int], Delta]]) -> Operation:
        if any(isinstance(delta, Table) for _, delta in parts):
            lookup = Lookup()
            for indices, delta in parts:
                assert isinstance(delta, Table)
                lookup.parts.append((self._rows(indices, delta.E), delta.E, self._strength(indices, delta.E)))
            return lookup
        if any(isinstance(delta, Parameter) for _, delta in parts):
            return self._replaced(module, parts)
        return self._linear(name, parts)

    def _linear(self, name: str, parts: list[tuple[list[int], Delta]]) -> Linear:
        operation = Linear()
        factored = [(indices, delta) for indices, delta in parts if isinstance(delta, Factors)]
        widths = [delta.At.shape[1] for _, delta in factored]
        if factored and (len(factored) == 1 or sum(widths) <= SHARED_COLUMNS):
            At, Bt = self.planner.joined(name, [delta for _, delta in factored])
            scale = self._scale([indices for indices, _ in factored], widths, At)
            run = self._run(factored[0][0]) if len(factored) == 1 else None
            operation.products.append(Product(At, Bt, None, scale, run))
        else:
            for indices, factors in factored:
                own = self._strength(indices, factors.At)[:, 0]
                operation.products.append(Product(factors.At, factors.Bt, self._rows(indices, factors.At), own))
        total = len(self.strengths)
        for indices, delta in parts:
            if isinstance(delta, Dense):
                everywhere = len(indices) == total
                rows = None if everywhere else self._rows(indices, delta.Wt)
                operation.dense.append((rows, delta.Wt, self._strength(indices, delta.Wt)))
            elif isinstance(delta, Bias):
                if operation.bias is None:
                    operation.bias = delta.b.new_zeros(total, 1, delta.b.shape[0])
                operation.bias[self._rows(indices, delta.b)] += delta.b * self._strength(indices, delta.b)
        return operation

    def _replaced(self, module: nn.Module, parts: list[tuple[list[int], Delta]]) -> Replaced:
        """One call for each set of rows with the same adapter and strength."""
        calls: dict[tuple[float, tuple[int, ...]], dict[str, torch.Tensor]] = {}
        for indices, delta in parts:
            assert isinstance(delta, Parameter)
            W = getattr(module, delta.leaf)
            for strength in sorted({self.strengths[i] for i in indices}):
                rows = tuple(i for i in indices if self.strengths[i] == strength)
                calls.setdefault((strength, rows), {})[delta.leaf] = W + strength * delta.delta.to(W.dtype)
        operation = Replaced()
        for (_, rows), parameters in calls.items():
            operation.parts.append((self._rows(list(rows), next(iter(parameters.values()))), parameters))
        return operation

    def _scale(self, groups: list[list[int]], widths: list[int], like: torch.Tensor) -> torch.Tensor | None:
        """(R, K): a row's strength on its own adapter's columns, zero elsewhere; None where all would be one."""
        key = (tuple(map(tuple, groups)), tuple(widths))
        if key not in self._scales:
            if len(groups) == 1 and len(groups[0]) == len(self.strengths) and set(self.strengths) == {1.0}:
                self._scales[key] = None
            else:
                scale = torch.zeros(len(self.strengths), sum(widths))
                column = 0
                for indices, width in zip(groups, widths):
                    for index in indices:
                        scale[index, column : column + width] = self.strengths[index]
                    column += width
                self._scales[key] = scale.to(device=like.device, dtype=like.dtype)
        return self._scales[key]

    def _run(self, indices: list[int]) -> tuple[int, int, float] | None:
        """(first, count, strength) of neighbouring rows with one strength."""
        first, strengths = indices[0], {self.strengths[index] for index in indices}
        neighbours = indices == list(range(first, first + len(indices)))
        return (first, len(indices), strengths.pop()) if neighbours and len(strengths) == 1 else None

    def _rows(self, indices: list[int], like: torch.Tensor) -> torch.Tensor:
        key = ("rows", tuple(indices))
        if key not in self._indices:
            self._indices[key] = torch.tensor(indices, device=like.device)
        return self._indices[key]

    def _strength(self, indices: list[int], like: torch.Tensor) -> torch.Tensor:
        key = ("strength", tuple(indices))
        if key not in self._indices:
            values = [self.strengths[i] for i in indices]
            self._indices[key] = torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
        return self._indices[key]


@dataclass
class Joint:
    """Products of several modules that read the same x: x·At once, then each module's columns times its Bt.

    Attributes:
        scale, run: as in `Product`; where `run` is not None, `scale` need not be looked at.
        columns: of x·At, for each module that adds something.
        places: its columns of all modules' outputs side by side, `width` in all.
    """

    At: torch.Tensor
    scale: torch.Tensor | None
    Bts: list[torch.Tensor]
    columns: list[tuple[int, int]]
    places: list[tuple[int, int]]
    width: int
    run: tuple[int, int, float] | None = None
    _block: torch.Tensor | None = None

    @property
    def narrow(self) -> bool:
        """Whether one product with `block` is cheaper than one for each module."""
        return len(self.Bts) == 1 or self.At.shape[1] <= WIDEST_BLOCK

    def block(self) -> torch.Tensor:
        """Every Bt at its place (K, width), zeros elsewhere."""
        if self._block is None:
            if len(self.Bts) == 1 and self.Bts[0].shape[1] == self.width:
                self._block = self.Bts[0]
            else:
                self._block = self.At.new_zeros(self.At.shape[1], self.width)
                for Bt, (low, high), (start, end) in zip(self.Bts, self.columns, self.places):
                    self._block[low:high, start:end] = Bt
        return self._block


def _join(operations: Sequence[Operation | None], widths: Sequence[int], rows: int) -> Joint | None:
    products, places, columns, start, first = [], [], [], 0, 0
    for operation, width in zip(operations, widths):
        if operation is not None:
            if not isinstance(operation, Linear) or not operation.plain:
                return None
            products.append(operation.products[0])
            places.append((start, start + width))
            columns.append((first, first + products[-1].At.shape[1]))
            first = columns[-1][1]
        start += width
    if not products:
        return None
    runs = {product.run for product in products}
    run = runs.pop() if len(runs) == 1 else None
    scale = None
    if run is None and any(product.scale is not None for product in products):
        parts = [p.At.new_ones(rows, p.At.shape[1]) if p.scale is None else p.scale for p in products]
        scale = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    At = products[0].At if len(products) == 1 else torch.cat([product.At for product in products], 1)
    return Joint(At, scale, [product.Bt for product in products], columns, places, start, run)


class Plan:
    """What every module adds for one composition of a batch.

    Attributes:
        operations: module name → (module, what it adds).
        rows: number of rows the plan is for.
        fused: what `models.fused` made of it, kept with it.
    """

    def __init__(self, operations: dict[str, tuple[nn.Module, Operation]], rows: int) -> None:
        self.operations, self.rows = operations, rows
        self.fused: Any = None
        self._joint: dict[tuple[str, ...], Joint | None] = {}

    def joint(self, names: tuple[str, ...], widths: Sequence[int]) -> Joint | None:
        """What modules that read the same input, with so many outputs each, add in common: one product with all their
        A at once. None where nothing is added, or more than one shared product by one of them."""
        if names not in self._joint:
            found = [self.operations[name][1] if name in self.operations else None for name in names]
            self._joint[names] = _join(found, widths, self.rows)
        return self._joint[names]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Forward hooks on the modules for as long as the context lasts; the base model is as before afterwards."""
        handles = [module.register_forward_hook(_hook(operation)) for module, operation in self.operations.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(operation: Operation) -> Any:
    if isinstance(operation, Linear):
        return lambda module, args, output: operation.add(args[0], output)
    inside = False

    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        # functional_call calls the same module and so this hook again; the inner call must go through untouched.
        nonlocal inside
        if inside:
            return None
        inside = True
        try:
            return operation.add(module, args[0], output)
        finally:
            inside = False

    return hook
