"""MiSS: one small block of trained columns, repeated along the input."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.variants.base import Card, Context, Memory, Part, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of MiSS."""

    name: str = "miss"


@dataclass(frozen=True)
class MatrixShard(PeftVariant):
    """PEFT's MiSS (formerly Bone)."""

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import MissConfig

        return MissConfig(task_type="CAUSAL_LM", r=config.rank, target_modules=targets)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        repeat = Part("[I I …]", r, n, trained=False, before="·", pattern="grid", blocks=-(-n // r))
        return frozen_weight(shape), Part("D", m, r, before="+"), repeat

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank * m for m, _ in shapes)

    def factors(self, layer: Any) -> "tuple[torch.Tensor, torch.Tensor] | None":
        import torch

        block = layer.miss_block[ADAPTER].float()
        eye = torch.eye(block.shape[0], device=block.device)
        repeats = -(-layer.in_features // block.shape[0])
        return block.T, eye.repeat(1, repeats)[:, : layer.in_features]


VARIANT = MatrixShard(
    name="miss",
    label="MiSS",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Trains one small block and repeats it along the input: every r-th input shares a column.",
        equation=r"y = Wx + D\, [I_r\, I_r \cdots I_r]\, x",
        parameters=r"rm",
        frozen="All of the base model; the block D (m × r) trains.",
        paper="Kang and Yin, MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure, 2024",
        url="https://arxiv.org/abs/2409.15371",
        notes="It starts at zero; there is no alpha.",
    ),
    conv1d=False,
    memory=Memory(shared=False),
)
