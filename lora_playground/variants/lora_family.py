"""The base class of variants that are options of PEFT's LoRA: builds the LoraConfig and reads the factors.

It knows `peft.LoraConfig` and no particular variant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant, fan_in_fan_out, lora_count

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoraFamily(PeftVariant):
    """A variant that is an option of `peft.LoraConfig`; y = Wx + s·B·A·x unless it says otherwise."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        """Further arguments of LoraConfig."""
        return {}

    def peft_config(self, model: torch.nn.Module, config: Any, context: Context, targets: list[str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            fan_in_fan_out=fan_in_fan_out(model, targets),
            **self.lora_options(config, context),
        )

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        return b.float() * layer.scaling[ADAPTER], a.float()
