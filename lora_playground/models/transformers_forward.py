"""transformers' own forward pass as the decoder uses it: one new column of tokens for every row of a batch.

For every causal LM that transformers can load, on any device and with any quantisation. It knows nothing of sampling,
and nothing of updates: those are hooks on the modules.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lora_playground.models.kv_cache import Window
from lora_playground.models.placed_update import unwrapped


class TransformersForward:
    """The pass for one model.

    Args:
        model: a causal LM, also one that PEFT has wrapped.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        accepted = inspect.signature(unwrapped(model).forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def __call__(
        self, window: Window, ids: torch.Tensor, starts: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Reads tokens at the window's end.

        Args:
            ids: (R, T) token ids. starts: (R, 1) first column of each row. positions: (R, T) position of each token.

        Returns:
            (R, V) float32 logits of the last column.
        """
        columns = torch.arange(window.begin, window.end + ids.shape[1])[None]
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=(columns >= starts).long().to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=window,
            use_cache=True,
            **self._options,
        )
        return output.logits[:, -1].float()
