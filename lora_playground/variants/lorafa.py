"""LoRA-FA: LoRA with A frozen at its random start, so that activations need not be kept for it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Part
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER, lora_count, tuner_layers

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of LoRA-FA."""

    name: str = "lorafa"


@dataclass(frozen=True)
class FrozenA(LoraFamily):
    """LoRA that trains B alone, with its gradient corrected for A."""

    def finish(self, model: "torch.nn.Module", config: Any, context: Context) -> None:
        for _, layer in tuner_layers(model):
            layer.lora_A[ADAPTER].weight.requires_grad_(False)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        w, b, a = super().parts(shape, config)
        return w, b, replace(a, trained=False)

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank * m for m, _ in shapes)

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        return super().flops(name, shape, config, tokens) + 4 * tokens * config.rank * shape[1]  # products with A

    def after_backward(self, model: "torch.nn.Module", step: int) -> None:
        """grad B ← grad B · (A·Aᵀ)⁻¹ / s²: the step in B whose ΔW is nearest to full fine-tuning's, with A given.

        As PEFT's LoraFAOptimizer does, but in float32 and before AdamW rather than inside it.
        """
        import torch

        with torch.no_grad():
            for _, layer in tuner_layers(model):
                a, b = layer.lora_A[ADAPTER].weight.float(), layer.lora_B[ADAPTER].weight
                if b.grad is None:
                    continue
                gram = a @ a.T + 1e-8 * torch.eye(a.shape[0], device=a.device)
                solved = torch.linalg.solve(gram, b.grad.float().T).T / layer.scaling[ADAPTER] ** 2
                b.grad.copy_(solved)


VARIANT = FrozenA(
    name="lorafa",
    label="LoRA-FA",
    family="LoRA",
    config=Config,
    card=Card(
        sentence="Freezes A at its random start and trains B alone: half the parameters and less memory.",
        equation=r"y = Wx + s\,B A_0 x,\quad \nabla_B \leftarrow \tfrac{1}{s^2} \nabla_B (A_0A_0^\top)^{-1}",
        parameters=r"rm",
        frozen="All of the base model and A; B trains.",
        paper="Zhang et al., LoRA-FA: Memory-efficient Low-rank Adaptation, 2023",
        url="https://arxiv.org/abs/2308.03303",
        notes="Gradients are corrected after clipping, so clipping bounds the uncorrected ones.",
    ),
    learning_rate=1.6e-2,
    memory=Memory(shared=False, frozen=0.5),
)
