"""RandLoRA: a trained mix of random low-rank bases that together reach full rank."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import PeftVariant, fan_in_fan_out
from lora_playground.variants.targets import check_rank, select

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class Config(RankConfig):
    """Options of RandLoRA."""

    name: str = "randlora"
    rank: int = Field(32, ge=1, le=4096, description="Rank r of each random basis; higher means fewer parameters.")


@dataclass(frozen=True)
class RandomBases(PeftVariant):
    """PEFT's RandLoRA."""

    def check(self, config: Any, shapes: "Mapping[str, tuple[int, int]]", bits: int = 16) -> None:
        super().check(config, shapes, bits)
        check_rank(config.rank, select(shapes, config.target_modules))

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import RandLoraConfig

        return RandLoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            randlora_alpha=20 * config.rank,
            target_modules=targets,
            projection_prng_key=context.seed,
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        side, k = min(shape), ceil(min(shape) / r)
        sums = (
            Part("B", m, r, trained=False, before=f"+ {k} × ("),
            Part("Λ", r, r, before="·", pattern="diagonal", numbers=k * r),
        )
        rest = (
            Part("A", r, n, trained=False, before="·"),
            Part("Γ", side, side, before="·", after=")", pattern="diagonal", numbers=k * side),
        )
        return frozen_weight(shape), *sums, *rest

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(ceil(min(shape) / config.rank) * (config.rank + min(shape)) for shape in shapes)


VARIANT = RandomBases(
    name="randlora",
    label="RandLoRA",
    family="Random bases",
    config=Config,
    card=Card(
        sentence="Mixes many frozen random low-rank matrices by trained scales, and so reaches full rank.",
        equation=r"y = Wx + s \sum_{j=1}^{k} B_j \Lambda_j A\, \Gamma_j\, x,\quad k = \lceil \min(m, n) / r \rceil",
        parameters=r"k\,(r + \min(m, n))",
        frozen="All of the base model and the random bases; the diagonals Λ and Γ train.",
        paper="Albert et al., RandLoRA: Full-rank parameter-efficient fine-tuning of large models, 2025",
        url="https://arxiv.org/abs/2502.00987",
        notes="A higher rank means fewer bases and fewer parameters. The update is dense, of full rank.",
    ),
    bits=(16, 4),  # PEFT loses the scales of 8-bit weights that have been used before
    low_rank=False,
    real_rate=1e-3,
    memory=Memory(copies=0.55),
    work=Work(dense=8),
)
