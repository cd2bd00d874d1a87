"""LoftQ: LoRA that starts by correcting the error of 4-bit storage."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.errors import ModelError
from lora_playground.variants.base import Card, Context
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER, base_weight, tuner_layers

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of LoftQ."""

    name: str = "loftq"


@dataclass(frozen=True)
class QuantisationAware(LoraFamily):
    """LoRA whose start is the best rank-r approximation of the quantisation error."""

    def finish(self, model: "torch.nn.Module", config: Any, context: Context) -> None:
        """One LoftQ iteration with Q given: sB₀A₀ is the truncated SVD of W − Q. W is read one matrix at a time."""
        import torch

        read = _weights_of(str(getattr(model.config, "_name_or_path", "")))
        for name, layer in tuner_layers(model):
            stored = base_weight(layer)
            error = read(f"{name}.weight").to(stored.device).float() - stored
            u, s, vt = torch.linalg.svd(error, full_matrices=False)
            r = layer.r[ADAPTER]
            root = s[:r].sqrt()
            layer.lora_A[ADAPTER].weight.data.copy_(root[:, None] * vt[:r])
            # The scaling would make the correction s times too large.
            layer.lora_B[ADAPTER].weight.data.copy_(u[:, :r] * root / layer.scaling[ADAPTER])


def _weights_of(source: str) -> "Callable[[str], torch.Tensor]":
    """A function that reads single tensors of a checkpoint by name. `source`: a folder, or a hub id in the cache."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    found: dict[str, str] = {}
    index = cached_file(source, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is not None:
        names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        found = {name: str(cached_file(source, file)) for name, file in names.items()}
    else:
        single = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if single is None:
            raise ModelError(f"LoftQ reads the unquantised weights, and {source} has no model.safetensors.")
        with safe_open(single, framework="pt") as file:
            found = {name: str(single) for name in file.keys()}  # noqa: SIM118

    def read(name: str) -> "torch.Tensor":
        path = found.get(name)
        if path is None:
            raise ModelError(f"LoftQ needs the unquantised weight {name}, which {source} does not have.")
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return read


VARIANT = QuantisationAware(
    name="loftq",
    label="LoftQ",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B so that they make up for part of what storing W in 4 bit lost.",
        equation=r"y = Qx + sBAx,\quad sB_0A_0 \approx W - Q",
        parameters=r"r(m + n)",
        frozen="The quantised base model Q; A and B train.",
        paper="Li et al., LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, 2023",
        url="https://arxiv.org/abs/2310.08659",
        notes="The output changes at step 0, on purpose: it moves from the 4-bit model towards the 16-bit one. Its "
        "update is against the 4-bit weights. Only for a base stored in 4 bit.",
    ),
    bits=(4,),
    identity_at_start=False,
)
