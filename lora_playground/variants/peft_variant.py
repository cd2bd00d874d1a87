"""The base class of variants that PEFT implements: checks, attaches, extracts ΔW and saves.

It knows PEFT's tuner layers and no particular variant. A variant's file builds the PEFT config, counts the trained
parameters and, if ΔW has factors, reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.update import Update
from lora_playground.errors import ConfigError
from lora_playground.variants.base import Context, Variant
from lora_playground.variants.targets import check_rank, linear_shapes, select, short_names

if TYPE_CHECKING:
    import torch

ADAPTER = "default"


def _wrapped(model: torch.nn.Module, peft_config: Any) -> torch.nn.Module:
    """PEFT's model, with the adapter in float32 on a base in 16 bit.

    PEFT's cast creates new parameters that train even if they were frozen (IntTune's A and B), so these are frozen
    again.
    """
    from peft import get_peft_model

    wrapped = get_peft_model(model, peft_config, autocast_adapter_dtype=False)
    frozen = {name for name, parameter in wrapped.named_parameters() if not parameter.requires_grad}
    tuner: Any = wrapped.base_model
    tuner._cast_adapter_dtype(adapter_name=ADAPTER, autocast_adapter_dtype=True)
    for name, parameter in wrapped.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return wrapped


@dataclass(frozen=True)
class PeftVariant(Variant):
    """A method that `peft.get_peft_model` attaches.

    Attributes:
        conv1d: whether it supports GPT-2's Conv1D modules.
    """

    conv1d: bool = True

    def peft_config(self, model: torch.nn.Module, config: Any, context: Context, targets: list[str]) -> Any:
        """The PEFT config for these target modules."""
        raise NotImplementedError

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        """As `Variant.check`: the target modules must exist, and the rank must fit them."""
        super().check(config, shapes, bits)
        selected = select(shapes, config.target_modules)
        rank = getattr(config, "rank", None)
        if rank is not None and self.low_rank:
            check_rank(rank, selected)

    def attach(self, model: torch.nn.Module, config: Any, context: Context) -> torch.nn.Module:
        """Freezes the base and wraps its target modules; start values depend on `context.seed` alone."""
        import torch

        from lora_playground.models.linear import has_conv1d

        if not self.conv1d and has_conv1d(model):
            raise ConfigError(
                "variant.name", self.name, "it needs nn.Linear modules, and this model is built of Conv1D (GPT-2)"
            )
        shapes = linear_shapes(model)
        self.check(config, shapes, context.bits)
        selected = select(shapes, config.target_modules)
        targets = short_names(selected, (name for name, _ in model.named_modules()))
        with torch.random.fork_rng(devices=_cuda_devices()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
            torch.manual_seed(context.seed)
            peft_config = self.peft_config(model, config, context, targets)
            self.prepare(model, peft_config, config, context)
            wrapped = _wrapped(model, peft_config)
            self.finish(wrapped, config, context)
        return wrapped

    def prepare(self, model: torch.nn.Module, peft_config: Any, config: Any, context: Context) -> None:
        """Called before wrapping, for data-driven starts (LoRA-GA, CorDA)."""

    def finish(self, model: torch.nn.Module, config: Any, context: Context) -> None:
        """Called after wrapping, for what PEFT's own initialisation does not do."""

    def factors(self, layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(B (out, k), A (k, in)) with ΔW = B·A of one tuner layer, scaling folded in; None if ΔW has no factors."""
        return None

    def updates(self, model: torch.nn.Module) -> list[Update]:
        """ΔW of every adapted module: by `factors` if it has any, else dense by `effective_delta`."""
        return updates_of(model, self.factors)

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """PEFT's own format: adapter_config.json and adapter_model.safetensors."""
        # Without embeddings explicitly off, PEFT asks the hub whether the vocabulary was resized.
        model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]


