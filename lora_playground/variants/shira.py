"""SHiRA: trains a sparse random set of the weights themselves."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import PeftVariant, lora_count

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of SHiRA."""

    name: str = "shira"


@dataclass(frozen=True)
class SparseHighRank(PeftVariant):
    """PEFT's SHiRA with a random mask."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import ShiraConfig

        return ShiraConfig(task_type="CAUSAL_LM", r=config.rank, target_modules=targets, random_seed=context.seed)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        entries = Part("S", *shape, before="+", pattern="scattered", numbers=config.rank * sum(shape))
        return frozen_weight(shape), entries

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)


VARIANT = SparseHighRank(
    name="shira",
    label="SHiRA",
    family="Sparse and spectral",
    config=Config,
    card=Card(
        sentence="Picks as many single weights as LoRA would have parameters, at random, and trains just those.",
        equation=r"y = (W + S)\, x,\quad \lVert S \rVert_0 = r(m + n)",
        parameters=r"r(m + n)",
        frozen="All other weights of the base model.",
        paper="Bhardwaj et al., Sparse High Rank Adapters, 2024",
        url="https://arxiv.org/abs/2406.13175",
        notes="Sparse but of high rank: its spectrum has no sharp end at r. The rank only sets how many weights train.",
    ),
    learning_rate=1.6e-2,
    bits=(16,),
    conv1d=False,
    low_rank=False,
    memory=Memory(copies=1, trained=2.5),
    work=Work(dense=2),
)
