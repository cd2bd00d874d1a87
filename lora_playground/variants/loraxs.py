"""LoRA-XS: a small square matrix between frozen singular vectors of W."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Memory, Part, frozen_weight
from lora_playground.variants.nystrom_family import NystromFamily


class Config(LowRankConfig):
    """Options of LoRA-XS."""

    name: str = "loraxs"
    rank: int = Field(32, ge=1, le=4096, description="Rank r: N is r × r, and only N trains.")


@dataclass(frozen=True)
class SingularCore(NystromFamily):
    """The tuner `nystrom` with frozen outer factors from W's SVD."""

    def start(self, config: Any) -> Any:
        return "svd"

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        outer = Part("UΣ", m, r, trained=False, before="+"), Part("Vᵀ", r, n, trained=False, before="·")
        return frozen_weight(shape), outer[0], Part("N", r, r, before="·"), outer[1]


VARIANT = SingularCore(
    name="loraxs",
    label="LoRA-XS",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Trains r² numbers a module, whatever its size: how W's r strongest directions are mixed anew.",
        equation=r"y = Wx + s\, U_r \Sigma_r N V_r^\top x",
        parameters=r"r^2",
        frozen="All of the base model and its singular vectors U, V and values Σ; N trains, from zero.",
        paper="Bałazy et al., LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, 2024",
        url="https://arxiv.org/abs/2405.17604",
        notes="Its spectrum shows how much can be learned within W's own strongest directions: the subspaces of ΔW lie "
        "in those of W wholly. It needs a higher rank than LoRA for the same freedom. The authors draw N from "
        "N(0, 10⁻¹⁰); zero starts it as well, since B and A are not zero.",
    ),
    learning_rate=1e-3,
    real_rate=4e-3,
    core_only=True,
    memory=Memory(shared=False, frozen=1),
)
