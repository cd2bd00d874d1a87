"""CE-LoRA's loss against LoRA's after equally many steps on the embedded model: same data, seed, rank and rate.

    python benchmarks/celora_loss.py [--datasets facts-small pirate] [--steps 100] [--tokens 512] [--seeds 1] [--json]

Validation loss before and after, and their ratio; the goal is a ratio within 2 %. `exact` is CE-LoRA with its
approximation switched off, which is LoRA by another way: its distance from LoRA is what rounding alone does.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench, in_child

from lora_playground.variants import VARIANTS

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "celora": {},
    "exact": {"amm": False},
    "no-split": {"double_lora": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["facts-small", "pirate"])
    parser.add_argument("--kinds", nargs="+", default=["lora", "celora"], choices=list(KINDS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--refresh", type=int, default=None, help="steps between choices of rows")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.rows = 0
    bench, rows = Bench(), []
    rate = VARIANTS["lora"].learning_rate
    for dataset in given.datasets:
        for seed in range(given.seeds):
            bench.data(dataset, seed)
            losses: dict[str, Any] = {}
            for kind in given.kinds:
                name = "lora" if kind == "lora" else "celora"
                extra = {"refresh_every": given.refresh} if given.refresh and name == "celora" else {}
                config = VARIANTS[name].config(**KINDS[kind], **extra)
                found = in_child(lambda: bench.trial(name, config, dataset, seed, rate, given, score=False))  # noqa: B023
                losses[kind] = found.get("loss")
                losses["start"] = found.get("start")
            rows.append({"dataset": dataset, "seed": seed, "rate": rate, "steps": given.steps, **losses})
            if not given.json:
                ratios = {k: v / losses["lora"] for k, v in losses.items() if k not in ("start", "lora") and v}
                told = ", ".join(f"{kind} {losses[kind]:.4f} ({ratio - 1:+.2%})" for kind, ratio in ratios.items())
                print(f"{dataset} seed {seed}: {losses['start']:.4f} → LoRA {losses['lora']:.4f}, {told}", flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
