"""FourierFT: a few trained frequencies whose inverse Fourier transform is the update."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Card, Context, Memory, Part, Work, frozen_weight
from lora_playground.variants.options import TargetConfig
from lora_playground.variants.peft_variant import PeftVariant, fan_in_fan_out
from lora_playground.variants.targets import select

if TYPE_CHECKING:
    import torch


class Config(TargetConfig):
    """Options of FourierFT."""

    name: str = "fourierft"
    frequencies: int = Field(1000, ge=1, le=1_000_000, description="Trained frequencies of each module.")
    scale: float = Field(150.0, gt=0, le=1e6, description="What the inverse transform is multiplied by.")


@dataclass(frozen=True)
class SpectralCoefficients(PeftVariant):
    """PEFT's FourierFT, started at zero."""

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        super().check(config, shapes, bits)
        for name, (m, n) in select(shapes, config.target_modules).items():
            if config.frequencies > m * n:
                raise ConfigError("variant.frequencies", config.frequencies, f"{name} has only {m * n} entries")

    def peft_config(self, model: "torch.nn.Module", config: Any, context: Context, targets: list[str]) -> Any:
        from peft import FourierFTConfig

        return FourierFTConfig(
            task_type="CAUSAL_LM",
            n_frequency=config.frequencies,
            scaling=config.scale,
            target_modules=targets,
            init_weights=True,
            random_loc_seed=777 + context.seed,
            fan_in_fan_out=fan_in_fan_out(model, targets),
        )

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        spectrum = Part("C", *shape, before="+ F⁻¹", pattern="scattered", numbers=config.frequencies)
        return frozen_weight(shape), spectrum

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        return config.frequencies * sum(1 for _ in shapes)


VARIANT = SpectralCoefficients(
    name="fourierft",
    label="FourierFT",
    family="Sparse and spectral",
    config=Config,
    card=Card(
        sentence="Trains the strength of a few random frequencies; their inverse Fourier transform is the update.",
        equation=r"y = Wx + \alpha\, \mathrm{Re}\big(\mathcal{F}^{-1}(C)\big)\, x,\quad \lVert C \rVert_0 = n_f",
        parameters=r"n_f",
        frozen="All of the base model and the places of the frequencies; their strengths train.",
        paper="Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, 2024",
        url="https://arxiv.org/abs/2405.03003",
        notes="The update is dense. It starts at zero here (PEFT's own default is random, which changes the output).",
    ),
    learning_rate=5e-2,
    real_rate=3e-3,
    bits=(16,),
    low_rank=False,
    memory=Memory(copies=1, passing=2),
    work=Work(dense=6),
)
