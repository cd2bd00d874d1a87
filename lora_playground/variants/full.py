"""Full fine-tuning: every parameter trains. The standard that low-rank variants are compared with.

PEFT has no format for it, so it saves `delta.safetensors` (the change of every trained parameter, by the checkpoint's
own parameter names) and `full_delta.json` with instructions to apply it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lora_playground.analysis.update import Update
from lora_playground.config import VariantConfig
from lora_playground.variants.base import Card, Context, Variant

if TYPE_CHECKING:
    import torch

PRISTINE = "_pristine_parameters"


class Config(VariantConfig):
    """Options of full fine-tuning."""

    name: str = "full"
    embeddings: bool = Field(
        True, description="Also train the token embeddings and the output head, not only the layers between them."
    )


@dataclass(frozen=True)
class FullFineTuning(Variant):
    """Trains the base model's own parameters, in float32, and keeps a pristine copy of them in main memory."""

    def attach(self, model: torch.nn.Module, config: Config, context: Context) -> torch.nn.Module:
        """Unfreezes in place and returns `model`. Trained parameters become float32: AdamW's steps at usual rates
        are smaller than a 16-bit weight's resolution."""
        self.check(config, {}, context.bits)
        kept = set() if config.embeddings else _embedding_parameters(model)
        pristine = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(id(parameter) not in kept)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                pristine[name] = parameter.detach().to("cpu", copy=True)
        object.__setattr__(model, PRISTINE, pristine)
        return model

    def flops(self, name: str, shape: tuple[int, int], config: Config, tokens: int) -> float:
        return 6.0 * shape[0] * shape[1] * tokens

    def count(self, shapes: Iterable[tuple[int, ...]], config: Config) -> int:
        """The number of entries of these parameters; shapes of any number of dimensions."""
        return sum(prod(shape) for shape in shapes)

    def updates(self, model: torch.nn.Module) -> list[Update]:
        """The dense p − p₀ of every trained parameter; a linear module's weight has the module's name, (out, in)."""
        from lora_playground.models.linear import is_linear, oriented

        linear = {f"{name}.weight": (name, module) for name, module in model.named_modules() if is_linear(module)}
        found = []
        for parameter, delta in _deltas(model).items():
            name, module = linear.get(parameter, (parameter, None))
            turned = delta if module is None else oriented(module, delta)
            found.append(Update(name, dense=turned.contiguous().numpy()))
        return found

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes delta.safetensors and full_delta.json; W_adapted = W + delta, parameter by parameter."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        deltas = {name: delta.contiguous() for name, delta in _deltas(model).items()}
        save_file(deltas, str(folder / "delta.safetensors"))
        about = {
            "format": "full fine-tuning delta",
            "base_model": getattr(getattr(model, "config", None), "_name_or_path", ""),
            "apply": "For every tensor in delta.safetensors, add it to the base model's parameter of the same name.",
            "parameters": {name: list(delta.shape) for name, delta in deltas.items()},
        }
        (folder / "full_delta.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _deltas(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    pristine: Mapping[str, torch.Tensor] = getattr(model, PRISTINE)
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().float().cpu() - start for name, start in pristine.items()}


def _embedding_parameters(model: Any) -> set[int]:
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {id(parameter) for module in modules if module is not None for parameter in module.parameters()}


VARIANT = FullFineTuning(
    name="full",
    label="Full fine-tuning",
    family="Full",
    config=Config,
    card=Card(
        sentence="Trains every weight of the model: the most it can learn, and the most memory.",
        equation=r"y = (W + \Delta W)\, x",
        parameters=r"mn",
        frozen="Nothing (embeddings and output head if that option is off).",
        paper="Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, 2018",
        url="https://arxiv.org/abs/1801.06146",
        notes="The update is dense; its spectrum shows how low its rank would have been. Not for 8 or 4 bit bases. "
        "Its count covers every parameter of the model, not only linear modules.",
    ),
    learning_rate=8e-4,
    real_rate=2e-5,
    bits=(16,),
    low_rank=False,
)
