"""How far CE-LoRA's gradient lies from LoRA's, by kept rows and frozen rank, on the embedded model after a few steps.

    python benchmarks/celora_gradient.py [--dataset pirate] [--steps 30] [--json]

LoRA trains some steps; its A and B go into CE-LoRA models of several settings, which choose their rows on one batch.
On two further batches, the gradient of all A and B is compared with LoRA's: relative error in the Frobenius norm, and
the cosine in the first, middle and last layer. Beside it what that setting saves in a layer of width 2048 (see
celora_step.py): factors of arithmetic, forward and backward, where the input wants a gradient.
"""

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from celora_step import saved
from variant_trials import Bench

from lora_playground.jobs.execution import start_batches
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers

RATIOS = ("ratio_attention", "ratio_mlp", "ratio_other")
RELEASED = {"frozen_rank": 7, "tilt": 0.0}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"tilt": 0.0},
    {"tilt": 0.15},
    {"tilt": 0.45},
    {"frozen_rank": 32},
    {"frozen_rank": 96},
    {"frozen_rank": 7},
    RELEASED,
    {**RELEASED, "double_lora": False},
    {**RELEASED, "ratio_attention": 0.75, "ratio_mlp": 0.75},
    {**RELEASED, "ratio_attention": 0.95, "ratio_mlp": 0.95},
    {"ratio_attention": 0.75, "ratio_mlp": 0.75},
    {**RELEASED, **dict.fromkeys(RATIOS, 0.55)},
]


def pairs(model: Any) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(module, A, B) of every adapted module."""
    found = []
    for name, layer in tuner_layers(model):
        plain = hasattr(layer, "lora_A")
        a = layer.lora_A[ADAPTER].weight if plain else layer.celora_A[ADAPTER]
        found.append((name, a, layer.lora_B[ADAPTER].weight if plain else layer.celora_B[ADAPTER]))
    return found


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Module → its gradients of A and B in one row."""
    model.train()
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: torch.cat([a.grad.flatten(), b.grad.flatten()]) for name, a, b in pairs(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="pirate")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    bench, lora, celora = Bench(), VARIANTS["lora"], VARIANTS["celora"]
    batches = list(start_batches(bench.data(given.dataset, 0), bench.base.tokenizer.pad_token_id))
    _, reference = bench.fit("lora", lora.config(), given.dataset, 0, None, given)
    exact = [gradients(reference, batch) for batch in batches[1:3]]
    rows = []
    for settings in SETTINGS:
        config = celora.config(only_where_it_saves=False, **settings)
        model = celora.attach(copy.deepcopy(bench.base.model), config, Context(given.steps, 0))
        with torch.no_grad():
            for (_, a, b), (_, a0, b0) in zip(pairs(model), pairs(reference), strict=True):
                a.copy_(a0)
                b.copy_(b0)
        gradients(model, batches[0])
        celora.after_step(model, 1)
        found = [gradients(model, batch) for batch in batches[1:3]]
        ratio, q = config.ratio_mlp, (config.frozen_rank or 7) if config.double_lora else 0
        rows.append({**settings, **compared(found, exact), "saved_2048": saved(2048, 2048, 1, ratio, q=q)})
        if not given.json:
            print(f"{settings or 'default'!s:75} {' '.join(f'{k} {v:.2f}' for k, v in rows[-1].items() if k in SHOWN)}")
    if given.json:
        print(json.dumps(rows, indent=1))


SHOWN = ("error", "first", "middle", "last", "saved_2048")


def compared(found: list[dict[str, torch.Tensor]], exact: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Means over batches: the error of the whole gradient, and cosines by layer."""
    depth = 1 + max(int(name.split("layers.")[1].split(".")[0]) for name in exact[0])

    def joined(parts: dict[str, torch.Tensor], layer: int | None = None) -> torch.Tensor:
        return torch.cat([v for name, v in parts.items() if layer is None or f"layers.{layer}." in name])

    errors = [float((joined(a) - joined(b)).norm() / joined(b).norm()) for a, b in zip(found, exact, strict=True)]
    said = {"error": sum(errors) / len(errors)}
    for name, layer in (("first", 0), ("middle", depth // 2), ("last", depth - 1)):
        cosines = [
            float(torch.cosine_similarity(joined(a, layer), joined(b, layer), dim=0))
            for a, b in zip(found, exact, strict=True)
        ]
        said[name] = sum(cosines) / len(cosines)
    return said


if __name__ == "__main__":
    main()
