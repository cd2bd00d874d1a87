"""VeRA: two random matrices shared by all modules, and a trained scale for each of their directions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant, fan_in_fan_out

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of VeRA."""

    name: str = "vera"
    rank: int = Field(64, ge=1, le=4096, description="Rank r of the shared random matrices; it costs little.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input while training.")


@dataclass(frozen=True)
class SharedRandom(PeftVariant):
    """PEFT's VeRA."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import VeraConfig

        return VeraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            vera_dropout=config.dropout,
            target_modules=targets,
            projection_prng_key=context.seed,
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        left = Part("b", m, 1, before="+"), Part("B", m, r, trained=False, before="⊙")
        return frozen_weight(shape), *left, Part("d", r, 1, before="·"), Part("A", r, n, trained=False, before="⊙")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank + m for m, _ in shapes)

    def factors(self, layer: Any) -> "tuple[torch.Tensor, torch.Tensor] | None":
        b = layer.vera_B[ADAPTER][: layer.out_features].float() * layer.vera_lambda_b[ADAPTER].float()[:, None]
        a = layer.vera_A[ADAPTER][:, : layer.in_features].float() * layer.vera_lambda_d[ADAPTER].float()[:, None]
        return b, a


VARIANT = SharedRandom(
    name="vera",
    label="VeRA",
    family="Random bases",
    config=Config,
    card=Card(
        sentence="All modules share two frozen random matrices; each trains only how much of every direction it takes.",
        equation=r"y = Wx + \mathrm{diag}(b)\, B\, \mathrm{diag}(d)\, A x",
        parameters=r"r + m",
        frozen="All of the base model and the shared random A and B; the vectors b and d train.",
        paper="Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, 2023",
        url="https://arxiv.org/abs/2310.11454",
        notes="Very few parameters: raise the rank to 64 or more, and the learning rate to ten times LoRA's.",
    ),
    learning_rate=8e-2,
    real_rate=4e-3,
    memory=Memory(shared=False, outputs=1),
    work=Work(frozen=4),
)
