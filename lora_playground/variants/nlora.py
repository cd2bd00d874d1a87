"""NLoRA: SLoRA that starts from the leading rows, columns and block of W."""

from typing import Literal

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card
from lora_playground.variants.nystrom_family import NystromFamily


class Config(LowRankConfig):
    """Options of NLoRA."""

    name: str = "nlora"
    mode: Literal["residual", "released", "pinv_residual"] = Field(
        "residual",
        description="Start from blocks of W: 'residual' subtracts it so that the output is unchanged; 'released' does "
        "not, as the authors' code; 'pinv_residual' takes N as the block's pseudo-inverse (true Nyström), subtracted.",
    )


VARIANT = NystromFamily(
    name="nlora",
    label="NLoRA",
    family="Nyström",
    config=Config,
    card=Card(
        sentence="Starts B, N and A from the first columns, block and rows of W, in the way of Nyström's method.",
        equation=r"y = Wx + s\,(B N A - B_0 N_0 A_0)\,x,\quad "
        r"B_0 = W_{:,1:r},\ N_0 = W_{1:r,1:r},\ A_0 = W_{1:r,:}",
        parameters=r"r(m + n) + r^2",
        frozen="All of the base model and the start; A, N and B train.",
        paper="Guo et al., NLoRA: Nyström-Initiated Low-Rank Adaptation for Large Language Models, 2025",
        url="https://arxiv.org/abs/2502.14482",
        notes="The modes 'residual' and 'pinv_residual' are this app's own and leave the output unchanged at step 0; "
        "'released' is the authors' code, where the start is added to W and the output changes at once. Against W the "
        "update has rank up to 2r.",
    ),
    learning_rate=8e-4,
)
