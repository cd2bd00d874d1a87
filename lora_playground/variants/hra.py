"""HRA: a chain of r mirror reflections of the input."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import PeftVariant

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of HRA."""

    name: str = "hra"

    @field_validator("rank")
    @classmethod
    def _even(cls, rank: int) -> int:
        if rank % 2:
            raise ConfigError(
                "variant.rank",
                rank,
                f"HRA needs an even rank, such as {rank + 1}: reflections start in pairs that cancel",
            )
        return rank


@dataclass(frozen=True)
class HouseholderChain(PeftVariant):
    """PEFT's HRA."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import HRAConfig

        return HRAConfig(task_type="CAUSAL_LM", r=config.rank, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        n, r = shape[1], config.rank
        return frozen_weight(shape), Part("u₁ … uᵣ", n, r, before="· mirrors")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank * n for _, n in shapes)


VARIANT = HouseholderChain(
    name="hra",
    label="HRA",
    family="Orthogonal",
    config=Config,
    card=Card(
        sentence="Reflects the input in r trained mirrors before W sees it; lengths and angles stay as they are.",
        equation=r"y = W \prod_{i=1}^{r} \Big(I - \frac{2 u_i u_i^\top}{\lVert u_i \rVert^2}\Big)\, x",
        parameters=r"rn",
        frozen="All of the base model; the mirror vectors u train.",
        paper="Yuan et al., Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection "
        "Adaptation, 2024",
        url="https://arxiv.org/abs/2405.17484",
        notes="The rank must be even: mirrors start as equal pairs, which cancel. ΔW = W(R − I) has rank r at most, "
        "but is kept dense.",
    ),
    bits=(16,),
    conv1d=False,
    real_rate=1e-4,
    memory=Memory(copies=1, squares=1, squares_by_rank=1),
    work=Work(dense=2, rotations=9),
)
