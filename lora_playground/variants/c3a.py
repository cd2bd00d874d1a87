"""C3A: an update made of circulant blocks, each given by its first row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd
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
    """Options of C3A."""

    name: str = "c3a"
    block_size: int = Field(
        32, ge=1, le=4096, description="Side b of the circulant blocks; must divide both sides of every module."
    )


@dataclass(frozen=True)
class CirculantBlocks(PeftVariant):
    """PEFT's C3A with an update that starts at zero."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        selected = select(shapes, config.target_modules)
        common = gcd(*(side for shape in selected.values() for side in shape))
        for name, (m, n) in selected.items():
            if m % config.block_size or n % config.block_size:
                raise ConfigError(
                    "variant.block_size",
                    config.block_size,
                    f"{name} is {m} × {n}; on these modules it must divide {common}",
                )

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import C3AConfig

        return C3AConfig(task_type="CAUSAL_LM", block_size=config.block_size, target_modules=targets, init_weights=True)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), b = shape, config.block_size
        update = Part("C", m, n, before="+", pattern="grid", blocks=max(m, n) // b, numbers=m * n // b)
        return frozen_weight(shape), update

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(m * n // config.block_size for m, n in shapes)


VARIANT = CirculantBlocks(
    name="c3a",
    label="C3A",
    family="Sparse and spectral",
    config=Config,
    card=Card(
        sentence="Cuts the update into b × b blocks, in each of which every row is the one above it moved by one, so "
        "that b numbers tell a block and a Fourier transform multiplies by it.",
        equation=r"y = Wx + \frac{1}{n} \begin{bmatrix} C(w_{11}) & \cdots \\ \vdots & C(w_{kl}) \end{bmatrix} x,"
        r"\quad C(w)_{ij} = w_{(j - i) \bmod b}",
        parameters=r"mn / b",
        frozen="All of the base model; the rows w of the blocks train, from zero.",
        paper="Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, 2024",
        url="https://arxiv.org/abs/2407.19342",
        notes="Its spectrum shows what structure does without a bound on rank: a circulant block is diagonal in the "
        "Fourier basis, so its singular values are the sizes of its frequencies, mostly in pairs of equals. It wants a "
        "much larger learning rate than others. The update is kept dense.",
    ),
    bits=(16,),
    conv1d=False,
    low_rank=False,
    learning_rate=1.0,
    real_rate=1e-1,
)
