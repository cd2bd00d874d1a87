"""The memory estimate against the tensors that are really allocated, over a grid of models, variants and batches.

    python benchmarks/memory_estimate.py --json [--only WORD] [--quick | --unseen]

On the CPU every allocation of torch is followed by its profiler, so load does not disturb it; on CUDA the measure is
`max_memory_allocated`, in bfloat16, less what CUDA's libraries take of it whatever is computed. Printed are estimate,
measure and their ratio for each point, and the worst ratio.

The estimate's shares were fitted to `GRID`. `UNSEEN` holds other widths, depths, ranks, batches and lengths, which no
share was fitted to: it is the independent check, and what fails there is told, not fitted.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from checkpoints import make_checkpoint

from lora_playground.config import RunConfig
from lora_playground.data.encoding import Example
from lora_playground.estimates.memory import Conditions, estimate_memory
from lora_playground.models.loading import load_base
from lora_playground.training import TrainPlan, train
from lora_playground.training.memory import held_bytes
from lora_playground.variants import VARIANTS, get_variant
from lora_playground.variants.base import Context

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = "bfloat16" if DEVICE == "cuda" else "float32"
MODELS: dict[str, dict[str, Any]] = {
    "narrow": {"kind": "llama", "hidden": 128, "layers": 4, "vocabulary": 2048, "intermediate_size": 384},
    "wide": {"kind": "llama", "hidden": 384, "layers": 3, "vocabulary": 4096, "intermediate_size": 1024},
    "large head": {"kind": "qwen2", "hidden": 256, "layers": 3, "vocabulary": 24000, "intermediate_size": 704},
    "head norms": {"kind": "qwen3", "hidden": 256, "layers": 3, "vocabulary": 4096, "intermediate_size": 704},
    "four norms": {"kind": "gemma3", "hidden": 256, "layers": 3, "vocabulary": 4096, "intermediate_size": 704},
    "gpt2": {"kind": "gpt2", "hidden": 256, "layers": 3, "vocabulary": 4096},
    "phi": {"kind": "phi", "hidden": 256, "layers": 3, "vocabulary": 4096, "intermediate_size": 1024},
    "phi3": {"kind": "phi3", "hidden": 256, "layers": 3, "vocabulary": 4096, "intermediate_size": 704},
    "mistral": {"kind": "mistral", "hidden": 256, "layers": 3, "vocabulary": 4096, "intermediate_size": 704},
    "slim": {"kind": "llama", "hidden": 192, "layers": 6, "vocabulary": 3000, "intermediate_size": 576},
    "broad": {"kind": "llama", "hidden": 512, "layers": 2, "vocabulary": 6000, "intermediate_size": 1280},
    "qwen": {"kind": "qwen3", "hidden": 320, "layers": 5, "vocabulary": 12000, "intermediate_size": 960},
    "gemma": {"kind": "gemma3", "hidden": 384, "layers": 4, "vocabulary": 9000, "intermediate_size": 1152},
    "gpt2 broad": {"kind": "gpt2", "hidden": 384, "layers": 4, "vocabulary": 6000},
    "phi broad": {"kind": "phi", "hidden": 384, "layers": 4, "vocabulary": 6000, "intermediate_size": 1536},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "fourierft": {"frequencies": 200},
    "oft": {"block_size": 16},
    "boft": {"block_size": 4},
    "c3a": {"block_size": 16},
}

SHAPES: list[dict[str, Any]] = [
    {"model": model, "variant": "lora", "rank": rank, "batch": batch, "length": length, "bits": bits}
    for model, rank, batch, length, bits in (
        ("narrow", 8, 512, 64, 16),
        ("narrow", 64, 2048, 256, 16),
        ("wide", 4, 512, 128, 16),
        ("wide", 64, 2048, 256, 16),
        ("wide", 16, 1024, 512, 16),
        ("large head", 8, 512, 64, 16),
        ("large head", 8, 2048, 256, 16),
        ("head norms", 8, 1024, 128, 16),
        ("four norms", 8, 1024, 128, 16),
        ("gpt2", 8, 1024, 128, 16),
        ("phi", 8, 1024, 128, 16),
        ("phi3", 8, 1024, 128, 16),
        ("mistral", 8, 1024, 128, 16),
        ("wide", 8, 512, 128, 4),
        ("wide", 16, 2048, 256, 4),
        ("head norms", 8, 1024, 128, 4),
        ("wide", 8, 1024, 128, 8),
    )
]
WAYS: list[dict[str, Any]] = [
    {"model": "wide", "variant": "lora", "rank": 8, "batch": 2048, "length": 128, "bits": 16, "training": training}
    for training in ({"gradient_checkpointing": True}, {"accumulation": 4})
]


def _methods() -> list[dict[str, Any]]:
    """Every variant of the registry, small and large, and in 4 bit where it takes that."""
    found = []
    for name, variant in VARIANTS.items():
        if name == "lora":
            continue
        for rank, batch, length, bits in ((8, 1024, 128, 16), (32, 512, 64, 16), (8, 1024, 128, 4)):
            if bits in variant.bits:
                found.append(
                    {"model": "wide", "variant": name, "rank": rank, "batch": batch, "length": length, "bits": bits}
                )
    return found


GRID: list[dict[str, Any]] = SHAPES + WAYS + _methods()
"""Points: which model, variant, rank, tokens a step, longest example, and bits of the stored base."""

UNSEEN: list[dict[str, Any]] = [
    {"model": model, "variant": variant, "rank": rank, "batch": batch, "length": length, "bits": bits, "training": more}
    for model, variant, rank, batch, length, bits, more in (
        ("slim", "lora", 12, 768, 96, 16, {}),
        ("slim", "lora", 96, 1536, 192, 4, {}),
        ("broad", "lora", 2, 3072, 384, 16, {}),
        ("broad", "lora", 48, 640, 80, 4, {}),
        ("qwen", "lora", 24, 1536, 192, 16, {}),
        ("qwen", "dora", 24, 768, 96, 16, {}),
        ("gemma", "lora", 12, 1536, 192, 16, {}),
        ("gemma", "pissa", 12, 768, 96, 16, {}),
        ("gpt2 broad", "lora", 24, 768, 192, 16, {}),
        ("phi broad", "lora", 12, 1536, 96, 16, {}),
        ("broad", "lora", 12, 768, 96, 8, {}),
        ("slim", "lora", 48, 1536, 192, 8, {}),
        ("qwen", "lora", 6, 3072, 384, 8, {}),
        ("broad", "lorafa", 12, 768, 96, 16, {}),
        ("slim", "lorafa", 48, 1536, 192, 16, {}),
        ("qwen", "lorafa", 6, 3072, 384, 16, {}),
        ("broad", "lora", 12, 3072, 192, 16, {"gradient_checkpointing": True}),
        ("qwen", "lora", 48, 1536, 96, 16, {"gradient_checkpointing": True}),
        ("gemma", "lora", 6, 1536, 384, 16, {"gradient_checkpointing": True}),
        ("slim", "lora", 12, 1536, 96, 4, {"gradient_checkpointing": True}),
        ("slim", "lorafa", 12, 3072, 192, 16, {"gradient_checkpointing": True}),
        ("broad", "lora", 12, 3072, 192, 16, {"accumulation": 3}),
        ("qwen", "lora", 48, 1536, 96, 16, {"accumulation": 2}),
        ("slim", "lora", 12, 6144, 384, 16, {"accumulation": 8}),
        ("broad", "lora", 24, 6144, 192, 8, {"accumulation": 4, "gradient_checkpointing": True}),
        ("qwen", "full", 8, 768, 96, 16, {}),
        ("slim", "full", 8, 1536, 192, 16, {"gradient_checkpointing": True}),
        ("slim", "full", 8, 3072, 192, 16, {"accumulation": 4}),
    )
]
"""Points that nothing was fitted to."""

QUICK = ("narrow lora 8 512", "wide lora 64 2048", "large head lora 8 2048", "wide lora 8 512 128 4", "gpt2 lora")


def label(point: dict[str, Any]) -> str:
    """'wide lora 8 512 128 16': model, variant, rank, batch, length, bits."""
    more = list(point.get("training", ()))
    return " ".join([*(str(point[key]) for key in ("model", "variant", "rank", "batch", "length", "bits")), *more])


def examples(batch: int, longest: int, vocabulary: int) -> list[Example]:
    """Enough examples for a few batches, half of whose tokens are learned; lengths from half of the longest to it."""
    rng = np.random.default_rng(0)
    found, size = [], 0
    while size < 6 * batch:
        length = longest if not found else int(rng.integers(longest // 2, longest + 1))
        learned = np.arange(length) >= length // 2
        found.append(Example(rng.integers(5, vocabulary - 5, length).astype(np.int32), learned))
        size += length
    return found


def configuration(point: dict[str, Any], folder: Path) -> RunConfig:
    """The run of a point."""
    name = point["variant"]
    fields = get_variant(name).config.model_fields
    variant = {"name": name, **({"rank": point["rank"]} if "rank" in fields else {}), **OPTIONS.get(name, {})}
    return RunConfig.parse(
        {
            "model": {"source": str(folder), "quantisation": {16: "none", 8: "8bit", 4: "4bit"}[point["bits"]]},
            "data": {"max_length": point["length"]},
            "variant": variant,
            "training": {
                "steps": 2,
                "batch_tokens": point["batch"],
                "precision": point.get("precision", PRECISION),
                **point.get("training", {}),
            },
        }
    )


def measured(config: RunConfig, point: dict[str, Any]) -> int:
    """Peak bytes of all tensors while the run's own loop takes two steps."""
    variant = get_variant(config.variant.name)
    aside = libraries()
    base = load_base(config.model, device=DEVICE, dtype=config.training.precision)
    vocabulary = base.model.get_input_embeddings().weight.shape[0]
    data = examples(point["batch"], point["length"], vocabulary)
    model = variant.attach(base.model, config.variant, Context(2, 0, _start(data), point["bits"]))
    plan = TrainPlan(config.training, variant, data, pad=0, on_spectra=False)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        train(model, plan, lambda event: None, lambda: False)
        return int(torch.cuda.max_memory_allocated()) - aside
    held = held_bytes(model)
    gc.collect()  # else garbage of before that is freed meanwhile counts as freed by the step
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        train(model, plan, lambda event: None, lambda: False)
    moves = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    moves.sort(key=lambda event: event.start_ns())
    return held + int(np.cumsum([0, *(event.nbytes() for event in moves)]).max())


