"""Sweeps every variant's learning rate on the embedded model; the best ones become the variants' defaults.

    python benchmarks/learning_rates.py [--size default|matched] [--variants lora dora ...] [--minutes 10] [--table]

For each variant, validation loss after a short training at its current default rate and at four times of it, and so on
while that is better; then at a quarter; then, with --fine, at half and twice the best. A training whose loss stands
a quarter above its start after a third of the steps is given up. `--size matched` sets its size so that it trains about
as many parameters as LoRA at rank 8, as the table of variants does; `default` takes its default options. Results are
added to docs/learning-rates.jsonl after every training, so that a sweep can be cut short and taken up again;
docs/learning-rates.md is written from them.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench, add, in_child, lines, size_of

from lora_playground.variants import VARIANTS

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "learning-rates.jsonl"
DIVERGED = math.inf


def next_rate(start: float, losses: dict[float, float], most: int = 7, fine: bool = True) -> float | None:
    """The rate to try next, or None when the best of them has near neighbours on both sides.

    Four times the best until that is no better, then a quarter of it until that is no better."""
    if len(losses) >= most:
        return None
    if not losses:
        return start
    best = min(losses, key=lambda rate: losses[rate])
    if best == max(losses) and not math.isinf(losses[best]):
        return best * 4
    if best == min(losses) or math.isinf(losses[best]):
        return min(losses) / 4
    wanted = [rate for rate in (best * 2, best / 2) if not _tried(rate, losses)] if fine else []
    return wanted[0] if wanted else None


def _tried(rate: float, losses: dict[float, float]) -> bool:
    return any(math.isclose(rate, known, rel_tol=0.05) for known in losses)


def losses_of(rows: list[dict[str, Any]], name: str, size: dict[str, int]) -> dict[float, float]:
    """{rate: validation loss} of one variant at one size; diverged is infinite."""
    found = [row for row in rows if row["variant"] == name and row["size"] == size]
    return {row["rate"]: DIVERGED if row["loss"] is None else row["loss"] for row in found}


def best_rate(rows: list[dict[str, Any]], name: str, size: dict[str, int]) -> float | None:
    """The swept rate with the lowest loss, or None where nothing was swept."""
    losses = losses_of(rows, name, size)
    return min(losses, key=lambda rate: losses[rate]) if losses else None


def config_of(bench: Bench, name: str, matched: bool) -> Any:
    """The variant's options at its default size or at LoRA's number of parameters."""
    variant = VARIANTS[name]
    target = bench.count("lora", VARIANTS["lora"].config())
    return bench.matched(name, target) if matched else variant.config()


def sweep(given: argparse.Namespace) -> None:
    """Tries rates, variant by variant, until the best is inside or time is up."""
    benches: dict[int, Bench] = {}
    ends = time.monotonic() + 60 * given.minutes
    settings = {"dataset": given.dataset, "steps": given.steps, "tokens": given.tokens}
    for name in given.variants:
        variant = VARIANTS[name]
        bits = max(variant.bits)
        if bits not in benches:
            benches[bits] = Bench(bits=bits)
        bench = benches[bits]
        config = config_of(bench, name, given.size == "matched")
        bench.data(given.dataset, 0)
        while time.monotonic() < ends:
            ours = {**settings, "base": bench.identity}
            known = [row for row in lines(given.results) if ours.items() <= row.items()]
            losses = losses_of(known, name, size_of(config))
            rate = next_rate(given.start or variant.learning_rate, losses, given.most, given.fine)
            if rate is None:
                break
            row = in_child(lambda: bench.trial(name, config, given.dataset, 0, rate, given, False, hopeless=True))  # noqa: B023
            row = {"variant": name, "rate": rate, "size": size_of(config), "loss": None, **row, **ours}
            add(given.results, row)
            told = row.get("error") or f"{row['loss']:.4f}  {row['cpu_seconds']:.1f} s"
            print(f"{name:10} {size_of(config)!s:20} {rate:9.2e} {told}", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    newest = {VARIANTS[row["variant"]].label for row in rows if row["base"] == rows[-1]["base"]}
    settings = sorted({(row["dataset"], row["steps"], row["tokens"]) for row in rows})
    told = "; ".join(f"dataset {data}, {steps} steps of {tokens} tokens" for data, steps, tokens in settings)
    out = [
        "# Learning rates",
        "",
        "Validation loss on the embedded model by peak learning rate; the lowest is bold. Measured by",
        f"`python benchmarks/learning_rates.py`: {told}, AdamW, cosine,",
        "seed 0, float32. One seed and one dataset: a hundredth more or less means nothing. A size that is not the",
        "default is the one that trains about as many parameters as LoRA at rank 8.",
        "",
        "These trainings are short, and longer ones stand lower rates: LoRA's best here is four times its default,",
        "with which runs of some 250 steps of 256 tokens are good. So the default on the embedded model is a quarter",
        "of the best, where it was lower before; DeLoRA's, whose best lies below the old default, is that best;",
        "else it stayed. Other bases have rates of their own. On the base before the shipped one (stages 1 to 11), but",
        f"for {', '.join(sorted(newest))}, swept on the newest.",
        "",
        "| Variant | Size | Default rate | Loss by rate |",
        "|---|---|--:|---|",
    ]
    for name in sorted(VARIANTS):
        sizes = [dict(pairs) for pairs in dict.fromkeys(tuple(r["size"].items()) for r in rows if r["variant"] == name)]
        for size in sizes:
            losses = losses_of(rows, name, size)
            best = min(losses, key=lambda rate: losses[rate])
            cells = []
            for rate in sorted(losses):
                text = f"{rate:.2g}: {'diverged' if math.isinf(losses[rate]) else f'{losses[rate]:.3f}'}"
                cells.append(f"**{text}**" if rate == best and not math.isinf(losses[rate]) else text)
            shown = ", ".join(f"{key} {value}" for key, value in size.items()) or "–"
            default = f"{VARIANTS[name].learning_rate:g}"
            out.append(f"| {VARIANTS[name].label} | {shown} | {default} | {', '.join(cells)} |")
    swept = {row["variant"] for row in rows}
    missing = sorted(set(VARIANTS) - swept)
    if missing:
        out += ["", f"Not swept: {', '.join(missing)}."]
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--size", choices=["default", "matched"], default="matched")
    parser.add_argument("--dataset", default="pirate")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--start", type=float, default=None, help="the middle of the grid; default: the variant's rate")
    parser.add_argument("--most", type=int, default=7, help="trainings of one variant at most")
    parser.add_argument("--fine", action="store_true", help="also half and twice the best rate")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file")
    parser.add_argument("--table", action="store_true", help="only rewrite docs/learning-rates.md")
    given = parser.parse_args()
    given.rows = 0
    if not given.table:
        sweep(given)
    given.results.with_suffix(".md").write_text(table(list(lines(given.results))))


if __name__ == "__main__":
    main()
