"""The base class of SLoRA, NLoRA, IntTune, LoRA-XS and PoLAR, which are settings of one tuner, y = Wx + s·B·N·A·x.

It knows `tuners.nystrom` and no particular variant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Context, Part, frozen_weight
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant, lora_count
from lora_playground.variants.start_family import save_as_plain_lora

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NystromFamily(PeftVariant):
    """A setting of the tuner `nystrom`.

    Attributes:
        core_only: whether N alone trains.
    """

    core_only: bool = False

    def start(self, config: Any) -> Any:
        """The tuner's start: the options' `mode`, for variants that have one."""
        return config.mode

    def starts_as_base(self, config: Any) -> bool:
        return self.start(config) != "released"

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r, outer = shape, config.rank, not self.core_only
        core = Part("B", m, r, outer, before="+"), Part("N", r, r, before="·"), Part("A", r, n, outer, before="·")
        if self.start(config) not in ("residual", "pinv_residual"):
            return frozen_weight(shape), *core
        start = Part("B₀", m, r, trained=False, before="−", again=True), Part("N₀A₀", r, n, trained=False, before="·")
        return frozen_weight(shape), *core, *start

    def peft_config(self, model: torch.nn.Module, config: Any, context: Context, targets: list[str]) -> Any:
        from lora_playground.variants.tuners.nystrom import NystromConfig

        return NystromConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            start=self.start(config),
            core_only=self.core_only,
            target_modules=targets,
        )

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        shapes = list(shapes)
        core = len(shapes) * config.rank**2
        return core if self.core_only else lora_count(shapes, config.rank) + core

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        """As for any variant, plus the products with A and B if they are frozen, and with the subtracted start."""
        more = 4 * self.core_only + 4 * (self.start(config) in ("residual", "pinv_residual"))
        return super().flops(name, shape, config, tokens) + more * tokens * config.rank * sum(shape)

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """The numbers of a plain LoRA with N multiplied into A; of rank 2r if the start is subtracted."""
        twice = self.start(config) in ("residual", "pinv_residual")
        return (1 + twice) * lora_count(shapes, config.rank)

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        return layer.factors(ADAPTER)

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes a plain LoRA with N multiplied into A (and the start beside it), which stock PEFT can load."""
        save_as_plain_lora(model, self.updates(model), folder)
