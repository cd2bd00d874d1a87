"""Option classes for variants without some of LoRA's options (rank, alpha, dropout). They know no variant."""

from typing import Literal

from pydantic import Field

from lora_playground.config import VariantConfig


class TargetConfig(VariantConfig):
    """Options of variants without a rank."""

    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Modules that get an update: 'all-linear', or names such as q_proj, v_proj."
    )


class RankConfig(TargetConfig):
    """Options of variants with a rank but no alpha."""

    rank: int = Field(8, ge=1, le=4096, description="Rank r: how many directions each module's update may use.")


class RankAlphaConfig(RankConfig):
    """Options of variants with a rank and an alpha but no dropout."""

    alpha: float = Field(16.0, gt=0, le=65_536, description="Alpha scales the update: s = alpha / r.")
