"""DoRA: LoRA for the direction of each output row, and a trained length for each."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Part, Work
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import lora_count

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of DoRA."""

    name: str = "dora"


@dataclass(frozen=True)
class WeightDecomposed(LoraFamily):
    """LoRA on the direction, a trained magnitude for each output."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        return {"use_dora": True}

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        w, b, a = super().parts(shape, config)
        return Part("g", shape[0], 1), replace(w, before="⊙ ("), b, replace(a, after=") / lengths")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        shapes = list(shapes)
        return lora_count(shapes, config.rank) + sum(m for m, _ in shapes)

    def factors(self, layer: Any) -> "tuple[torch.Tensor, torch.Tensor] | None":
        # Rescaling the rows of W makes ΔW dense; the generic extraction applies.
        return None


VARIANT = WeightDecomposed(
    name="dora",
    label="DoRA",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Splits each weight row into a length and a direction, trains the length and steers the direction "
        "by LoRA.",
        equation=r"y = g \odot \frac{W + sBA}{\lVert W + sBA \rVert_{\text{row}}}\, x",
        parameters=r"r(m + n) + m",
        frozen="All of the base model; A, B and the lengths g (one an output) train.",
        paper="Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024",
        url="https://arxiv.org/abs/2402.09353",
        notes="Changing the lengths gives ΔW full rank, so its spectrum has a tail beyond r. Slower than LoRA.",
    ),
    bits=(16, 4),  # PEFT loses the scales of 8-bit weights that have been used before
    low_rank=False,
    memory=Memory(outputs=2, passing=3),
    work=Work(products=4),
)
