"""Keys and values of a batch whose rows come and go, in buffers that are written in place.

Rows are left-padded: all end at the same column, each begins at its own. It knows nothing of what the rows say.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class Buffers:
    """Keys and values of all layers: per layer (capacity, heads, columns, head size), made at the first write.

    Attributes:
        rows: rows in use, 0..rows.
        end: the column after the last written one, the same for all rows.
        starts: first column of each row.
    """

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
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
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_zeros(capacity, old.shape[1], columns, old.shape[3])
                if self.rows:
                    new[: self.rows, :, begin + shift : self.end + shift] = old[: self.rows, :, begin : self.end]
                buffers[layer] = new
        self.capacity, self.columns = capacity, columns
        self.end += shift
        self.starts = [start + shift for start in self.starts]

    def layer(self, index: int, like: torch.Tensor, like_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of a layer; `like` (rows, heads, length, head size) gives shape, type and device of a new one."""
        while len(self.keys) <= index:
            for buffers, tensor in ((self.keys, like), (self.values, like_values)):
                buffers.append(tensor.new_zeros(self.capacity, tensor.shape[1], self.columns, tensor.shape[3]))
        return self.keys[index], self.values[index]

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
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[target, :, start : self.end] = buffer[source, :, start : self.end]
        self.starts[target] = start


def _rounded(columns: int) -> int:
    return -(-columns // 64) * 64


class Window(Cache):
    """The part of `Buffers` that one forward pass sees: rows first..last, columns begin..end, as a transformers cache.

    New keys and values are written at `end`; models ask it for lengths when they make their masks.
    """

    def __init__(self, buffers: Buffers, first: int, last: int, begin: int, end: int) -> None:
        self.buffers, self.first, self.last, self.begin, self.end = buffers, first, last, begin, end
        # Layers that exist already must say their length before the first write; in a new batch they are made lazily.
        super().__init__(layers=[_Layer(self, index) for index in range(len(buffers.keys))])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (rows, heads, T, head size) of a layer; returns all that the window's rows may attend to."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_Layer(self, len(self.layers)))
        keys, values = self.buffers.layer(layer_idx, key_states, value_states)
        stop = self.end + key_states.shape[-2]
        keys[self.first : self.last, :, self.end : stop] = key_states
        values[self.first : self.last, :, self.end : stop] = value_states
        rows = slice(self.first, self.last)
        return keys[rows, :, self.begin : stop], values[rows, :, self.begin : stop]


class _Layer(DynamicLayer):
    """One layer of a `Window`; it only tells lengths."""

    def __init__(self, window: Window, index: int) -> None:
        super().__init__()
        self.window, self.index = window, index
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.window.end - self.window.begin
