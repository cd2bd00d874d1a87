"""PoLAR: trains directions and sizes of the update separately, and keeps the directions orthonormal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Part, frozen_weight
from lora_playground.variants.nystrom_family import NystromFamily
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of PoLAR."""

    name: str = "polar"


@dataclass(frozen=True)
class PolarFactors(NystromFamily):
    """The tuner `nystrom` with B = X and A = Yᵀ on Stiefel manifolds, and N = Θ free."""

    def start(self, config: Any) -> Any:
        return "stiefel"

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        return (
            frozen_weight(shape),
            Part("X", m, r, before="+"),
            Part("Θ", r, r, before="·"),
            Part("Yᵀ", r, n, before="·"),
        )

    def finish(self, model: torch.nn.Module, config: Any, context: Context) -> None:
        """Makes the start orthonormal again, which on a 16-bit base has been rounded to 16 bits."""
        self.after_step(model, 0)

    def after_backward(self, model: torch.nn.Module, step: int) -> None:
        """Replaces the gradient G of X by its part along the manifold, (G XᵀX − X GᵀX)/2, as in the paper."""
        for X, G in _directions(model):
            if G is not None:
                G.copy_((G @ (X.T @ X) - X @ (G.T @ X)) / 2)

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Sets X to the nearest matrix with orthonormal columns: the orthogonal factor of its polar decomposition."""
        import torch

        for X, _ in _directions(model):
            U, _, Vt = torch.linalg.svd(X.float(), full_matrices=False)
            X.copy_(U @ Vt)


def _directions(model: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yields X (m, r) and then Y (n, r) of every layer, each with its gradient or None; both can be changed in
    place."""
    for _, layer in tuner_layers(model):
        x, y = layer.nystrom_B[ADAPTER], layer.nystrom_A[ADAPTER]
        yield x.data, x.grad
        yield y.data.T, None if y.grad is None else y.grad.T


VARIANT = PolarFactors(
    name="polar",
    label="PoLAR",
    family="Decomposition",
    config=Config,
    card=Card(
        sentence="Trains orthonormal directions X, Y and a small free matrix Θ between them, so that one strong "
        "direction does not take the place of the others.",
        equation=r"y = Wx + s\, X \Theta Y^\top x,\quad X^\top X = Y^\top Y = I",
        parameters=r"r(m + n) + r^2",
        frozen="All of the base model; X, Θ and Y train, Θ from zero.",
        paper="Lion et al., PoLAR: Polar-Decomposed Low-Rank Adapter Representation, 2025",
        url="https://arxiv.org/abs/2506.03133",
        notes="Its spectrum is that of sΘ exactly, and shows how many directions are used where none can grow by its "
        "vectors' length. The authors draw X and Y towards the manifold by a penalty (landing); here they are put onto "
        "it after every step, by a polar decomposition.",
    ),
    learning_rate=1.6e-2,
    real_rate=4e-3,
)
