"""IA³: one trained factor for every output of a module."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, frozen_weight
from lora_playground.variants.options import TargetConfig
from lora_playground.variants.peft_variant import PeftVariant, fan_in_fan_out

if TYPE_CHECKING:
    import torch


class Config(TargetConfig):
    """Options of IA³."""

    name: str = "ia3"


@dataclass(frozen=True)
class ScaledActivations(PeftVariant):
    """PEFT's IA³; outputs are scaled everywhere."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import IA3Config

        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=[],
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        return Part("ℓ", shape[0], 1), frozen_weight(shape, before="⊙")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(m for m, _ in shapes)


VARIANT = ScaledActivations(
    name="ia3",
    label="IA³",
    family="Sparse and spectral",
    config=Config,
    card=Card(
        sentence="Only makes each output of a module louder or softer, by one trained factor.",
        equation=r"y = \ell \odot Wx",
        parameters=r"m",
        frozen="All of the base model; the factors ℓ train, from 1.",
        paper="Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context "
        "Learning, 2022",
        url="https://arxiv.org/abs/2205.05638",
        notes="The paper scales keys, values and the inside of the feed-forward part; here every adapted module's "
        "output is scaled. Biases are scaled with it. The update is dense: W with its rows rescaled, minus W.",
    ),
    learning_rate=2e-2,
    real_rate=3e-3,
    bits=(16, 4),  # PEFT loses the scales of 8-bit weights that have been used before
    low_rank=False,
    memory=Memory(shared=False, outputs=1),
)
