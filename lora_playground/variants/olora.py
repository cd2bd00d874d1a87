"""OLoRA: LoRA that starts from the QR decomposition of W."""

from dataclasses import dataclass
from typing import Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Work
from lora_playground.variants.start_family import StartFamily


class Config(LowRankConfig):
    """Options of OLoRA."""

    name: str = "olora"


@dataclass(frozen=True)
class OrthonormalStart(StartFamily):
    """LoRA that starts from the QR decomposition of W."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        return {"init_lora_weights": "olora"}


VARIANT = OrthonormalStart(
    name="olora",
    label="OLoRA",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts B with orthonormal columns and A with the matching rows of R, from W = QR.",
        equation=r"y = Wx + s\,(BA - B_0A_0)\,x,\quad W = QR,\ B_0 = Q_{:,1:r},\ A_0 = R_{1:r,:}",
        parameters=r"r(m + n)",
        frozen="All of the base model and the start B₀, A₀; A and B train.",
        paper="Büyükakyüz, OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, 2024",
        url="https://arxiv.org/abs/2406.01775",
        notes="Against the pristine W the update has rank up to 2r; W is not rewritten.",
    ),
    learning_rate=8e-4,
    bits=(16, 8, 4),
    conv1d=False,
    memory=Memory(frozen=1),
    work=Work(frozen=4),
)
