"""The base class of LoRA variants that start from factors B₀, A₀ of W or of the data, with the output unchanged.

PEFT subtracts s·B₀A₀ from the stored W. Here W is not changed: a frozen copy of the start, with scaling −s, runs beside
the trained factors, so that y = Wx + s(BA − B₀A₀)x. The output is that of PEFT's residual, but W stays pristine in
memory, even if it is stored in 4 bit, and the update against W is exactly [sB, −sB₀]·[A; A₀], of rank ≤ 2r.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.variants.base import Context, Part
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers

if TYPE_CHECKING:
    import torch

START = "start"


@dataclass(frozen=True)
class StartFamily(LoraFamily):
    """Lets PEFT compute B₀, A₀ with its own initialisation, then restores W and keeps the start as a frozen adapter."""

    def attach(self, model: torch.nn.Module, config: Any, context: Context) -> torch.nn.Module:
        """Attaches as PEFT does, but leaves W bit-identical."""
        from lora_playground.models.linear import is_linear, is_quantised

        weights: dict[str, Any] = {name: m.weight for name, m in model.named_modules() if is_linear(m)}
        # PEFT replaces a quantised weight and writes into a plain one, so only the plain one is copied.
        copies = {name: None if is_quantised(weight) else weight.detach().clone() for name, weight in weights.items()}
        wrapped = super().attach(model, config, context)
        for name, layer in tuner_layers(wrapped):
            base = layer.get_base_layer()
            kept = copies[name]
            if kept is None:
                base.weight = weights[name]
            else:
                base.weight.data = kept
        self.begin(wrapped, config)
        _add_frozen_start(wrapped)
        return wrapped

    def begin(self, model: Any, config: Any) -> None:
        """Sets B₀, A₀ if PEFT's own initialisation has not done so; called when W is restored."""

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        start = Part("B₀", m, r, trained=False, before="−", again=True), Part("A₀", r, n, trained=False, before="·")
        return *super().parts(shape, config), *start

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """The numbers of a plain LoRA of rank 2r: the factors and their start."""
        return 2 * self.count(shapes, config)

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        import torch

        b = [layer.lora_B[part].weight.float() * layer.scaling[part] for part in (ADAPTER, START)]
        a = [layer.lora_A[part].weight.float() for part in (ADAPTER, START)]
        return torch.cat(b, dim=1), torch.cat(a, dim=0)

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes a plain LoRA of rank 2r: PEFT's own format of these starts would need W to be rewritten on loading."""
        save_as_plain_lora(model, self.updates(model), folder)


def save_as_plain_lora(model: Any, updates: Any, folder: Path) -> None:
    """Writes a wrapped model's updates as a plain LoRA that names its base model."""
    from lora_playground.models.linear import is_conv1d

    base = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    bases = [layer.get_base_layer() for _, layer in tuner_layers(root)]
    write_plain_lora(updates, folder, base=base, fan_in_fan_out=all(is_conv1d(module) for module in bases))


def _add_frozen_start(model: Any) -> None:
    """Adds the adapter START to every layer: a frozen copy of the start values with scaling −s."""
    import torch
    from peft import LoraConfig

    trained = model.peft_config[ADAPTER]
    model.add_adapter(
        START,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=trained.r,
            lora_alpha=trained.lora_alpha,
            rank_pattern=trained.rank_pattern,
            alpha_pattern=trained.alpha_pattern,
            target_modules=trained.target_modules,
            fan_in_fan_out=trained.fan_in_fan_out,
            use_rslora=trained.use_rslora,
        ),
    )
    for _, layer in tuner_layers(model):
        with torch.no_grad():
            layer.lora_A[START].weight.copy_(layer.lora_A[ADAPTER].weight)
            layer.lora_B[START].weight.copy_(layer.lora_B[ADAPTER].weight)
        layer.scaling[START] = -layer.scaling[ADAPTER]
    model.base_model.set_adapter([ADAPTER, START])
    for _, layer in tuner_layers(model):
        layer.lora_A[START].requires_grad_(False)
        layer.lora_B[START].requires_grad_(False)
