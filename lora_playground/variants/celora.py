"""CE-LoRA: plain LoRA with a cheaper, approximated gradient through the frozen weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context
from lora_playground.variants.celora_rows import frozen_directions, products, rows_kept
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant, lora_count, tuner_layers
from lora_playground.variants.start_family import save_as_plain_lora

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of CE-LoRA."""

    name: str = "celora"
    amm: bool = Field(True, description="Approximate the gradient through W (off: exact, as plain LoRA).")
    double_lora: bool = Field(True, description="Keep the largest directions of W exact in that gradient.")
    ratio_attention: float = Field(0.55, gt=0, le=1, description="Rows kept for value and output projections.")
    ratio_mlp: float = Field(0.65, gt=0, le=1, description="Rows kept for up and down projections.")
    ratio_other: float = Field(1.0, gt=0, le=1, description="Rows kept for all other modules (1 is exact).")
    tilt: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Rows kept more in the last layer and less in the first: errors pass from a layer to those below.",
    )
    frozen_rank: int | None = Field(
        128,
        ge=1,
        le=4096,
        description="Directions of W that stay exact; empty takes 7/8 of the rank, as the released code does.",
    )
    only_where_it_saves: bool = Field(
        True, description="Leave modules exact in which keeping fewer rows would save no arithmetic (small ones)."
    )
    refresh_every: int = Field(10, ge=1, le=1_000_000, description="Optimiser steps between choices of rows.")


@dataclass(frozen=True)
class ComputationEfficient(PeftVariant):
    """The tuner `celora`, whose rows are chosen after the first step and every `refresh_every` steps after it."""

    def peft_config(self, model: torch.nn.Module, config: Any, context: Context, targets: list[str]) -> Any:
        from lora_playground.variants.tuners.celora import CeLoraConfig

        return CeLoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            ratio_attention=config.ratio_attention,
            ratio_mlp=config.ratio_mlp,
            ratio_other=config.ratio_other,
            tilt=config.tilt,
            depth=getattr(model.config.get_text_config(), "num_hidden_layers", 0),
            frozen_rank=config.frozen_rank,
            amm=config.amm,
            double_lora=config.double_lora,
            only_where_it_saves=config.only_where_it_saves,
            target_modules=targets,
        )

    def finish(self, model: torch.nn.Module, config: Any, context: Context) -> None:
        object.__setattr__(model, "_refresh_every", config.refresh_every)

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return lora_count(shapes, config.rank)

    def beside(self, adapted: dict[str, tuple[int, int]], config: Any) -> tuple[int, int]:
        """B₀ and A₀ in float32, and [A; A₀; Ws[I]] of every module that is approximated."""
        float32 = computed = 0
        for name, (out, into) in adapted.items():
            rows = rows_kept(name, (out, into), config, config.rank)
            if rows < out:
                q = frozen_directions((out, into), config, config.rank)
                float32 += q * (out + into)
                computed += (config.rank + q + rows) * into
        return float32, computed

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        rows = rows_kept(name, shape, config, config.rank)
        less = shape[0] * shape[1] - products(shape, rows, frozen_directions(shape, config, config.rank))
        return super().flops(name, shape, config, tokens) - 2 * tokens * less

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        return layer.celora_B[ADAPTER].float() * layer.scaling[ADAPTER], layer.celora_A[ADAPTER].float()

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Chooses rows if the last step collected norms; the step before each refresh is made to collect them."""
        every: int = getattr(model, "_refresh_every", 10)
        for _, layer in tuner_layers(model):
            layer.refresh()
            if not layer.approximation.exact and (step + 1) % every == 0:
                layer.approximation.collect = True

    def training_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The chosen rows of each layer, and whether the next step collects norms."""
        import torch

        found = {}
        for name, layer in tuner_layers(model):
            if layer.approximation.rows is not None:
                found[f"rows.{name}"] = layer.approximation.rows
                found[f"collect.{name}"] = torch.tensor(layer.approximation.collect)
        return found

    def restore_training_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        for name, layer in tuner_layers(model):
            if f"rows.{name}" in state:
                weight = layer.full_weight()
                layer.approximation.keep_rows(weight, state[f"rows.{name}"].to(weight.device))
                layer.approximation.collect = bool(state[f"collect.{name}"])

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes a plain LoRA, since the forward pass is LoRA's."""
        save_as_plain_lora(model, self.updates(model), folder)


VARIANT = ComputationEfficient(
    name="celora",
    label="CE-LoRA",
    family="Efficiency",
    config=Config,
    card=Card(
        sentence="Learns what LoRA learns with less arithmetic: the gradient that passes back through W keeps only "
        "its most important rows.",
        equation=r"\begin{gathered} \nabla_x \approx (\nabla_y B_0) A_0 + \nabla_{y,I}\,(W - B_0A_0)_{I,:} \\ "
        r"+\; s\, \nabla_y B A \end{gathered}",
        parameters=r"r(m + n)",
        frozen="All of the base model and the split B₀A₀; A and B train.",
        paper="Chen et al., CE-LoRA: Computation-Efficient LoRA Fine-Tuning for Language Models, 2025",
        url="https://arxiv.org/abs/2502.01378",
        notes="The output and LoRA's own gradients are exact; only what passes to the layers below is approximated. A "
        "module where the kept rows would save no arithmetic stays exact: with the usual 128 directions that is every "
        "module of the embedded model, so there it trains as LoRA does, at LoRA's cost. It pays where modules are wide "
        "(about 1024 and more) and batches large, and costs memory: the kept rows are stored apart. The first step is "
        "exact. 128 directions of W stay exact, and rows are chosen anew every 10 "
        "steps, for a hundredth of the time. The released code keeps 7/8 of the rank, with which the gradient is off "
        "by two thirds on the embedded model, and chooses every 200 passes.",
    ),
)
