"""DeLoRA: normalised rank-one parts with one trained length, so that the update cannot run away."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.variants.base import Card, Context, Memory, Part, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of DeLoRA."""

    name: str = "delora"
    strength: int = Field(15, ge=1, le=1000, description="Lambda at the start: bounds how far the update reaches.")


@dataclass(frozen=True)
class DecoupledLength(PeftVariant):
    """PEFT's DeLoRA."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import DeloraConfig

        return DeloraConfig(task_type="CAUSAL_LM", r=config.rank, delora_lambda=config.strength, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        thin = Part("B", m, r, before="·"), Part("A", r, n, before="·")
        return frozen_weight(shape), Part("λ", 1, 1, before="+"), *thin

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank * (m + n) + 1 for m, n in shapes)

    def factors(self, layer: Any) -> "tuple[torch.Tensor, torch.Tensor] | None":
        a, b = layer.delora_A[ADAPTER].float(), layer.delora_B[ADAPTER].float()
        lengths = a.norm(dim=1).clamp(min=1e-4) * b.norm(dim=0).clamp(min=1e-4)
        scale = layer.delora_lambda[ADAPTER].float() / layer.r[ADAPTER] / lengths
        return b * scale, a * layer.delora_w_norm[ADAPTER].float()


VARIANT = DecoupledLength(
    name="delora",
    label="DeLoRA",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Normalises every rank-one part of the update and trains its length apart from its direction.",
        equation=r"y = Wx + \frac{\lambda}{r} \sum_{i=1}^{r} \frac{b_i a_i^\top}{\lVert b_i \rVert \lVert a_i \rVert}"
        r"\, \mathrm{diag}(\lVert w_j \rVert)\, x",
        parameters=r"r(m + n) + 1",
        frozen="All of the base model; A, B and the length λ train.",
        paper="Bini et al., DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation, 2025",
        url="https://arxiv.org/abs/2503.18225",
        notes="B starts at zero, so its length is bounded below by 0.0001 and the first steps are large.",
    ),
    bits=(16,),
    conv1d=False,
    learning_rate=1e-3,
    real_rate=1e-3,
    memory=Memory(shared=False, inputs=1),
)
