"""CE-LoRA against plain LoRA: step time of one linear layer and of a small model, beside the arithmetic saved.

    python benchmarks/celora_step.py [--widths 1024 2048 4096] [--tokens 2048] [--repeats 7] [--warm 2] [--json]
                                     [--skip-model] [--skip-layer] [--threads 1 --clock cpu]

A layer's step is forward and backward of a width × width module whose input wants a gradient. A model's step is
forward, backward and AdamW of a two-layer Llama of that width, with CE-LoRA's default ratios, and with 55 % of the rows
of every module. LoRA is timed as PEFT's own and with the fused pass that this app trains it with; CE-LoRA is compared
with the faster of the two. All are timed in turns, and medians are compared. Rows are chosen beforehand; what it costs
to choose them later on, norms of dY included, is timed apart, and `with_choices` is the speed-up where that is spread
over as many steps as lie between two choices by default.
On CUDA the same runs there in bfloat16. On a busy machine, `--threads 1 --clock cpu` counts the processor time that
the process got instead of the time that went by.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_playground.training.fused_lora import fused_lora
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers

RANK, RATIOS = 16, (0.25, 0.55)
FROZEN: int = VARIANTS["celora"].config().frozen_rank  # type: ignore[attr-defined]
EVERY: int = VARIANTS["celora"].config().refresh_every  # type: ignore[attr-defined]
warnings.filterwarnings("ignore")


class Wrapper(nn.Module):
    """A single linear layer as a model, so that PEFT attaches to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)


def saved(m: int, n: int, tokens: int, ratio: float, r: int = RANK, q: int = FROZEN) -> float:
    """LoRA's multiplications over CE-LoRA's, forward and backward of one m × n layer whose input wants a gradient.

    Both: x·Wᵀ, the two thin products forward and four backward. LoRA adds dY·W and g·A; CE-LoRA adds dY·B₀ and one
    product of (tokens, q + k + r) with (q + k + r, n).
    """
    k = math.ceil(ratio * m)
    both = m * n + r * (n + m) + r * (2 * m + n)
    lora = both + m * n + r * n
    ours = both + m * q + (q + k + r) * n
    return tokens * lora / (tokens * ours)


def layer_of(name: str, width: int, place: torch.device, kind: torch.dtype, ratio: float = 1.0) -> nn.Module:
    """PEFT's LoRA or CE-LoRA with that ratio on one layer, on the same seed."""
    from peft import LoraConfig, get_peft_model

    from lora_playground.variants.tuners.celora import CeLoraConfig

    torch.manual_seed(0)
    model = Wrapper(width).to(place, kind)
    config: Any = (
        LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj"])
        if name == "lora"
        else CeLoraConfig(r=RANK, alpha=2.0 * RANK, ratio_other=ratio, frozen_rank=FROZEN, target_modules=["q_proj"])
    )
    return get_peft_model(model, config)


def fused(model: nn.Module) -> nn.Module:
    """The model with this app's training pass for plain LoRA, for good."""
    fused_lora(model).__enter__()
    return model


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def timed(step: Callable[[], None], place: torch.device) -> float:
    """Seconds of one call, by the chosen clock."""
    if place.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    step()
    if place.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(
    steps: dict[str, Callable[[], None]], repeats: int, place: torch.device, warm: int = 2
) -> dict[str, float]:
    """Median seconds of each step, run in turns after some rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + warm):
        for name, step in steps.items():
            seconds = timed(step, place)
            if repeat >= warm:
                times[name].append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def layer_rows(
    widths: list[int], tokens: int, repeats: int, place: torch.device, kind: torch.dtype, warm: int = 2
) -> list[dict]:
    """One row a width and ratio."""
    rows = []
    for width in widths:
        x = torch.randn(tokens, width, device=place, dtype=kind, requires_grad=True)
        dy = torch.randn(tokens, width, device=place, dtype=kind)

        def step_of(model: nn.Module, x: torch.Tensor = x, dy: torch.Tensor = dy) -> Callable[[], None]:
            def step() -> None:
                x.grad = None
                model.zero_grad(set_to_none=True)
                model(x).backward(dy)

            return step

        steps = {"peft": step_of(layer_of("lora", width, place, kind))}
        steps["fused"] = step_of(fused(layer_of("lora", width, place, kind)))
        choosing = {}
        for ratio in RATIOS:
            model = layer_of("celora", width, place, kind, ratio)
            steps[f"{ratio}"] = step_of(model)
            steps[f"{ratio}"]()
            _, layer = next(iter(tuner_layers(model)))
            layer.refresh()
            again = []
            for _ in range(3):
                layer.approximation.collect = True
                again.append(timed(lambda dy=dy: layer.approximation.observe(dy), place) + timed(layer.refresh, place))  # type: ignore[misc]  # noqa: B023
            choosing[ratio] = statistics.median(again)
        found = in_turns(steps, repeats, place, warm)
        best = min(found["peft"], found["fused"])
        for ratio in RATIOS:
            ours = found[f"{ratio}"]
            rows.append(
                {
                    "what": "layer",
                    "width": width,
                    "tokens": tokens,
                    "ratio": ratio,
                    "peft_ms": 1e3 * found["peft"],
                    "fused_ms": 1e3 * found["fused"],
                    "celora_ms": 1e3 * ours,
                    "speedup": best / ours,
                    "with_choices": best / (ours + choosing[ratio] / EVERY),
                    "arithmetic": saved(width, width, tokens, ratio),
                    "choosing_ms": 1e3 * choosing[ratio],
                }
            )
    return rows


def llama(width: int, place: torch.device, kind: torch.dtype) -> nn.Module:
    """A random two-layer Llama of that width."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=512,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LlamaForCausalLM(config).to(place, kind)


