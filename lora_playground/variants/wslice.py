"""Slices of W: LoRA that starts from r neighbouring singular directions of W, wherever in its spectrum they lie."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Memory, Work
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers
from lora_playground.variants.start_family import StartFamily


class Config(LowRankConfig):
    """Options of the slice family."""

    name: str = "wslice"
    position: float = Field(
        0.5, ge=0.0, le=1.0, description="Where in W's spectrum the start lies: 0 its largest values, 1 its smallest."
    )


def first_direction(position: float, smaller: int, rank: int) -> int:
    """c, counted from 0: the slice has directions c … c + rank − 1 of the `smaller` side's."""
    return round(position * max(0, smaller - rank))


@dataclass(frozen=True)
class SliceStart(StartFamily):
    """LoRA that starts from directions c … c + r − 1 of W."""

    def begin(self, model: Any, config: Any) -> None:
        """sB₀A₀ = Σ σᵢuᵢvᵢᵀ over the slice, √σ on either side; a rank above W's own leaves the rest as LoRA starts."""
        import torch

        from lora_playground.models.linear import is_conv1d

        for _, layer in tuner_layers(model):
            base = layer.get_base_layer()
            W = base.weight.detach().float()
            U, values, Vt = torch.linalg.svd(W.T if is_conv1d(base) else W, full_matrices=False)
            first = first_direction(config.position, len(values), config.rank)
            chosen = slice(first, first + config.rank)
            root = (values[chosen] / layer.scaling[ADAPTER]).sqrt()
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            with torch.no_grad():
                a[: len(root)] = (root[:, None] * Vt[chosen]).to(a.dtype)
                b[:, : len(root)] = (U[:, chosen] * root).to(b.dtype)


VARIANT = SliceStart(
    name="wslice",
    label="Slice of W",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B from r neighbouring singular vectors of W, so that one sees which part of W should "
        "move: its largest, its smallest, or the middle.",
        equation=r"y = Wx + s\,(BA - B_0A_0)\,x,\quad sB_0A_0 = \sum_{i=c}^{c+r-1} \sigma_i u_i v_i^\top",
        parameters=r"r(m + n)",
        frozen="All of the base model and the start B₀, A₀; A and B train.",
        paper="Wang et al., MiLoRA: Harnessing Minor Singular Components for Parameter-Efficient LLM Finetuning, 2024",
        url="https://arxiv.org/abs/2406.09044",
        notes="Its spectrum shows whether training stays where it started: up to 2r values, since the start stands in "
        "ΔW, too, and how much of them lies in that slice of W. Position 0 is PiSSA's start and 1 MiLoRA's. What is "
        "forgotten over the position is said to be U-shaped (arXiv 2602.03493). W is not rewritten: the start is "
        "subtracted beside it.",
    ),
    learning_rate=3.2e-3,
    bits=(16,),
    memory=Memory(frozen=1),
    work=Work(frozen=4),
)