def updates_of(
    model: torch.nn.Module, factors: Callable[[Any], tuple[torch.Tensor, torch.Tensor] | None] | None
) -> list[Update]:
    """ΔW of every tuner layer of a model, and of biases that change with it: B·A if `factors` returns any, else dense
    by `effective_delta`."""
    import torch

    found = []
    with torch.no_grad():
        for name, layer in tuner_layers(model):
            pair = None if factors is None else factors(layer)
            if pair is not None:
                found.append(Update(name, B=_numpy(pair[0]), A=_numpy(pair[1])))
                continue
            found.append(Update(name, dense=_numpy(effective_delta(layer))))
            bias = effective_bias_delta(layer)
            if bias is not None:
                found.append(Update(f"{name}.bias", dense=_numpy(bias)))
    return found


def tuner_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """(base module name, tuner layer) of every adapted module, in the model's order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, module in root.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def base_weight(layer: torch.nn.Module) -> torch.Tensor:
    """The frozen W of a tuner layer's base module as float32 (out, in)."""
    from lora_playground.models.linear import full_weight

    module: Any = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return full_weight(module)


def effective_delta(layer: Any, chunk: int = 1024) -> torch.Tensor:
    """ΔW (out, in) of any tuner layer whose output is affine in its input: its output for the identity matrix.

    For the pass the base module is replaced by a float32 copy of its (dequantised) weight, so that neither a 16-bit
    nor a 4-bit base adds rounding, and the layer is in evaluation mode, so that dropout is off.

    Args:
        chunk: rows of the identity matrix per pass.
    """
    import torch

    weight = base_weight(layer)
    in_features = weight.shape[1]
    stored, was_training = layer.base_layer, layer.training
    columns = []
    layer.eval()
    layer.base_layer = _dense_copy(stored, weight)
    try:
        for start in range(0, in_features, chunk):
            size = min(chunk, in_features - start)
            eye = torch.zeros(size, in_features, device=weight.device)
            eye[torch.arange(size), torch.arange(start, start + size)] = 1.0
            columns.append(layer(eye).float() - eye @ weight.T)
    finally:
        layer.base_layer = stored
        layer.train(was_training)
    return torch.cat(columns).T.contiguous()


def effective_bias_delta(layer: Any) -> torch.Tensor | None:
    """The change of the base module's bias (out,): variants that rescale outputs rescale it too. None if unchanged."""
    import torch

    bias = getattr(layer.get_base_layer(), "bias", None)
    if bias is None:
        return None
    weight = base_weight(layer)
    stored, was_training = layer.base_layer, layer.training
    layer.eval()
    layer.base_layer = _dense_copy(stored, weight, bias.detach().float())
    try:
        delta = layer(torch.zeros(1, weight.shape[1], device=weight.device)).float()[0] - bias.detach().float()
    finally:
        layer.base_layer = stored
        layer.train(was_training)
    return delta if bool(delta.abs().max() > 0) else None


def _dense_copy(module: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Module:
    """A float32 module of the same layout as `module`, holding `weight` (out, in) and `bias` (none by default)."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from lora_playground.models.linear import is_conv1d

    if is_conv1d(module):
        copy = Conv1D(weight.shape[0], weight.shape[1])
        copy.weight = torch.nn.Parameter(weight.T, requires_grad=False)
        start = torch.zeros(weight.shape[0], device=weight.device) if bias is None else bias
        copy.bias = torch.nn.Parameter(start, requires_grad=False)
        return copy
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    return linear


def lora_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Parameters of A (r, in) and B (out, r) over all modules."""
    return sum(rank * (m + n) for m, n in shapes)


def fan_in_fan_out(model: torch.nn.Module, targets: Iterable[str]) -> bool:
    """PEFT's option of this name: whether every module that `targets` matches is a Conv1D."""
    from lora_playground.models.linear import is_conv1d

    ends = tuple(targets)
    matched = [m for name, m in model.named_modules() if name in ends or name.endswith(tuple("." + e for e in ends))]
    return bool(matched) and all(is_conv1d(module) for module in matched)


def _cuda_devices() -> list[int]:
    import torch

    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def _numpy(tensor: torch.Tensor) -> Any:
    return tensor.detach().float().cpu().contiguous().numpy()