def model_rows(
    widths: list[int], tokens: int, repeats: int, place: torch.device, kind: torch.dtype, warm: int = 2
) -> list[dict]:
    """Two rows a width: default ratios, and 55 % of the rows of every module."""
    rows = []
    for width in widths:
        ids = torch.randint(0, 512, (max(1, tokens // 256), 256), device=place)
        models = {name: trained(name, width, place, kind) for name in ("peft", "fused", *MODELS)}
        steps = {name: step_of_model(name, model, ids) for name, model in models.items()}
        for name, step in steps.items():
            step()
            VARIANTS["celora" if name in MODELS else "lora"].after_step(models[name], 1)
        found = in_turns(steps, repeats, place, warm)
        for name in MODELS:
            layers = list(tuner_layers(models[name]))
            lora = sum(saved_parts(layer, ids.numel(), 1.0) for _, layer in layers)
            ours = sum(saved_parts(layer, ids.numel(), None) for _, layer in layers)
            rows.append(
                {
                    "what": "model",
                    "width": width,
                    "tokens": ids.numel(),
                    "ratio": name,
                    "peft_ms": 1e3 * found["peft"],
                    "fused_ms": 1e3 * found["fused"],
                    "celora_ms": 1e3 * found[name],
                    "speedup": min(found["peft"], found["fused"]) / found[name],
                    "arithmetic": lora / ours,
                }
            )
    return rows


MODELS: dict[str, dict[str, float]] = {
    "default": {},
    "55 % all": dict.fromkeys(("ratio_attention", "ratio_mlp", "ratio_other"), 0.55),
}


def trained(name: str, width: int, place: torch.device, kind: torch.dtype) -> nn.Module:
    """The Llama with PEFT's LoRA, the fused pass, or CE-LoRA of those ratios."""
    variant = VARIANTS["celora" if name in MODELS else "lora"]
    config = variant.config(rank=RANK, alpha=2.0 * RANK, **MODELS.get(name, {}))
    model = variant.attach(llama(width, place, kind), config, Context())
    model.train()
    return fused(model) if name == "fused" else model


def step_of_model(name: str, model: Any, ids: torch.Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW on these token ids."""
    optimiser = torch.optim.AdamW(VARIANTS["celora" if name in MODELS else "lora"].parameter_groups(model, 1e-4, 0.0))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def saved_parts(layer: Any, tokens: int, ratio: float | None) -> float:
    """Multiplications of one layer's step: plain LoRA's for ratio 1, else the layer's own, linear modules alone."""
    m, n, r = layer.out_features, layer.in_features, layer.celora_A[ADAPTER].shape[0]
    both = m * n + r * (n + m) + r * (2 * m + n)
    state = layer.approximation
    if ratio == 1.0 or state.rows is None:
        return tokens * (both + m * n + r * n)
    q = 0 if state.B0 is None else state.B0.shape[1]
    return tokens * (both + m * q + (q + state.keep + r) * n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--warm", type=int, default=2, help="rounds before those that count")
    parser.add_argument("--skip-model", action="store_true")
    parser.add_argument("--skip-layer", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    if given.threads:
        torch.set_num_threads(given.threads)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.bfloat16 if place.type == "cuda" else torch.float32
    measured = (given.widths, given.tokens, given.repeats, place, kind, given.warm)
    rows = [] if given.skip_layer else layer_rows(*measured)
    if not given.skip_model:
        rows += model_rows(*measured)
    report = {
        "device": place.type,
        "dtype": str(kind).split(".")[1],
        "threads": torch.get_num_threads(),
        "clock": given.clock,
        "rows": rows,
    }
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['device']}, {report['dtype']}, {report['threads']} threads, {given.clock} time, rank {RANK}")
    print("what   width tokens   ratio  PEFT ms  fused ms  CE-LoRA ms  speed-up  by arithmetic")
    for row in rows:
        print(
            f"{row['what']:6}{row['width']:6}{row['tokens']:7}{row['ratio']!s:>8}{row['peft_ms']:9.1f}"
            f"{row['fused_ms']:9.1f}"
            f"{row['celora_ms']:12.1f}{row['speedup']:10.2f}{row['arithmetic']:15.2f}"
        )
    wins = [row for row in rows if row["speedup"] > 1.1]
    said = "; ".join(f"{row['what']} {row['width']} at ratio {row['ratio']}" for row in wins)
    print(f"CE-LoRA is more than 1.1 times as fast for: {said or 'none of these'}.")


if __name__ == "__main__":
    main()
