"""AdaLoRA: an update in the form of an SVD, whose rank is shifted to the modules that need it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Part, frozen_weight
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER, fan_in_fan_out, tuner_layers
from lora_playground.variants.targets import select

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of AdaLoRA."""

    name: str = "adalora"
    orthogonality: float = Field(
        0.1, ge=0, le=10, description="How strongly P and Q are kept orthonormal (paper's gamma)."
    )

    @property
    def start_rank(self) -> int:
        """Rank of every module before pruning: one and a half times the final one, as in the paper's settings."""
        return self.rank + max(1, self.rank // 2)


@dataclass(frozen=True)
class AdaptiveBudget(LoraFamily):
    """ΔW = s·P·Λ·Q, whose least important triplets are pruned in the course of training."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        selected = select(shapes, config.target_modules)
        name, shape = min(selected.items(), key=lambda item: min(item[1]))
        if config.start_rank > min(shape):
            most = max(r for r in range(1, min(shape) + 1) if r + max(1, r // 2) <= min(shape))
            size = f"{name} is {shape[0]} × {shape[1]}"
            told = f"it starts at {config.start_rank} and {size}, so the rank may be 1 to {most}"
            raise ConfigError("variant.rank", config.rank, told)
        super().check(config, shapes, bits)

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import AdaLoraConfig

        # While Λ is zero every triplet's importance is zero too, and pruning by it would take all: wait 3 steps.
        steps = max(context.steps, 6)
        return AdaLoraConfig(
            task_type="CAUSAL_LM",
            target_r=config.rank,
            init_r=config.start_rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            fan_in_fan_out=fan_in_fan_out(model, targets),
            total_step=steps,
            tinit=max(steps // 5, 3),
            tfinal=steps // 4,
            deltaT=1,
            # The regulariser is added to the gradients below: PEFT would add it to a loss it computes itself.
            orth_reg_weight=config.orthogonality,
        )

    def finish(self, model: "torch.nn.Module", config: Any, context: Context) -> None:
        model.peft_config[ADAPTER].orth_reg_weight = 0.0  # type: ignore[union-attr,index]
        object.__setattr__(model, "_orthogonality", config.orthogonality)
        for _, layer in tuner_layers(model):
            layer.ranknum[ADAPTER].requires_grad_(False)  # a count; PEFT makes it trainable on a base in 16 bit

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.start_rank
        spectrum = Part("Λ", r, r, before="·", pattern="diagonal", numbers=r)
        return frozen_weight(shape), Part("P", m, r, before="+"), spectrum, Part("Q", r, n, before="·")

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.start_rank * (m + n + 1) for m, n in shapes)

    def factors(self, layer: Any) -> "tuple[torch.Tensor, torch.Tensor] | None":
        scale = layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER].float() + 1e-5)
        a = layer.lora_A[ADAPTER].float() * layer.lora_E[ADAPTER].float()
        return layer.lora_B[ADAPTER].float() * scale, a

    def after_backward(self, model: "torch.nn.Module", step: int) -> None:
        """Records each triplet's importance, then adds the gradient of γ·mean ‖PᵀP − I‖_F."""
        import torch

        tuner: Any = model.base_model
        settings = tuner.peft_config[ADAPTER]
        if step < settings.total_step - settings.tfinal:
            tuner.rankallocator.update_ipt(tuner.model)
        elif step > settings.total_step - settings.tfinal and not settings.rank_pattern:
            settings.rank_pattern = _pruned(tuner.model)  # a resumed run: what is zero now was pruned before
        weight = getattr(model, "_orthogonality", 0.0)
        pairs = [p for _, layer in tuner_layers(model) for p in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T)]
        if not weight or not pairs:
            return
        with torch.enable_grad():
            gaps = [torch.linalg.norm(p @ p.T - torch.eye(p.shape[0], device=p.device)) for p in pairs]
            trained = [p for _, layer in tuner_layers(model) for p in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER])]
            gradients = torch.autograd.grad(weight * torch.stack(gaps).mean(), trained)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(gradient)

    def after_step(self, model: "torch.nn.Module", step: int) -> None:
        """Sets the least important Λ to zero, down to this step's budget."""
        tuner: Any = model.base_model
        settings = tuner.peft_config[ADAPTER]
        last = settings.total_step - settings.tfinal
        allocator = tuner.rankallocator
        if step < last:
            budget, due = allocator.budget_schedule(step)
            if due and budget < allocator.init_bgt:
                settings.rank_pattern = allocator.mask_to_budget(tuner.model, budget)
        elif step == last and allocator.exp_avg_ipt:
            settings.rank_pattern = allocator.mask_to_budget(tuner.model, allocator.target_bgt)
        elif settings.rank_pattern:
            allocator.mask_using_rank_pattern(tuner.model, settings.rank_pattern)

    def training_state(self, model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
        """Smoothed importance and uncertainty of every number, and which triplets are kept."""
        import torch

        tuner: Any = model.base_model
        allocator = tuner.rankallocator
        found = {f"importance.{name}": value for name, value in allocator.exp_avg_ipt.items()}
        found |= {f"uncertainty.{name}": value for name, value in allocator.exp_avg_unc.items()}
        kept = tuner.peft_config[ADAPTER].rank_pattern or {}
        return found | {f"kept.{name}": torch.tensor(value) for name, value in kept.items()}

    def restore_training_state(self, model: "torch.nn.Module", state: "dict[str, torch.Tensor]") -> None:
        tuner: Any = model.base_model
        allocator = tuner.rankallocator
        for name, parameter in tuner.model.named_parameters():
            if f"importance.{name}" in state:
                allocator.exp_avg_ipt[name] = state[f"importance.{name}"].to(parameter.device)
                allocator.exp_avg_unc[name] = state[f"uncertainty.{name}"].to(parameter.device)
                allocator.ipt[name] = allocator.exp_avg_ipt[name]  # replaced before it is read
        kept = {name[5:]: value.tolist() for name, value in state.items() if name.startswith("kept.")}
        tuner.peft_config[ADAPTER].rank_pattern = kept or None

    def save(self, model: "torch.nn.Module", folder: Path) -> None:
        """Writes PEFT's format, with the triplets that are not pruned."""
        settings: Any = model.peft_config[ADAPTER]  # type: ignore[index]
        kept, settings.rank_pattern = settings.rank_pattern, None
        super().save(model, folder)
        settings.rank_pattern = kept


def _pruned(model: "torch.nn.Module") -> dict[str, list[bool]]:
    """PEFT's rank pattern, {name: [whether the triplet's Λ is not zero]}."""
    parameters = {name: p for name, p in model.named_parameters() if f"lora_E.{ADAPTER}" in name}
    return {name: (p.detach().view(-1) != 0).tolist() for name, p in parameters.items()}


VARIANT = AdaptiveBudget(
    name="adalora",
    label="AdaLoRA",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Learns the update as an SVD and prunes its least important directions, module by module.",
        equation=r"y = Wx + \frac{\alpha}{r_0}\, P \Lambda Q x,\quad P^\top P \approx QQ^\top \approx I",
        parameters=r"r_0(m + n + 1),\ r_0 = \lfloor 1.5 r \rfloor",
        frozen="All of the base model; P, Q and Λ train.",
        paper="Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, 2023",
        url="https://arxiv.org/abs/2303.10512",
        notes="Starts at rank 1.5 r everywhere; pruning begins after a fifth of the steps and ends, at r on average, "
        "a quarter before the last. It needs a fixed number of steps.",
    ),
    learning_rate=1.6e-2,
    real_rate=5e-4,
)
