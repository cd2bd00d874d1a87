"""GraLoRA: a LoRA for every block of W."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Part, frozen_weight
from lora_playground.variants.options import RankAlphaConfig
from lora_playground.variants.peft_variant import PeftVariant, fan_in_fan_out, lora_count
from lora_playground.variants.targets import select

if TYPE_CHECKING:
    import torch


class Config(RankAlphaConfig):
    """Options of GraLoRA."""

    name: str = "gralora"
    blocks: int = Field(2, ge=1, le=64, description="W is cut into blocks × blocks; must divide rank and widths.")


@dataclass(frozen=True)
class GranularBlocks(PeftVariant):
    """PEFT's GraLoRA."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        if config.rank % config.blocks:
            raise ConfigError("variant.rank", config.rank, f"GraLoRA needs a multiple of blocks = {config.blocks}")
        for name, (m, n) in select(shapes, config.target_modules).items():
            if m % config.blocks or n % config.blocks:
                raise ConfigError("variant.blocks", config.blocks, f"it must divide {name}, which is {m} × {n}")

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import GraloraConfig

        return GraloraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            alpha=config.alpha,
            gralora_k=config.blocks,
            target_modules=targets,
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r, k = shape, config.rank, config.blocks
        b = Part("B", m, r, before="+", pattern="grid", blocks=k)
        return frozen_weight(shape), b, Part("A", r, n, before="·", pattern="grid", blocks=k)

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)


VARIANT = GranularBlocks(
    name="gralora",
    label="GraLoRA",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Cuts W into k × k blocks and gives each its own small LoRA: more rank for the same parameters.",
        equation=r"y = Wx + s \begin{bmatrix} B_{11}A_{11} & \cdots \\ \vdots & B_{kk}A_{kk} \end{bmatrix} x",
        parameters=r"r(m + n)",
        frozen="All of the base model; every block's A and B train, each of rank r/k.",
        paper="Jung et al., GraLoRA: Granular Low-Rank Adaptation for Parameter-Efficient Fine-Tuning, 2025",
        url="https://arxiv.org/abs/2505.20355",
        notes="The update as a whole has rank up to k·r; it is kept dense.",
    ),
    bits=(16,),
    low_rank=False,
)
