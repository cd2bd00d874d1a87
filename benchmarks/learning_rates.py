"""Sweeps every variant's learning rate on the embedded model; the best ones become the variants' defaults.

    python benchmarks/learning_rates.py [--variants lora dora ...] [--dataset pirate] [--steps 60] [--minutes 10]

For each variant at its default options, validation loss after so many steps at its current default rate and at a third
and three times of it; while the best is at an edge, one further rate that way (at most three). Results are added to
docs/learning-rates.json after every training, so that a sweep can be cut short and taken up again; --table rewrites
docs/learning-rates.md from them.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench

from lora_playground.errors import PlaygroundError
from lora_playground.variants import VARIANTS

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "learning-rates.json"


def load(path: Path) -> dict[str, Any]:
    """{variant: {rate: validation loss}} and how it was measured."""
    return json.loads(path.read_text()) if path.is_file() else {"settings": {}, "losses": {}}


def keep(results: dict[str, Any], path: Path) -> None:
    """Writes what is known so far."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def next_rate(start: float, losses: dict[float, float]) -> float | None:
    """The rate to try next, or None when the best of them has neighbours on both sides."""
    for rate in (start, start / 3, start * 3):
        if not any(math.isclose(rate, tried, rel_tol=0.05) for tried in losses):
            return rate
    if len(losses) >= 6:
        return None
    best = min(losses, key=lambda rate: losses[rate])
    if best == min(losses):
        return best / 3
    return best * 3 if best == max(losses) else None


def sweep(bench: Bench, name: str, results: dict[str, Any], given: argparse.Namespace, ends: float) -> None:
    """Tries rates for one variant until the best is inside, or time is up."""
    variant = VARIANTS[name]
    found = results["losses"].setdefault(name, {})
    while time.monotonic() < ends:
        losses = {float(rate): loss for rate, loss in found.items()}
        rate = next_rate(variant.learning_rate, losses)
        if rate is None:
            return
        try:
            outcome, _ = bench.trial(name, variant.config(), given.dataset, 0, given.steps, given.tokens, rate)
            loss = outcome.validation_end
        except PlaygroundError:  # it diverged
            loss = 1e9
        found[f"{rate:.3g}"] = round(loss, 4) if loss is not None and math.isfinite(loss) else 1e9
        print(f"{name:10} {rate:9.2e} {found[f'{rate:.3g}']:.4f}", flush=True)
        keep(results, given.results)


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    settings = results["settings"]
    lines = [
        "# Learning rates",
        "",
        "Validation loss of every variant at its default options, by peak learning rate; the lowest is bold.",
        "Measured by `python benchmarks/learning_rates.py`: "
        f"dataset {settings['dataset']}, {settings['steps']} steps of {settings['tokens']} tokens,",
        "AdamW, cosine, seed 0, float32. One seed and one dataset: differences of a hundredth mean nothing.",
        "",
        "| Variant | Default | Loss by rate |",
        "|---|---|---|",
    ]
    for name, losses in sorted(results["losses"].items()):
        if not losses:
            continue
        best = min(losses, key=lambda rate: losses[rate])
        cells = []
        for rate in sorted(losses, key=float):
            text = f"{rate}: {'diverged' if losses[rate] > 1e6 else f'{losses[rate]:.3f}'}"
            cells.append(f"**{text}**" if rate == best else text)
        lines.append(f"| {VARIANTS[name].label} | {VARIANTS[name].learning_rate:g} | {', '.join(cells)} |")
    missing = sorted(set(VARIANTS) - {name for name, losses in results["losses"].items() if losses})
    if missing:
        lines += ["", f"Not swept: {', '.join(missing)}; their defaults are the papers' or LoRA's."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=[v for v in VARIANTS if 16 in VARIANTS[v].bits])
    parser.add_argument("--dataset", default="pirate")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file, for several processes at once")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="files of other processes to take in")
    parser.add_argument("--table", action="store_true", help="only rewrite docs/learning-rates.md")
    given = parser.parse_args()
    results = load(given.results)
    if not given.table:
        settings = {"dataset": given.dataset, "steps": given.steps, "tokens": given.tokens}
        if results["losses"] and results["settings"] != settings:
            parser.error(f"docs/learning-rates.json was measured with {results['settings']}; move it away first")
        results["settings"] = settings
        bench, ends = Bench(), time.monotonic() + 60 * given.minutes
        for name in given.variants:
            sweep(bench, name, results, given, ends)
    for path in given.merge:
        results["losses"] |= load(path)["losses"]
    if given.merge:
        keep(results, given.results)
    given.results.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
