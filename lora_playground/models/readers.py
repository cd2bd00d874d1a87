"""Run the forward pass for the rows of a batch: with cached keys and values, or on the whole text for every token.

They know token ids, a forward pass and per-row updates; nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lora_playground.models.batched_lora import BatchUpdate, RowUpdate, batch_update
from lora_playground.models.kv_cache import Buffers, Window
from lora_playground.models.llama_forward import LlamaForward
from lora_playground.models.transformers_forward import TransformersForward

Updates = Sequence[RowUpdate | None]


class CachedReader:
    """Caches keys and values. Prompts that are read together are padded on the left."""

    def __init__(self, forward: LlamaForward | TransformersForward) -> None:
        self._forward = forward
        self._buffers = Buffers()
        self._update: BatchUpdate | None = None  # of all rows; None after one joined or left

    def tokens(self, ids: Sequence[int], updates: Updates) -> torch.Tensor:
        """Every row reads one more token; logits (rows, V)."""
        buffers = self._buffers
        buffers.reserve(buffers.rows, 0)
        if self._update is None:
            self._update = batch_update(self._forward.model, updates)
        window = Window(buffers, 0, buffers.rows, buffers.begin, buffers.end)
        starts = torch.tensor(buffers.starts)[:, None]
        with self._update.applied(1):
            logits = self._forward(window, torch.tensor(ids)[:, None], starts, buffers.end - starts)
        buffers.end += 1
        return logits

    def prompts(self, prompts: Sequence[list[int]], updates: Updates) -> torch.Tensor:
        """New rows read their prompts; logits (new rows, V) at the last tokens."""
        buffers, longest = self._buffers, max(map(len, prompts))
        first, last = buffers.rows, buffers.rows + len(prompts)
        buffers.reserve(last, longest)
        begin = buffers.end - longest
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        buffers.starts.extend(buffers.end - len(prompt) for prompt in prompts)
        starts = torch.tensor(buffers.starts[first:])[:, None]
        positions = (torch.arange(begin, buffers.end)[None] - starts).clamp_min(0)
        with batch_update(self._forward.model, updates).applied(longest):
            logits = self._forward(Window(buffers, first, last, begin, begin), ids, starts, positions)
        buffers.rows = last
        self._update = None
        return logits

    def fork(self, row: int) -> None:
        """Adds a copy of a row as the last one."""
        buffers = self._buffers
        buffers.reserve(buffers.rows + 1, 0)
        buffers.starts.append(0)
        buffers.rows += 1
        buffers.copy(row, buffers.rows - 1)
        self._update = None

    def drop(self, row: int) -> None:
        """Frees a row's place; the last row takes it."""
        self._buffers.drop(row)
        self._update = None


class Rereader:
    """Reads each row's whole text for every token, rows of equal length together and never padded.

    For models whose answers padding would change (recurrent ones, rotations that depend on a row's length), and for
    those whose state is not keys and values.
    """

    def __init__(self, forward: TransformersForward) -> None:
        self._forward = forward
        self._texts: list[list[int]] = []

    def tokens(self, ids: Sequence[int], updates: Updates) -> torch.Tensor:
        """Every row reads one more token; logits (rows, V)."""
        for text, token in zip(self._texts, ids, strict=True):
            text.append(token)
        return self._read(self._texts, updates)

    def prompts(self, prompts: Sequence[list[int]], updates: Updates) -> torch.Tensor:
        """New rows read their prompts; logits (new rows, V) at the last tokens."""
        new = [list(prompt) for prompt in prompts]
        self._texts.extend(new)
        return self._read(new, updates)

    def fork(self, row: int) -> None:
        """Adds a copy of a row as the last one."""
        self._texts.append(list(self._texts[row]))

    def drop(self, row: int) -> None:
        """Frees a row's place; the last row takes it."""
        last = self._texts.pop()
        if row < len(self._texts):
            self._texts[row] = last

    def _read(self, texts: list[list[int]], updates: Updates) -> torch.Tensor:
        by_length: dict[int, list[int]] = {}
        for index, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(index)
        logits: list[torch.Tensor | None] = [None] * len(texts)
        for length, indices in by_length.items():
            with batch_update(self._forward.model, [updates[index] for index in indices]).applied(length):
                read = self._forward.whole(torch.tensor([texts[index] for index in indices]))
            for index, row in zip(indices, read):
                logits[index] = row
        return torch.stack(logits)  # type: ignore[arg-type]
