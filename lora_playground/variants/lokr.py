"""LoKr: the Kronecker product of a small matrix and a low-rank one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankAlphaConfig
from lora_playground.variants.peft_variant import PeftVariant

if TYPE_CHECKING:
    import torch


class Config(RankAlphaConfig):
    """Options of LoKr."""

    name: str = "lokr"


def split(size: int) -> tuple[int, int]:
    """The two factors of `size` nearest to each other, smaller first: 96 → (8, 12)."""
    small = max(k for k in range(1, int(size**0.5) + 1) if size % k == 0)
    return small, size // small


@dataclass(frozen=True)
class KroneckerProduct(PeftVariant):
    """PEFT's LoKr."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import LoKrConfig

        return LoKrConfig(task_type="CAUSAL_LM", r=config.rank, alpha=config.alpha, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m1, m2), (n1, n2), r = split(shape[0]), split(shape[1]), config.rank
        small = Part("C", m1, n1, before="+")
        if r >= max(m2, n2) / 2:
            return frozen_weight(shape), small, Part("D", m2, n2, before="⊗")
        thin = Part("B", m2, r, before="⊗ ("), Part("A", r, n2, before="·", after=")")
        return frozen_weight(shape), small, *thin

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        total = 0
        for m, n in shapes:
            (m1, m2), (n1, n2) = split(m), split(n)
            whole = config.rank >= max(m2, n2) / 2
            total += m1 * n1 + (m2 * n2 if whole else config.rank * (m2 + n2))
        return total


VARIANT = KroneckerProduct(
    name="lokr",
    label="LoKr",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Builds the update from a small matrix repeated, scaled, over a low-rank one.",
        equation=r"y = Wx + s\,\big[C \otimes (BA)\big]\, x",
        parameters=r"m_1 n_1 + r(m_2 + n_2),\quad m = m_1m_2,\ n = n_1n_2",
        frozen="All of the base model; C, B and A train.",
        paper="Yeh et al., Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, 2023",
        url="https://arxiv.org/abs/2309.14859",
        notes="The rank of a Kronecker product is the product of the ranks, so it can be high. Where r is at least "
        "half the larger factor's size, the second matrix is kept whole.",
    ),
    bits=(16,),
    conv1d=False,
    low_rank=False,
    real_rate=1e-3,
    memory=Memory(copies=1),
    work=Work(dense=6),
)
