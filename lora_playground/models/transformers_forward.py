"""transformers' own forward pass as the decoder uses it, for every causal LM that transformers can load.

It knows nothing of sampling, and nothing of updates: those are part of the modules while it runs.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lora_playground.models.kv_cache import Window
from lora_playground.models.placed_update import unwrapped

LENGTH_MATTERS = ("dynamic", "longrope")
"""Kinds of rotary embedding whose rotation depends on how long the text is, also that of tokens read before."""


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

    def whole(self, ids: torch.Tensor) -> torch.Tensor:
        """Reads whole texts of one length (R, T), nothing kept; (R, V) float32 logits of the last column."""
        return self.model(input_ids=ids.to(self.device), use_cache=False, **self._options).logits[:, -1].float()


def length_matters(model: Any) -> bool:
    """Whether the model's rotary embedding depends on how long the text is."""
    config = unwrapped(model).config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]  # some models have one for a kind of layer
    return any(kind.get("rope_type") in LENGTH_MATTERS for kind in kinds)
