"""LoRA: a trained product of two thin matrices beside each frozen one."""

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card
from lora_playground.variants.lora_family import LoraFamily


class Config(LowRankConfig):
    """Options of LoRA."""

    name: str = "lora"


VARIANT = LoraFamily(
    name="lora",
    label="LoRA",
    family="LoRA",
    config=Config,
    card=Card(
        sentence="Leaves W as it is and learns, beside it, the product of a tall and a wide thin matrix.",
        equation=r"y = Wx + \frac{\alpha}{r}\, B A x",
        parameters=r"r(m + n)",
        frozen="All of the base model; A (r × n) and B (m × r) train.",
        paper="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021",
        url="https://arxiv.org/abs/2106.09685",
        notes="B starts at zero, so nothing changes before the first step.",
    ),
)
