"""LoHa: the entrywise product of two low-rank matrices, of rank up to r²."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankAlphaConfig
from lora_playground.variants.peft_variant import PeftVariant, lora_count

if TYPE_CHECKING:
    import torch


class Config(RankAlphaConfig):
    """Options of LoHa."""

    name: str = "loha"


@dataclass(frozen=True)
class HadamardProduct(PeftVariant):
    """PEFT's LoHa."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import LoHaConfig

        return LoHaConfig(task_type="CAUSAL_LM", r=config.rank, alpha=config.alpha, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        first = Part("B₁", m, r, before="+ ("), Part("A₁", r, n, before="·", after=")")
        second = Part("B₂", m, r, before="⊙ (", again=True), Part("A₂", r, n, before="·", after=")")
        return frozen_weight(shape), *first, *second

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return 2 * lora_count(shapes, config.rank)


VARIANT = HadamardProduct(
    name="loha",
    label="LoHa",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Multiplies two low-rank matrices entry by entry, which gives rank r² for the price of 2r.",
        equation=r"y = Wx + s\,\big[(B_1A_1) \odot (B_2A_2)\big]\, x",
        parameters=r"2r(m + n)",
        frozen="All of the base model; both pairs of factors train.",
        paper="Hyeon-Woo et al., FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated "
        "Learning, 2021",
        url="https://arxiv.org/abs/2108.06098",
        notes="The update is kept dense: it has rank up to r², and no two thin factors of rank r.",
    ),
    bits=(16,),
    conv1d=False,
    low_rank=False,
    real_rate=1e-3,
    memory=Memory(copies=1, passing=2),
    work=Work(dense=6, products=16),
)
