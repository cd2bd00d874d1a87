"""Muon: an optimiser that turns the momentum of a matrix into the nearest orthogonal matrix before it takes a step.

It needs torch alone: a reproduced run carries a copy of this file. It knows no model and no adapter.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for everything else, both with decoupled weight decay.

    Source: K. Jordan and others, Muon: an optimizer for hidden layers in neural networks, 2024
    (https://kellerjordan.github.io/posts/muon/): Nesterov momentum and five steps of a Newton-Schulz iteration, which
    bring all singular values near 1. The step is scaled by 0.2·√max(rows, columns), so that its root mean square is
    that of AdamW's steps: J. Liu and others, Muon is Scalable for LLM Training, 2025, section 2.2 (arXiv 2502.16982).
    For LoRA each factor is a matrix of its own, so a step moves all r directions alike.

    Args:
        groups: parameters, or groups with `lr` and `weight_decay` of their own.
        lr: learning rate, on AdamW's scale. weight_decay: decoupled, as in AdamW.
        momentum: for matrices. betas, eps: AdamW's, for parameters that are not matrices.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    """Of the quintic x → a·x + b·x³ + c·x⁵ that the iteration applies to the singular values."""
    ITERATIONS = 5

    def __init__(
        self, groups: Any, lr: float = 1e-2, weight_decay: float = 0.0, momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"]:
                for parameter in trained:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
            alike = defaultdict(list)
            for parameter in trained:
                if parameter.ndim == 2:
                    alike[parameter.shape, parameter.device].append(parameter)
                else:
                    self._adam(parameter, group)
            for matrices in alike.values():
                self._orthogonal(matrices, group)

    def _orthogonal(self, matrices: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Steps of matrices of one shape (rows, columns), all at once."""
        momentum, updates = group["momentum"], []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum"] = torch.zeros_like(matrix, dtype=torch.float32)
            gradient = matrix.grad.float()  # type: ignore[union-attr]
            state["momentum"].lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(state["momentum"], momentum))
        scale = 0.2 * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, orthogonalised(torch.stack(updates))):
            matrix.add_(update.to(matrix.dtype), alpha=-group["lr"] * scale)

    def _adam(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        """AdamW's step of a vector or a tensor of more dimensions."""
        (first, second), state = group["betas"], self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2))
        state["step"] += 1
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        count = float(state["step"])
        size = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
        update = state["mean"] / size
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] / (1 - first**count))


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """(k, m, n) matrices with the same singular vectors and all singular values near 1 (0.7 to 1.2), in float32."""
    a, b, c = Muon.COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.float().mT if tall else matrices.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    for _ in range(Muon.ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
