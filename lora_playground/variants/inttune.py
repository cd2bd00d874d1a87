"""IntTune: NLoRA of which only the small square matrix trains."""

from typing import Literal

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Memory
from lora_playground.variants.nystrom_family import NystromFamily


class Config(LowRankConfig):
    """Options of IntTune."""

    name: str = "inttune"
    rank: int = Field(32, ge=1, le=4096, description="Rank r: N is r × r, and only N trains.")
    mode: Literal["residual", "released", "pinv_residual"] = Field(
        "residual",
        description="Start from blocks of W: 'residual' subtracts it so that the output is unchanged; 'released' does "
        "not, as the authors' code; 'pinv_residual' takes N as the block's pseudo-inverse (true Nyström), subtracted.",
    )


VARIANT = NystromFamily(
    name="inttune",
    label="IntTune",
    family="Nyström",
    config=Config,
    card=Card(
        sentence="Starts as NLoRA and trains nothing but the square matrix between B and A: r² numbers a module.",
        equation=r"y = Wx + s\, B_0 (N - N_0) A_0 x",
        parameters=r"r^2",
        frozen="All of the base model, A and B; N trains.",
        paper="Guo et al., NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, 2025",
        url="https://arxiv.org/abs/2502.14482",
        notes="It needs a higher rank than LoRA for the same freedom. The update stays in the span of W's leading "
        "rows and columns. In the mode 'released' the output changes at step 0, as in the authors' code.",
    ),
    learning_rate=8e-4,
    core_only=True,
    memory=Memory(shared=False, frozen=1),
)
