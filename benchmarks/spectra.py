"""Spectra from factors against dense SVD, and a large imported adapter: times, accuracy and memory.

    python benchmarks/spectra.py [--json] [--quick] [--only small|large]

Small: all 168 modules of a 0.5B-sized model at r = 16. The dense singular values of every ΔW (`numpy.linalg.svd`,
float32, ΔW already formed) are taken of six of its 24 like layers and scaled to all (`--layers 24` takes all), and
before each layer the factored spectra of the whole model, so that both meet the same machine.
Large: the import of a rank-256 adapter of 224 modules 4096 wide.
"""

import argparse
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_playground.analysis.low_rank import qr_singular_values
from lora_playground.analysis.spectra import spectra
from lora_playground.analysis.update import Update
from lora_playground.exchange.importing import import_adapter
from lora_playground.runs import RunStore
from lora_playground.ui.spectrum_cache import SpectrumCache

LAYERS, RANK = 24, 16
SHAPES = {
    "self_attn.q_proj": (896, 896),
    "self_attn.k_proj": (128, 896),
    "self_attn.v_proj": (128, 896),
    "self_attn.o_proj": (896, 896),
    "mlp.gate_proj": (4864, 896),
    "mlp.up_proj": (4864, 896),
    "mlp.down_proj": (896, 4864),
}


def small_model(seed: int = 0) -> list[Update]:
    """Updates with decaying directions, as training makes them, in float32."""
    rng = np.random.default_rng(seed)
    decay = (0.7 ** np.arange(RANK)).astype(np.float32)
    updates = []
    for layer in range(LAYERS):
        for kind, (m, n) in SHAPES.items():
            B = rng.standard_normal((m, RANK), dtype=np.float32) * decay
            A = rng.standard_normal((RANK, n), dtype=np.float32)
            updates.append(Update(f"model.layers.{layer}.{kind}", B, A))
    return updates


def compare_with_dense(layers: int) -> dict[str, float]:
    """Dense times of the first `layers` layers, and the factored time of all after each; the median of the latter."""
    updates = small_model()
    factored: list[float] = []
    dense = [0.0] * layers
    error = 0.0
    spectra(updates[:7])
    for layer in range(layers):
        start = time.perf_counter()
        found = spectra(updates)
        factored.append(time.perf_counter() - start)
        for position in range(len(SHAPES)):
            update = updates[layer * len(SHAPES) + position]
            assert update.B is not None and update.A is not None
            matrix = update.B @ update.A
            start = time.perf_counter()
            np.linalg.svd(matrix, compute_uv=False)
            dense[layer] += time.perf_counter() - start
            if layer == 0:
                truth = np.linalg.svd(update.matrix(), compute_uv=False)[:RANK]
                error = max(error, float(np.abs(found[update.name] - truth).max() / truth[0]))
    exact = [qr_singular_values(u.B, u.A) for u in updates if u.B is not None and u.A is not None]
    apart = max(
        float(np.abs(ours - theirs).max() / theirs[0]) for ours, theirs in zip(spectra(updates).values(), exact)
    )
    dense_total = sum(dense) * LAYERS / layers
    seconds = statistics.median(factored)
    return {
        "modules": len(updates),
        "factored_seconds": seconds,
        "factored_slowest": max(factored),
        "dense_seconds": dense_total,
        "dense_layers_measured": layers,
        "ratio": dense_total / seconds,
        "largest_error_relative_to_sigma_1": error,
        "largest_distance_to_qr_relative_to_sigma_1": apart,
    }


def write_large_adapter(folder: Path, modules: int, width: int, rank: int) -> float:
    """A bfloat16-sized PEFT adapter, written module by module so that making it needs no memory; returns its GiB."""
    rng = np.random.default_rng(1)
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    names = [f"base_model.model.model.layers.{i // 7}.self_attn.{kinds[i % 7]}" for i in range(modules)]
    header: dict[str, dict] = {}
    offset = 0
    for name in names:
        for part, shape in (("lora_A", [rank, width]), ("lora_B", [width, rank])):
            size = 2 * width * rank
            header[f"{name}.{part}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in names:
            for _ in range(2):
                file.write((0.02 * rng.standard_normal(width * rank, dtype=np.float32)).astype(np.float16).tobytes())
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": kinds}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return offset / 2**30


def large_import(modules: int, width: int, rank: int) -> dict[str, float]:
    """Imports a large adapter as the app does, copy of its files included; peak memory is this process's own."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "adapter"
        source.mkdir()
        size = write_large_adapter(source, modules, width, rank)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = [time.perf_counter()]
        done = import_adapter(
            RunStore(Path(place) / "home"), source, progress=lambda step, of: told.append(time.perf_counter())
        )
        seconds = time.perf_counter() - told[0]
        start = time.perf_counter()
        found = SpectrumCache().frames(done.run)
        again = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "modules": len(found.modules),
        "width": width,
        "rank": rank,
        "file_gib": size,
        "seconds": seconds,
        "progress_reports": len(told) - 1,
        "longest_silence": max(b - a for a, b in itertools.pairwise(told)),
        "seconds_to_look_again": again,
        "peak_memory_gib": peak / 2**20,
        "peak_before_gib": before / 2**20,
    }


def report(found: dict[str, Any]) -> None:
    """The numbers as sentences."""
    if "small" in found:
        small = found["small"]
        part = small["dense_layers_measured"]
        scaled = "" if part == LAYERS else f", from {part} of {LAYERS} layers"
        print(f"{small['modules']} modules, r = {RANK}: factored {small['factored_seconds']:.3f} s", end=" ")
        print(f"(slowest of {part}: {small['factored_slowest']:.3f} s), dense {small['dense_seconds']:.1f} s{scaled}:")
        print(f"{small['ratio']:.0f} times as long; largest error {small['largest_error_relative_to_sigma_1']:.1e} σ₁")
    if "large" in found:
        large = found["large"]
        print(f"{large['modules']} modules of width {large['width']}, r = {large['rank']}, {large['file_gib']:.2f} GiB")
        print(f"imported in {large['seconds']:.1f} s with {large['progress_reports']} reports of progress,", end=" ")
        print(f"at most {large['longest_silence']:.1f} s apart; again in {large['seconds_to_look_again']:.2f} s;")
        print(f"peak memory {large['peak_memory_gib']:.2f} GiB ({large['peak_before_gib']:.2f} GiB before)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON value on standard output")
    parser.add_argument("--quick", action="store_true", help="one layer dense, and an eighth of the large adapter")
    parser.add_argument("--only", choices=["small", "large"], help="one of the two parts")
    parser.add_argument("--layers", type=int, default=6, help=f"of {LAYERS} like layers, how many are taken dense")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    # The large adapter comes first, so that its peak memory is not the dense SVD's.
    if options.only != "small":
        found["large"] = large_import(28 if options.quick else 224, 4096, 256)
        if not options.json:
            report({"large": found["large"]})
    if options.only != "large":
        found["small"] = compare_with_dense(1 if options.quick else min(options.layers, LAYERS))
        found["ratio"] = found["small"]["ratio"]
        if not options.json:
            report({"small": found["small"]})
    if options.json:
        json.dump(found, sys.stdout)
        print()


if __name__ == "__main__":
    main()
