"""Checks that a base that answers is unchanged, with the same forward pass, weights and updates that answer.

It knows decoding and fingerprints; nothing of runs or chats.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from lora_playground.models.batch import Row
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import Base, fingerprint_ids, sampled

VALID_SECONDS = 30.0
"""Seconds for which the result of a check beside the same adapters is reused."""


class BaseCheck:
    """Checks one base, and caches the results for a while.

    Args:
        base: with the fingerprint that was taken before anything was attached. decoder: answers with it.

    Attributes:
        limit: the largest drift that rounding alone can cause.
    """

    def __init__(self, base: Base, decoder: Decoder) -> None:
        self._base, self._decoder = base, decoder
        # Batches of different size round differently; a base that an adapter has changed differs by far more.
        self.limit = 1e-4 if base.dtype == torch.float32 else 0.05
        self._results: dict[frozenset[object], tuple[float, float]] = {}

    def drift(self, updates: Sequence[RowUpdate | None]) -> float:
        """Largest change of a logit, relative to the largest logit, for the fingerprint's prompt read by a base row
        beside rows with these updates. More than `limit` means that the base was changed."""
        adapted = [update for update in updates if update is not None]
        beside = frozenset(update.adapter.family for update in adapted)
        now = time.monotonic()
        self._results = {key: one for key, one in self._results.items() if now - one[0] < VALID_SECONDS}
        if beside not in self._results:
            self._results[beside] = now, self._measured([None, *adapted])
        return self._results[beside][1]

    def _measured(self, updates: list[RowUpdate | None]) -> float:
        """The drift of the first row: all but the last token of the prompt are read at once, the last by itself, as an
        answer's tokens are."""
        ids = fingerprint_ids(self._base.model)
        batch = self._decoder.batch()
        batch.add([Row(ids[:-1], update) for update in updates])
        with self._decoder.evaluating():
            logits = torch.stack([batch.read()[0], batch.read([ids[-1]] * len(updates))[0]])
        expected = torch.from_numpy(self._base.fingerprint.logits[-2:])
        return float((sampled(logits).cpu() - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
