"""OSF: trains W's smallest singular directions and keeps the update out of its largest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import RankConfig
from lora_playground.variants.peft_variant import ADAPTER, PeftVariant, tuner_layers
from lora_playground.variants.start_family import save_as_plain_lora
from lora_playground.variants.targets import linear_shapes, select

if TYPE_CHECKING:
    import torch


class Config(RankConfig):
    """Options of OSF."""

    name: str = "osf"
    rank: int = Field(
        32, ge=1, le=4096, description="Rank r: how many of W's smallest singular directions train; the others stay."
    )


@dataclass(frozen=True)
class OrthogonalSubspace(PeftVariant):
    """PEFT's OSF, with U and V projected back to their subspace after every step."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        name, shape = min(select(shapes, config.target_modules).items(), key=lambda item: min(item[1]))
        if config.rank >= min(shape):
            raise ConfigError(
                "variant.rank",
                config.rank,
                f"the smallest module, {name.rsplit('.', 1)[-1]}, is {shape[0]} × {shape[1]}, and one direction at "
                f"least must stay, so the rank may be 1 to {min(shape) - 1} on this model",
            )

    def peft_config(self, model: torch.nn.Module, config: Any, context: Context, targets: list[str]) -> Any:
        from peft import OSFConfig

        shapes = select(linear_shapes(model), config.target_modules)
        kept = {f"^{re.escape(name)}$": min(shape) - config.rank for name, shape in shapes.items()}
        return OSFConfig(task_type="CAUSAL_LM", target_modules=targets, rank_pattern=kept)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        (m, n), r = shape, config.rank
        start = Part("U₀Σ₀", m, r, trained=False, before="−", again=True), Part("V₀ᵀ", r, n, False, before="·")
        trained = Part("U", m, r, before="+"), Part("Σ", r, r, before="·", pattern="diagonal", numbers=r)
        return frozen_weight(shape), *trained, Part("Vᵀ", r, n, before="·"), *start

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return sum(config.rank * (m + n + 1) for m, n in shapes)

    def beside(self, adapted: dict[str, tuple[int, int]], config: Any) -> tuple[int, int]:
        """PEFT also stores, for a module that is not square, the kept directions of its longer side."""
        return 0, sum((min(shape) - config.rank) * max(shape) for shape in adapted.values() if shape[0] != shape[1])

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        """Adds the projections of the gradients of U and V: away from the kept directions, or onto the trained ones if
        these are all others."""
        r, short = config.rank, min(shape)
        kept = short - r
        projections = sum(4 * side * r * (r if side == short else kept) for side in shape)
        return super().flops(name, shape, config, tokens) + projections

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """The numbers of a plain LoRA of rank 2r: the trained directions and their start."""
        return sum(2 * config.rank * (m + n) for m, n in shapes)

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Removes the kept directions from U and V. PEFT removes them from the gradient, but AdamW scales that entry by
        entry, which brings them back."""
        import torch

        with torch.no_grad():
            for _, layer in tuner_layers(model):
                U, V = (layer.osf_svd_params[ADAPTER][part] for part in ("U_low", "V_low"))
                U.copy_(_out_of(U, layer._osf_U_high, layer._osf_U_low_init))
                V.copy_(_out_of(V.T, layer._osf_V_high, layer._osf_V_low_init, turned=True).T)

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        import torch

        trained = layer.osf_svd_params[ADAPTER]
        now = trained["U_low"].float() * trained["S_low"].float()
        before = layer._osf_U_low_init[ADAPTER].float() * layer._osf_S_low_init[ADAPTER].float()
        V, V0 = trained["V_low"].float(), layer._osf_V_low_init[ADAPTER].float()
        return torch.cat([now, -before], dim=1), torch.cat([V, V0], dim=0)

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes a plain LoRA of rank 2r. PEFT's own format would compute W's SVD again when it is loaded, in which the
        signs of singular vectors are arbitrary."""
        save_as_plain_lora(model, self.updates(model), folder)


def _out_of(X: torch.Tensor, kept: Any, start: Any, turned: bool = False) -> torch.Tensor:
    """X (side, r) without its part along the kept directions. If these are not stored, the start spans all others.

    Args:
        kept, start: {adapter: directions}, as columns, or as rows if `turned`.
    """
    Q = (kept if ADAPTER in kept else start)[ADAPTER].to(X.dtype)
    Q = Q.T if turned else Q
    along = Q @ (Q.T @ X)
    return X - along if ADAPTER in kept else along


VARIANT = OrthogonalSubspace(
    name="osf",
    label="OSF",
    family="Orthogonal",
    config=Config,
    card=Card(
        sentence="Trains the r smallest singular directions of W and stays at right angles to all its larger ones, so "
        "that what W does most is kept.",
        equation=r"y = Wx + (U \Sigma V^\top - U_0 \Sigma_0 V_0^\top)\,x,\quad "
        r"U_{\text{kept}}^\top U = 0,\ V_{\text{kept}}^\top V = 0",
        parameters=r"r(m + n + 1)",
        frozen="All of the base model and the start U₀, Σ₀, V₀; U, Σ and V train.",
        paper="Nayak et al., Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning, 2025",
        url="https://arxiv.org/abs/2504.07097",
        notes="Its spectrum shows what can be learned wholly beside W's strong directions: the overlap of ΔW's "
        "subspaces with those is zero. The authors train half of all directions or more. PEFT projects the gradients "
        "alone, which AdamW's scaling undoes in part; here U and V are projected after every step too.",
    ),
    learning_rate=3.2e-3,
    real_rate=2e-5,
    bits=(16,),
    conv1d=False,
    memory=Memory(frozen=1),
    work=Work(frozen=6),
)
