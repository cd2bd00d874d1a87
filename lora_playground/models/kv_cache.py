"""The attention keys and values of a batch whose rows join and leave, in buffers that are written in place.

All rows end at the same column, and each begins at its own: shorter rows are padded on the left. It knows nothing of
tokens.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class Buffers:
    """Keys and values of every layer. A layer's tensors are allocated when it is first written.

    Attributes:
        layers: (keys, values) of each layer, both (capacity, heads, columns, head size).
        rows: number of rows in use, which are the first ones. starts: the first column of each.
        end: the column after the last written one, the same for all rows.
        capacity, columns: allocated rows and columns.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.rows = self.end = self.capacity = self.columns = 0
        self.starts: list[int] = []

    @property
    def begin(self) -> int:
        """The first column that any row uses."""
        return min(self.starts, default=self.end)

    def reserve(self, rows: int, length: int) -> None:
        """Makes sure that `rows` rows fit, that a prompt of `length` tokens fits before `end`, and one more column
        after it. If they do not, everything is copied to larger tensors, and `end` and `starts` change."""
        if not self.rows:
            self.end, self.starts = 0, []
        if rows <= self.capacity and length <= self.end < self.columns:
            return
        written = slice(self.begin, self.end)
        end = max(self.end - self.begin, length)
        shift = end - self.end
        if rows > self.capacity:
            self.capacity = max(rows, 2 * self.capacity)
        if end >= self.columns * 3 // 4:
            self.columns = -(-(2 * end + 64) // 64) * 64
        for index, old in enumerate(self.layers):
            new = tuple(t.new_zeros(self.capacity, t.shape[1], self.columns, t.shape[3]) for t in old)
            for to, of in zip(new, old):
                to[: self.rows, :, written.start + shift : end] = of[: self.rows, :, written]
            self.layers[index] = new  # type: ignore[assignment]
        self.end = end
        self.starts = [start + shift for start in self.starts]

    def layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; allocated for tensors like these (rows, heads, length, head size) if it has
        none."""
        while len(self.layers) <= index:
            shapes = [(self.capacity, t.shape[1], self.columns, t.shape[3]) for t in (keys, values)]
            self.layers.append((keys.new_zeros(shapes[0]), values.new_zeros(shapes[1])))
        return self.layers[index]

    def copy(self, source: int, target: int) -> None:
        """Copies row `source` to row `target`."""
        start = self.starts[target] = self.starts[source]
        for tensor in (tensor for pair in self.layers for tensor in pair):
            tensor[target, :, start : self.end] = tensor[source, :, start : self.end]

    def drop(self, row: int) -> None:
        """Removes a row; the last row takes its index."""
        last = self.rows - 1
        if row != last:
            self.copy(last, row)
        self.starts.pop()
        self.rows = last


class Window(Cache):
    """The part of `Buffers` that one forward pass uses, as a cache of transformers: rows [first, last), columns from
    `begin` on. New keys and values are written from column `end` on.
    """

    def __init__(self, buffers: Buffers, first: int, last: int, begin: int, end: int) -> None:
        self.buffers, self.rows, self.begin, self.end = buffers, slice(first, last), begin, end
        # Models ask for a layer's length, for their masks, before its first write; `update` adds further layers.
        super().__init__(layers=[_Layer(self) for _ in buffers.layers])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes keys and values (rows, heads, T, head size) of a layer; returns all that these rows may attend to."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_Layer(self))
        keys, values = self.buffers.layer(layer_idx, key_states, value_states)
        stop = self.end + key_states.shape[-2]
        keys[self.rows, :, self.end : stop] = key_states
        values[self.rows, :, self.end : stop] = value_states
        return keys[self.rows, :, self.begin : stop], values[self.rows, :, self.begin : stop]


class _Layer(DynamicLayer):
    """One layer of a `Window`, which only returns lengths."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.window.end - self.window.begin
