"""OFT: rotates the input in blocks before W sees it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Part, frozen_weight
from lora_playground.variants.options import TargetConfig
from lora_playground.variants.peft_variant import PeftVariant
from lora_playground.variants.targets import select

if TYPE_CHECKING:
    import torch


class Config(TargetConfig):
    """Options of OFT."""

    name: str = "oft"
    block_size: int = Field(16, ge=2, le=4096, description="Inputs a block rotates together; must divide n.")


@dataclass(frozen=True)
class OrthogonalBlocks(PeftVariant):
    """PEFT's OFT with the Cayley-Neumann parametrisation."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        for name, (_, n) in select(shapes, config.target_modules).items():
            if n % config.block_size:
                raise ConfigError("variant.block_size", config.block_size, f"it must divide the {n} inputs of {name}")

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import OFTConfig

        return OFTConfig(task_type="CAUSAL_LM", oft_block_size=config.block_size, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        n, b = shape[1], config.block_size
        turn = Part("R", n, n, before="·", pattern="blocks", blocks=n // b, numbers=n // b * (b * (b - 1) // 2))
        return frozen_weight(shape), turn

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(n // config.block_size * config.block_size * (config.block_size - 1) // 2 for _, n in shapes)

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        """Those of W, of the rotation of every token, and of the series: three products of blocks forward, six
        backward."""
        (m, n), b = shape, config.block_size
        return tokens * (4.0 * m * n + 6.0 * n * b) + 18.0 * n * b * b


VARIANT = OrthogonalBlocks(
    name="oft",
    label="OFT",
    family="Orthogonal",
    config=Config,
    card=Card(
        sentence="Rotates the input, block by block, before W sees it, so that angles between neurons stay.",
        equation=r"y = W\, \mathrm{diag}(R_1, \ldots, R_{n/b})\, x,\quad R_i = (I + Q_i)(I - Q_i)^{-1}",
        parameters=r"\frac{n}{b} \cdot \frac{b(b-1)}{2}",
        frozen="All of the base model; the skew-symmetric Q of each block train.",
        paper="Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, 2023",
        url="https://arxiv.org/abs/2306.07280",
        notes="The update is dense. The inverse is a Neumann series of five terms, so R is orthogonal only nearly.",
    ),
    conv1d=False,
    bits=(16, 4),  # PEFT loses the scales of 8-bit weights that have been used before
    low_rank=False,
    real_rate=1e-4,
)
