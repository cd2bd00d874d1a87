"""Is the base in the chat still the base? Checked with the very pass, weights and updates that answer.

It knows decoding and fingerprints; nothing of runs, sockets or panes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from lora_playground.chat.protocol import Verified
from lora_playground.models.batch import Row
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import Base, fingerprint_ids, sampled
from lora_playground.models.placed_update import PlacedUpdate

VALID_SECONDS = 30.0
"""For so long a check beside the same adapters counts."""


class BaseCheck:
    """Checks one base, and remembers the results for a while.

    Args:
        base: with the fingerprint that was taken before anything was attached.
        decoder: what answers with it.
    """

    def __init__(self, base: Base, decoder: Decoder) -> None:
        self._base, self._decoder = base, decoder
        self._results: dict[frozenset[PlacedUpdate], tuple[float, Verified]] = {}

    def verify(self, updates: Sequence[RowUpdate | None]) -> Verified:
        """Decodes the fingerprint's prompt as a base row beside these updates, and compares its logits."""
        adapted = [update for update in updates if update is not None]
        beside = frozenset(update.adapter for update in adapted)
        now = time.monotonic()
        self._results = {key: one for key, one in self._results.items() if now - one[0] < VALID_SECONDS}
        if beside not in self._results:
            drift = self._drift([None, *adapted])
            # A batch of another size may round otherwise; a base that an adapter has touched differs by far more.
            ok = drift < (1e-4 if self._base.dtype == torch.float32 else 0.05)
            self._results[beside] = now, Verified(ok=ok, drift=drift)
        return self._results[beside][1]

    def _drift(self, updates: list[RowUpdate | None]) -> float:
        """Largest change of the first row's logits, against the largest logit: all but the last token of the prompt are
        read at once, the last by itself, as an answer is."""
        ids = fingerprint_ids(self._base.model)
        batch = self._decoder.batch()
        batch.add([Row(ids[:-1], update) for update in updates])
        with self._decoder.evaluating():
            logits = torch.stack([batch.read()[0], batch.read([ids[-1]] * len(updates))[0]])
        expected = torch.from_numpy(self._base.fingerprint.logits[-2:])
        return float((sampled(logits).cpu() - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
