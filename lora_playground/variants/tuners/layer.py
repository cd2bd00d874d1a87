"""The shared base of our PEFT tuners: a layer that wraps Linear, 4/8-bit Linear or Conv1D, and merges ΔW into it.

It knows where a weight is stored and in which layout, and nothing of how ΔW comes about.
"""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import nn

from lora_playground.models.linear import is_conv1d, is_linear, linear_shape


class WrappedLinear(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """Holds the base layer; subclasses hold factors and say what ΔW is.

    Attributes:
        in_features, out_features: n and m of W (m, n), also where Conv1D stores (n, m).
        transposed: whether the weight is stored as (in, out).
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        core = self.get_base_layer()
        shape = linear_shape(core)
        if shape is None or not is_linear(core):
            raise TypeError(f"{type(core).__name__} is no linear layer; target nn.Linear or Conv1D modules")
        self.transposed = is_conv1d(core)
        self.out_features, self.in_features = shape
        self.quantization_backend = resolve_quantization_backend(core)
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True

    def full_weight(self) -> torch.Tensor:
        """W as float32 (m, n), dequantised where it is stored in 4 or 8 bit."""
        weight = self.get_base_weight().detach().float()
        return weight.T if self.transposed else weight

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """ΔW (m, n) in float32."""
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds ΔW to the stored weight; a quantised one is quantised again, which rounds."""
        for name in check_adapters_to_merge(self, adapter_names) or []:
            self._shift(self.get_delta_weight(name), safe_merge, name)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the merged ΔW out again."""
        while self.merged_adapters:
            self._shift(-self.get_delta_weight(self.merged_adapters.pop()), False, "")

    def _shift(self, delta: torch.Tensor, safe: bool, name: str) -> None:
        weight = self.get_base_weight()
        changed = (weight.float() + (delta.T if self.transposed else delta)).to(weight.dtype)
        if safe and not torch.isfinite(changed).all():
            raise ValueError(f"the adapter {name} holds values that are not finite, so it was not merged")
        self.set_base_weight(changed.contiguous())

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class WrappedModel(BaseTuner):
    """Replaces target modules by `tuner_layer_cls(base_layer)` and adds an adapter to each."""

    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT reads it from the class)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional: Any,
    ) -> None:
        known = isinstance(target, self.tuner_layer_cls)
        layer: Any = target if known else self.tuner_layer_cls(target)  # type: ignore[call-arg]
        layer.add(adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        if not known:
            self._replace_module(parent, target_name, layer, target)
