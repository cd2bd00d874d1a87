"""SLoRA: LoRA with a small trained square matrix between B and A."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card
from lora_playground.variants.nystrom_family import NystromFamily


class Config(LowRankConfig):
    """Options of SLoRA."""

    name: str = "slora"
    init: Literal["kaiming", "normal"] = Field(
        "kaiming",
        description="How A and N start: 'kaiming' uniform, as the authors'; 'normal' with deviation 1/r. B is 0.",
    )


@dataclass(frozen=True)
class StructuredLora(NystromFamily):
    """The tuner with A and N random and B = 0."""

    def start(self, config: Any) -> Any:
        return config.init


VARIANT = StructuredLora(
    name="slora",
    label="SLoRA",
    family="Nyström",
    config=Config,
    card=Card(
        sentence="Puts a small square matrix N between B and A, which mixes the r directions as it learns.",
        equation=r"y = Wx + s\, B N A x,\quad A_0, N_0 \sim \text{Kaiming},\ B_0 = 0",
        parameters=r"r(m + n) + r^2",
        frozen="All of the base model; A, N and B train.",
        paper="Guo et al., NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, 2025",
        url="https://arxiv.org/abs/2502.14482",
        notes="B starts at zero, so nothing changes before the first step, and in it only B has a gradient.",
    ),
)
