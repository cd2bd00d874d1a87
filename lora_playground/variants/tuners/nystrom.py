"""Methods with a small square N (r × r) between B and A as one PEFT method: y = Wx + s·B·N·A·x.

SLoRA, NLoRA, IntTune, LoRA-XS and PoLAR are settings. The first three follow `TracyGuo2001/NLoRA`, with its defects
mended: N exists for every adapter, Conv1D weights are transposed before blocks are cut from them, and a start that is
not zero is subtracted beside W unless the option 'released' is chosen.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from torch import nn

from lora_playground.variants.tuners.layer import WrappedLinear, WrappedModel
from lora_playground.variants.tuners.registration import register

Start = Literal["kaiming", "normal", "released", "residual", "pinv_residual", "svd", "stiefel"]


@dataclass
class NystromConfig(PeftConfig):
    """Options of the method.

    Attributes:
        start: 'kaiming': A and N random, B = 0. 'normal': the same from N(0, 1/r²), as PEFT's 'gaussian'. 'released':
            B, N, A are the leading columns, block and rows of W, and the output changes at step 0. 'residual': the
            same, with s·B₀N₀A₀ subtracted. 'pinv_residual': N is the block's pseudo-inverse, so that B₀N₀A₀ is the
            Nyström approximation of W; subtracted too. 'svd': B = UᵣΣᵣ and A = Vᵣᵀ of W's largest singular values,
            N = 0. 'stiefel': B and Aᵀ with random orthonormal columns, N = 0.
        core_only: whether N alone trains (IntTune, LoRA-XS).
        rcond: singular values of the block below this share of the largest count as zero in the pseudo-inverse.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    start: Start = "residual"
    core_only: bool = False
    rcond: float = 1e-2
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    bias: str = field(default="none")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = NYSTROM
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class NystromLayer(WrappedLinear):
    """One adapted linear layer."""

    adapter_layer_names = ("nystrom_A", "nystrom_N", "nystrom_B")
    other_param_names = ("nystrom_start_A", "nystrom_start_B", "nystrom_dropout", "scaling")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.nystrom_A = nn.ParameterDict()
        self.nystrom_N = nn.ParameterDict()
        self.nystrom_B = nn.ParameterDict()
        self.nystrom_dropout = nn.ModuleDict()
        # What is subtracted beside W, as two factors; saved with the adapter, so that loading needs no recomputing.
        self.nystrom_start_A = BufferDict({}, persistent=True)
        self.nystrom_start_B = BufferDict({}, persistent=True)
        self.core_only: dict[str, bool] = {}

    def add(self, adapter: str, config: NystromConfig, name: str) -> None:
        """Makes the factors of one adapter."""
        r = config.r
        if not 1 <= r <= min(self.in_features, self.out_features):
            raise ValueError(f"r = {r} does not fit {name}: {self.out_features} × {self.in_features}")
        self.scaling[adapter] = config.alpha / r
        self.core_only[adapter] = config.core_only
        self.nystrom_dropout[adapter] = nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        a, n, b = self._start(config)
        self.nystrom_A[adapter] = nn.Parameter(a)
        self.nystrom_N[adapter] = nn.Parameter(n)
        self.nystrom_B[adapter] = nn.Parameter(b)
        self._move_adapter_to_device_of_base_layer(adapter)
        if config.start in ("residual", "pinv_residual"):
            # The factors are rounded where the base is stored in 16 bit, so what is subtracted is theirs as rounded.
            a, n, b = (part[adapter].detach().float() for part in (self.nystrom_A, self.nystrom_N, self.nystrom_B))
            self.nystrom_start_A[adapter] = n @ a
            self.nystrom_start_B[adapter] = b.clone()
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._freeze(adapter)

    def _start(self, config: NystromConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(A, N, B) of shapes (r, n), (r, r), (m, r)."""
        r = config.r
        if config.start in ("kaiming", "normal") or self.get_base_layer().weight.device.type == "meta":
            a, n = torch.empty(r, self.in_features), torch.empty(r, r)
            for factor in (a, n):
                if config.start == "normal":
                    nn.init.normal_(factor, std=1 / r)
                else:
                    nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
            return a, n, torch.zeros(self.out_features, r)
        if config.start == "stiefel":
            x, y = (nn.init.orthogonal_(torch.empty(side, r)) for side in (self.out_features, self.in_features))
            return y.T.contiguous(), torch.zeros(r, r), x
        weight = self.full_weight()
        if config.start == "svd":
            U, values, Vt = torch.linalg.svd(weight, full_matrices=False)
            return Vt[:r].contiguous(), torch.zeros(r, r), U[:, :r] * values[:r]
        block = weight[:r, :r].clone()
        if config.start == "pinv_residual":
            block = torch.linalg.pinv(block.double(), rcond=config.rcond).float()
        return weight[:r].clone(), block.contiguous(), weight[:, :r].clone()

    def _freeze(self, adapter: str) -> None:
        if self.core_only[adapter]:
            self.nystrom_A[adapter].requires_grad_(False)
            self.nystrom_B[adapter].requires_grad_(False)

    def _freeze_non_trainable_peft_weights(self, *args: Any) -> None:
        """PEFT calls this after it has made all adapter weights trainable."""
        for adapter in self.core_only:
            self._freeze(adapter)

    def factors(self, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, A) with ΔW = B·A in float32: of rank r, or 2r where a start is subtracted."""
        scale = self.scaling[adapter]
        b = scale * self.nystrom_B[adapter].float()
        a = self.nystrom_N[adapter].float() @ self.nystrom_A[adapter].float()
        if adapter in self.nystrom_start_A:
            b = torch.cat([b, -scale * self.nystrom_start_B[adapter].float()], dim=1)
            a = torch.cat([a, self.nystrom_start_A[adapter].float()], dim=0)
        return b, a

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        b, a = self.factors(adapter)
        return b @ a

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        kind = result.dtype
        for adapter in self.active_adapters:
            if adapter not in self.nystrom_N:
                continue
            a, n, b = self.nystrom_A[adapter], self.nystrom_N[adapter], self.nystrom_B[adapter]
            x = self._cast_input_dtype(x, a.dtype)
            dropped = self.nystrom_dropout[adapter](x)
            result = result + F.linear(F.linear(F.linear(dropped, a), n), b) * self.scaling[adapter]
            if adapter in self.nystrom_start_A:
                start = F.linear(F.linear(dropped, self.nystrom_start_A[adapter]), self.nystrom_start_B[adapter])
                result = result - start * self.scaling[adapter]
        return result.to(kind)


class NystromModel(WrappedModel):
    """PEFT's tuner of the method."""

    prefix = "nystrom_"
    tuner_layer_cls = NystromLayer


NYSTROM = register("nystrom", NystromConfig, NystromModel)
