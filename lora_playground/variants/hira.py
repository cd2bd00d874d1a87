"""HiRA: a low-rank matrix that multiplies W entry by entry, so that the update has the rank of W."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import PeftVariant, fan_in_fan_out, lora_count
from lora_playground.variants.targets import check_rank, select

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of HiRA."""

    name: str = "hira"


@dataclass(frozen=True)
class HadamardWithBase(PeftVariant):
    """PEFT's HiRA."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        check_rank(config.rank, select(shapes, config.target_modules))

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import HiraConfig

        return HiraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            target_modules=targets,
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        return frozen_weight(shape), Part("B", m, r, before="⊙ (1 +"), Part("A", r, n, before="·", after=")")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)


VARIANT = HadamardWithBase(
    name="hira",
    label="HiRA",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Multiplies every entry of W by what a low-rank matrix says, so that as many numbers as LoRA's "
        "give an update of full rank.",
        equation=r"y = Wx + \big[W \odot (BA)\big]\, x",
        parameters=r"r(m + n)",
        frozen="All of the base model; A and B train.",
        paper="Huang et al., HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models, 2025",
        url="https://openreview.net/forum?id=TwJrTz9cRS",
        notes="Its spectrum shows what no LoRA's does: a long tail without an edge at r, since W's own directions "
        "stand in it. An entry of W that is zero stays zero. There is no alpha. W's entries are small, so it wants "
        "larger steps than LoRA. The update is kept dense.",
    ),
    bits=(16,),
    learning_rate=1.6e-2,
    low_rank=False,
    real_rate=1e-3,
    memory=Memory(copies=1, passing=2),
    work=Work(dense=6, products=6),
)
