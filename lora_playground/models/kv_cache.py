"""Keys and values of a batch whose rows come and go, in buffers that are written in place.

Rows are left-padded: all end at the same column, each begins at its own. It knows nothing of what the rows say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True)
class Stored:
    """One layer's keys and values, each (capacity, heads, columns, head size).

    Attributes:
        both: (2, capacity, heads, columns, head size), of which they are the halves; None where their shapes differ.
    """

    keys: torch.Tensor
    values: torch.Tensor
    both: torch.Tensor | None

    @staticmethod
    def like(keys: torch.Tensor, values: torch.Tensor, capacity: int, columns: int) -> Stored:
        """Zeros for so many rows and columns, with the heads, type and device of (rows, heads, length, head size)."""
        shapes = [(capacity, tensor.shape[1], columns, tensor.shape[3]) for tensor in (keys, values)]
        if shapes[0] == shapes[1]:
            both = keys.new_zeros(2, *shapes[0])
            return Stored(both[0], both[1], both)
        return Stored(keys.new_zeros(shapes[0]), values.new_zeros(shapes[1]), None)


class Buffers:
    """Keys and values of all layers, made at the first write.

    Attributes:
        rows: rows in use, 0..rows.
        end: the column after the last written one, the same for all rows.
        starts: first column of each row.
        whole: (layers, 2, capacity, heads, columns, head size), of which `layers` are views; None where it was not
            said before the first write that all have one shape.
        reading: what `models.fused` keeps with them.
    """

    def __init__(self) -> None:
        self.layers: list[Stored] = []
        self.whole: torch.Tensor | None = None
        self.reading: Any = None
        self.rows = 0
        self.end = 0
        self.starts: list[int] = []
        self.capacity, self.columns = 0, 0

    @property
    def begin(self) -> int:
        """First column any row uses."""
        return min(self.starts, default=self.end)

    def make_room(self, rows: int, length: int) -> None:
        """Room for `rows` rows in all, for `length` columns before `end`, and for one column after it."""
        if not self.rows:
            self.end, self.starts = 0, []
        shift = 0
        begin = self.begin if self.rows else self.end
        if length > self.end or self.end + 1 > self.columns:
            used = max(self.end - begin, length)
            shift = used - self.end
            columns = self.columns if used + 1 <= self.columns * 3 // 4 else _rounded(2 * used + 64)
        else:
            columns = self.columns
        capacity = self.capacity if rows <= self.capacity else max(rows, self.capacity * 2)
        if shift == 0 and columns == self.columns and capacity == self.capacity:
            return
        self.capacity, self.columns = capacity, columns
        if self.whole is not None:
            old_whole, here = self.whole, slice(begin, self.end)
            self._spread(len(self.layers), old_whole.shape[3], old_whole.shape[5], old_whole)
            if self.rows:
                there = slice(begin + shift, self.end + shift)
                self.whole[:, :, : self.rows, :, there] = old_whole[:, :, : self.rows, :, here]
        for layer, old in enumerate(self.layers if self.whole is None else []):
            new = Stored.like(old.keys, old.values, capacity, columns)
            if self.rows:
                for to, of in ((new.keys, old.keys), (new.values, old.values)):
                    to[: self.rows, :, begin + shift : self.end + shift] = of[: self.rows, :, begin : self.end]
            self.layers[layer] = new
        self.end += shift
        self.starts = [start + shift for start in self.starts]

    def stack(self, count: int, heads: int, size: int, like: torch.Tensor) -> None:
        """Lets all layers lie in one tensor, where nothing was written yet."""
        if not self.layers:
            self._spread(count, heads, size, like)

    def _spread(self, count: int, heads: int, size: int, like: torch.Tensor) -> None:
        shape = (count, 2, self.capacity, heads, self.columns, size)
        if like.device.type == "cpu" and like.dtype == torch.float32:  # NumPy's cost nothing before they are written
            self.whole = torch.from_numpy(np.zeros(shape, np.float32))
        else:
            self.whole = like.new_zeros(shape)
        self.layers = [Stored(both[0], both[1], both) for both in self.whole]

    def layer(self, index: int, like: torch.Tensor, like_values: torch.Tensor) -> Stored:
        """The buffers of a layer; `like` (rows, heads, length, head size) gives shape, type and device of a new one."""
        while len(self.layers) <= index:
            self.layers.append(Stored.like(like, like_values, self.capacity, self.columns))
        return self.layers[index]

    def drop(self, row: int) -> None:
        """Frees a row: the last row takes its place."""
        last = self.rows - 1
        if row != last:
            self.copy(last, row)
        self.starts.pop()
        self.rows = last

    def copy(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`."""
        start = self.starts[source]
        self.starts[target] = start
        if self.whole is not None:
            self.whole[:, :, target, :, start : self.end] = self.whole[:, :, source, :, start : self.end]
            return
        for layer in self.layers:
            for buffer in (layer.keys, layer.values):
                buffer[target, :, start : self.end] = buffer[source, :, start : self.end]


def _rounded(columns: int) -> int:
    return -(-columns // 64) * 64


class Window(Cache):
    """The part of `Buffers` that one forward pass sees: rows first..last, columns begin..end, as a transformers cache.

    New keys and values are written at `end`; models ask it for lengths when they make their masks.
    """

    def __init__(self, buffers: Buffers, first: int, last: int, begin: int, end: int) -> None:
        self.buffers, self.first, self.last, self.begin, self.end = buffers, first, last, begin, end
        # Layers that exist already must say their length before the first write; in a new batch they are made lazily.
        super().__init__(layers=[_Layer(self, index) for index in range(len(buffers.layers))])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (rows, heads, T, head size) of a layer; returns all that the window's rows may attend to."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_Layer(self, len(self.layers)))
        stored = self.buffers.layer(layer_idx, key_states, value_states)
        stop = self.end + key_states.shape[-2]
        rows = slice(self.first, self.last)
        stored.keys[rows, :, self.end : stop] = key_states
        stored.values[rows, :, self.end : stop] = value_states
        return stored.keys[rows, :, self.begin : stop], stored.values[rows, :, self.begin : stop]

    def write(self, states: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `update`, from (rows, T, 2 · heads, head size): the keys' heads, then the values'."""
        rows, T, heads, size = states.shape
        moved = states.view(rows, T, 2, heads // 2, size).permute(2, 0, 3, 1, 4)
        both = self.buffers.layer(layer, moved[0], moved[1]).both
        assert both is not None  # keys and values were of one shape above
        if rows != both.shape[1]:
            both = both.narrow(1, self.first, rows)
        both.narrow(3, self.end, T).copy_(moved)
        keys, values = both.narrow(3, self.begin, self.end + T - self.begin).unbind(0)
        return keys, values


class _Layer(DynamicLayer):
    """One layer of a `Window`; it only tells lengths."""

    def __init__(self, window: Window, index: int) -> None:
        super().__init__()
        self.window, self.index = window, index
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.window.end - self.window.begin