def libraries() -> int:
    """Bytes that CUDA's libraries hold of torch's allocator whatever is computed: cuBLAS' work spaces, 8 to 32 MiB for
    the thread that goes forward and as much for the one that goes backward. 0 on the CPU."""
    if DEVICE != "cuda":
        return 0
    for kind in (torch.float32, torch.bfloat16):
        layer = torch.nn.Linear(64, 64, device=DEVICE, dtype=kind)
        layer(torch.ones(64, 64, device=DEVICE, dtype=kind, requires_grad=True)).sum().backward()
    del layer
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())


def _start(data: list[Example]) -> list[dict[str, torch.Tensor]]:
    ids = torch.from_numpy(np.stack([data[0].ids[:32]] * 2).astype(np.int64)).to(DEVICE)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}]


def compare(point: dict[str, Any], root: Path) -> dict[str, Any]:
    """One point's estimate and measure, in bytes, and their ratio."""
    folder = root / point["model"].replace(" ", "-")
    if not folder.exists():
        make_checkpoint(folder, **MODELS[point["model"]], max_position_embeddings=2048)
    config = configuration(point, folder)
    found = estimate_memory(config, Conditions(DEVICE, longest=point["length"]))
    assert found is not None
    real = measured(config, point)
    ratio = round(found.tensors / real, 3)
    return {"point": label(point), "estimate": found.tensors, "measured": real, "ratio": ratio, "causes": found.causes}


def main() -> None:
    """Measures the grid, or the part of it that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", default="", help="points whose label has this word")
    parser.add_argument("--quick", action="store_true", help="a few points only")
    parser.add_argument("--unseen", action="store_true", help="the points that nothing was fitted to")
    given = parser.parse_args()
    points = [point for point in (UNSEEN if given.unseen else GRID) if given.only in label(point)]
    if given.quick:
        points = [point for point in points if label(point).startswith(QUICK)]
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for point in points:
            rows.append(compare(point, Path(root)))
            last = rows[-1]
            sizes = f"{last['estimate'] / 1e6:9.1f} MB estimated, {last['measured'] / 1e6:9.1f} MB measured"
            print(f"{last['point']:52} {sizes}, {last['ratio']:.3f}", file=sys.stderr)
    worst = max(rows, key=lambda row: abs(row["ratio"] - 1.0))
    if given.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps({"device": device, "points": rows, "worst": worst["point"], "worst_ratio": worst["ratio"]}))
    else:
        print(f"worst: {worst['point']} {worst['ratio']:.3f}")


if __name__ == "__main__":
    main()
