"""LoRA+: LoRA whose B learns faster than its A."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of LoRA+."""

    name: str = "loraplus"
    ratio: float = Field(8.0, ge=1, le=1024, description="How many times faster B learns than A.")


@dataclass(frozen=True)
class FasterB(LoraFamily):
    """LoRA with two learning rates."""

    def parameter_groups(self, model: "torch.nn.Module", lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """A at `lr`, B at ratio · lr."""
        ratio = model.peft_config[ADAPTER].loraplus_ratio  # type: ignore[union-attr,index]
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        a = [p for name, p in trained if ".lora_B." not in name]
        b = [p for name, p in trained if ".lora_B." in name]
        return [
            {"params": a, "lr": lr, "weight_decay": weight_decay},
            {"params": b, "lr": lr * ratio, "weight_decay": weight_decay},
        ]

    def finish(self, model: "torch.nn.Module", config: Any, context: Any) -> None:
        # Kept on the PEFT config in memory only: it is no field of LoraConfig, so saving leaves it out.
        model.peft_config[ADAPTER].loraplus_ratio = config.ratio  # type: ignore[union-attr,index]


VARIANT = FasterB(
    name="loraplus",
    label="LoRA+",
    family="LoRA",
    config=Config,
    card=Card(
        sentence="Plain LoRA, but B takes larger steps than A, which wide models need to learn features well.",
        equation=r"y = Wx + sBAx,\quad \eta_B = \lambda\, \eta_A",
        parameters=r"r(m + n)",
        frozen="All of the base model; A and B train.",
        paper="Hayou et al., LoRA+: Efficient Low Rank Adaptation of Large Models, 2024",
        url="https://arxiv.org/abs/2402.12354",
        notes="The learning rate in the form is A's; B's is ratio times as high. The paper takes a ratio of 16.",
    ),
)
