"""Makes the optimiser that a run asks for. It knows no loop."""

from __future__ import annotations

import torch
from torch import nn

from lora_playground.training.muon import Muon
from lora_playground.training.plan import TrainPlan


def optimiser(model: nn.Module, plan: TrainPlan) -> torch.optim.Optimizer:
    """Muon or AdamW (`plan.training.optimiser`) for the parameters that the variant trains.

    AdamW is torch's fused one if every parameter allows it.
    """
    groups = plan.variant.parameter_groups(model, plan.peak_rate, plan.training.weight_decay)
    if plan.training.optimiser == "muon":
        return Muon(groups)
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    try:
        return torch.optim.AdamW(groups, fused=fused)
    except RuntimeError:
        return torch.optim.AdamW(groups)
