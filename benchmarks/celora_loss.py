"""CE-LoRA's loss against LoRA's after equally many steps on the embedded model: same data, start, seed, rank and rate.

    python benchmarks/celora_loss.py [--datasets facts-small pirate] [--files FILE ...] [--steps 250] [--tokens 256]
                                     [--seeds 3] [--kinds lora celora exact no-split restart] [--results FILE] [--json]

Validation loss and training loss at the end, and their ratios; the goal is a mean ratio within 2 %. Other kinds tell
causes apart: `exact` is CE-LoRA with its approximation switched off, LoRA by another way, so its distance from LoRA
is what rounding alone does; `no-split` is without Double-LoRA; `restart` is LoRA from other start values on the same
data, so its distance is chance. Files are read as an upload is, and stand for their datasets by their names: on text
that leaves choices open a loss stays well above 0, where a ratio of losses says more. With --results a comparison is
written down training by training and taken up again.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench, add, in_child, lines

from lora_playground.data.uploads import import_file
from lora_playground.variants import VARIANTS

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "celora": {},
    "exact": {"amm": False},
    "no-split": {"double_lora": False},
    "restart": {},
}
OPTIONS = ("refresh_every", "ratio_attention", "ratio_mlp", "tilt", "frozen_rank")
Row = dict[str, Any]


def told(rows: list[Row], dataset: str, kind: str) -> str:
    """Mean of the ratios to LoRA of the same seed, and how far single seeds lie from it."""
    found = {(row["kind"], row["seed"]): row for row in rows if row["dataset"] == dataset}
    said = []
    for loss in ("loss", "train_loss"):
        pairs = [(row[loss], found["lora", seed][loss]) for (k, seed), row in found.items() if k == kind]
        ratios = [100 * (ours / theirs - 1) for ours, theirs in pairs if ours and theirs]
        spread = f" (single: {', '.join(f'{ratio:+.1f}' for ratio in ratios)})" if len(ratios) > 1 else ""
        mean = statistics.mean(theirs for _, theirs in pairs)
        name = "validation" if loss == "loss" else "training"
        said.append(f"{name} {statistics.mean(ratios):+.1f} % of {mean:.4f}{spread}" if ratios else f"{name}: failed")
    return f"{dataset}, {kind}: " + "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", default=["facts-small", "pirate"])
    parser.add_argument("--files", nargs="+", type=Path, default=[], help="more datasets: JSONL, CSV, ...")
    parser.add_argument("--kinds", nargs="+", default=["lora", "celora"], choices=list(KINDS))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    for option in OPTIONS:
        kind = int if option in ("refresh_every", "frozen_rank") else float
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, help="of CE-LoRA, in place of its default")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.rows = 0
    bench = Bench()
    rows: list[Row] = list(lines(given.results)) if given.results else []
    rate = VARIANTS["lora"].learning_rate
    more = {option: getattr(given, option) for option in OPTIONS if getattr(given, option) is not None}
    chosen: list[Row] = []
    files = {file.stem: import_file(file, bench.home).name for file in given.files}
    for dataset in [*given.datasets, *files]:
        for seed in range(given.seeds):
            place = files.get(dataset, dataset)
            bench.data(place, seed)
            for kind in dict.fromkeys(["lora", *given.kinds]):
                name = "lora" if kind in ("lora", "restart") else "celora"
                # On this small model the app itself would leave every module exact.
                approximated = {"only_where_it_saves": False, **more} if name == "celora" else {}
                changed = {**KINDS[kind], **approximated}
                key = {"dataset": dataset, "seed": seed, "kind": kind, "steps": given.steps, "tokens": given.tokens}
                settled = VARIANTS[name].config(**changed)
                key |= {
                    "rate": rate,
                    "options": changed | {o: getattr(settled, o) for o in OPTIONS if name == "celora"},
                }
                known = next((row for row in rows if key.items() <= row.items()), None)
                if known:
                    chosen.append(known)
                    continue
                config = VARIANTS[name].config(**changed)
                start = 1000 + seed if kind == "restart" else None
                row = in_child(lambda: bench.trial(name, config, place, seed, rate, given, False, start))  # noqa: B023
                chosen.append({**key, **row})
                if given.results:
                    add(given.results, chosen[-1])
        if not given.json:
            for kind in given.kinds:
                if kind != "lora":
                    print(told(chosen, dataset, kind), flush=True)
    if given.json:
        print(json.dumps(chosen, indent=1))


if __name__ == "__main__":
    main()
