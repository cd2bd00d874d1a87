"""BOFT: rotations of the input made of small butterfly blocks, and a trained length for each output."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import TargetConfig
from lora_playground.variants.peft_variant import PeftVariant
from lora_playground.variants.targets import select

if TYPE_CHECKING:
    import torch


class Config(TargetConfig):
    """Options of BOFT."""

    name: str = "boft"
    block_size: int = Field(8, ge=2, le=256, description="Inputs a block rotates together (even; divides n).")


@dataclass(frozen=True)
class ButterflyBlocks(PeftVariant):
    """PEFT's BOFT with one butterfly factor, which needs no compiled extension."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        for name, (_, n) in select(shapes, config.target_modules).items():
            if n % config.block_size or config.block_size % 2:
                raise ConfigError(
                    "variant.block_size", config.block_size, f"it must be even and divide the {n} inputs of {name}"
                )

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import BOFTConfig

        return BOFTConfig(
            task_type="CAUSAL_LM",
            boft_block_size=config.block_size,
            boft_n_butterfly_factor=1,
            target_modules=targets,
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), b = shape, config.block_size
        turn = Part("R", n, n, before="·", pattern="blocks", blocks=n // b, numbers=n * b)
        return Part("g", m, 1), frozen_weight(shape, before="⊙"), turn

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(n * config.block_size + m for m, n in shapes)


VARIANT = ButterflyBlocks(
    name="boft",
    label="BOFT",
    family="Orthogonal",
    config=Config,
    card=Card(
        sentence="Rotates the input in small blocks and trains a length for each output.",
        equation=r"y = \mathrm{diag}(g)\, W\, \mathrm{diag}(R_1, \ldots, R_{n/b})\, x",
        parameters=r"nb + m",
        frozen="All of the base model; the blocks and the lengths g train.",
        paper="Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, 2023",
        url="https://arxiv.org/abs/2311.06243",
        notes="With one butterfly factor it is block-diagonal. The update is dense.",
    ),
    bits=(16,),
    conv1d=False,
    low_rank=False,
    real_rate=1e-4,
    memory=Memory(outputs=1, copies=1, squares=2.2),
    work=Work(dense=6, rotations=14),
)
