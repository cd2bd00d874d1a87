"""rsLoRA: LoRA whose scaling α/√r keeps learning alive at high rank."""

from dataclasses import dataclass
from typing import Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context
from lora_playground.variants.lora_family import LoraFamily


class Config(LowRankConfig):
    """Options of rsLoRA."""

    name: str = "rslora"


@dataclass(frozen=True)
class RankStabilised(LoraFamily):
    """LoRA with s = α/√r."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        return {"use_rslora": True}


VARIANT = RankStabilised(
    name="rslora",
    label="rsLoRA",
    family="LoRA",
    config=Config,
    card=Card(
        sentence="LoRA scaled by α/√r instead of α/r, so that a higher rank does not learn ever more slowly.",
        equation=r"y = Wx + \frac{\alpha}{\sqrt{r}}\, B A x",
        parameters=r"r(m + n)",
        frozen="All of the base model; A and B train.",
        paper="Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023",
        url="https://arxiv.org/abs/2312.03732",
        notes="At the same alpha its update is √r times LoRA's: lower alpha or the learning rate when you compare.",
    ),
)
