"""Every variant on the embedded model at matched trained parameters and swept learning rates; writes docs/variants.md.

    python benchmarks/variants_table.py [--datasets pirate sentiment json] [--seeds 3] [--minutes 60] [--page]

A variant's rank (or block size, or number of frequencies) is chosen so that it trains about as many parameters as LoRA
at rank 8; its learning rate is the best that benchmarks/learning_rates.py found at that size, on one dataset, on this
base or else on one before; else its default. All variants run with seed 0 before any runs with seed 1, so that a table
cut short is even. Results are added to docs/variants.jsonl after every training: a table can be taken up again, and
says what was not run. --page only rewrites the page.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from learning_rates import RESULTS as SWEEP
from learning_rates import best_rate, config_of
from variant_trials import Bench, add, in_child, lines, size_of

from lora_playground.variants import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "variants.jsonl"
SETTINGS = ("steps", "tokens", "rows")
Row = dict[str, Any]


def collect(given: argparse.Namespace) -> None:
    """Trains what is missing, seed by seed, until time is up."""
    swept, known = list(lines(SWEEP)), list(lines(given.results))
    benches = {16: Bench()}
    settings = {key: getattr(given, key) for key in SETTINGS} | {"base": benches[16].identity}
    done = {(row["variant"], row["dataset"], row["seed"]) for row in known if row["settings"] == settings}
    ends = time.monotonic() + 60 * given.minutes
    for seed in range(given.first_seed, given.seeds):
        for dataset in given.datasets:
            for name in given.variants:
                if (name, dataset, seed) in done or time.monotonic() > ends:
                    continue
                bits = max(VARIANTS[name].bits)
                if bits not in benches:
                    benches[bits] = Bench(bits=bits)
                bench = benches[bits]
                config = config_of(bench, name, matched=True)
                mine = [row for row in swept if row["base"] == bench.identity]
                size = size_of(config)
                rate = best_rate(mine, name, size) or best_rate(swept, name, size) or VARIANTS[name].learning_rate
                bench.data(dataset, seed)
                row = in_child(lambda: bench.trial(name, config, dataset, seed, rate, given, score=True))  # noqa: B023
                row = {"variant": name, "dataset": dataset, "seed": seed, "settings": settings, **row}
                add(given.results, row)
                told = row.get("error") or f"{row['score']:.3f} kept {row['kept']:.3f} {row['cpu_seconds']:.1f} s"
                print(f"{seed} {dataset:12} {name:10} {told}", flush=True)


def catalogue() -> list[str]:
    """What every variant is, from its declaration alone."""
    swept = "([swept](learning-rates.md))" if SWEEP.with_suffix(".md").is_file() else "(not swept yet)"
    out = [
        "# Variants",
        "",
        "Written by `python benchmarks/variants_table.py --page`; every line comes from a variant's own file.",
        "*Rank*: whether ΔW has a rank bound set by the options. *Bases*: how the frozen weights may be stored, in",
        "bits. *GPT-2*: whether it takes Conv1D. *Rates*: the default peak learning rates, on the embedded model",
        f"{swept} and on any other (the paper's, or what is usual for LoRA).",
        "",
        "| Variant | Name | Family | Trained, of an m × n module | Rank | Bases | GPT-2 | Rates | Paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in sorted(VARIANTS.values(), key=lambda variant: (variant.family, variant.name)):
        conv1d = "yes" if getattr(variant, "conv1d", True) else "no"
        bits = ", ".join(map(str, variant.bits))
        bounded = "bounded" if variant.low_rank else "dense"
        out.append(
            f"| {variant.label} | `{variant.name}` | {variant.family} | ${variant.card.parameters}$ | {bounded} "
            f"| {bits} | {conv1d} | {variant.learning_rate:g}, {variant.real_rate:g} "
            f"| [{variant.card.paper}]({variant.card.url}) |"
        )
    return out


def page(rows: list[Row], notes: str) -> str:
    """The Markdown page: what there is, all that was measured, and what it says."""
    out = catalogue()
    good = [row for row in rows if "score" in row]
    if not good:
        told = (
            "The comparison has not been run with this base model yet: `python benchmarks/variants_table.py` runs it."
        )
        return "\n".join([*out, "", told, *(["", notes.rstrip()] if notes else [])]) + "\n"
    return "\n".join([*out, "", *compared(good), *missing(rows), *(["", notes.rstrip()] if notes else [])]) + "\n"


def compared(rows: list[Row]) -> list[str]:
    """The table of what was measured."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    settings = rows[0]["settings"]
    out = [
        "## Compared",
        "",
        f"Made by `python benchmarks/variants_table.py` on the embedded model: {settings['steps']} steps of "
        f"{settings['tokens']} tokens, seeds {', '.join(map(str, seeds))};",
        "size chosen so that it trains about as many parameters as LoRA at rank 8, as far as it can; peak learning",
        "rate the best of a sweep (learning_rates.py) on one dataset, on this base or, where it was not swept again,",
        "on the one before; else its default. *Scores*: the dataset's own",
        f"metric on {settings['rows']} test rows",
        "in percent, mean ± standard deviation over seeds, and in brackets the mean validation loss.",
        "*Forgets*: what it lost of the base's skills, in points, mean over all. *#*: place by mean score over the",
        "datasets. *Tokens/s*: of one thread's processor time, since the machine was shared; median. *MB*: largest",
        "resident set of the training process. So short a training compares how fast variants learn, not how far they",
        "come.",
        "",
        "| # | Variant | Size | Rate | Trained | " + " | ".join(datasets) + " | Forgets | tokens/s | MB |",
        "|--:|---|---|--:|--:|" + "--:|" * (len(datasets) + 3),
    ]
    base = {row["dataset"]: row["base"] for row in rows if VARIANTS[row["variant"]].bits != (4,)}
    out.append("| | *base model* | | | | " + " | ".join(f"{100 * base[name]:.0f}" for name in datasets) + " | | | |")
    names = sorted({row["variant"] for row in rows}, key=lambda name: -mean_score(rows, name, datasets))
    for place, name in enumerate(names, start=1):
        found = [row for row in rows if row["variant"] == name]
        cells = [_cell([row for row in found if row["dataset"] == data]) for data in datasets]
        size = ", ".join(f"{key[0]} = {value}" for key, value in found[0]["size"].items())
        forgets = statistics.mean(100 * row["drop"] for row in found)
        speed = statistics.median(row["tokens_per_second"] for row in found)
        memory = max(row["peak_memory_bytes"] for row in found) / 1e6
        out.append(
            f"| {place} | {VARIANTS[name].label} | {size} | {found[0]['rate']:.2g} | {found[0]['parameters']:,} "
            f"| {' | '.join(cells)} | {forgets:.1f} | {speed:,.0f} | {memory:.0f} |"
        )
    return out


def mean_score(rows: list[Row], name: str, datasets: list[str]) -> float:
    """Mean over datasets of the mean over seeds."""
    means = []
    for dataset in datasets:
        found = [row["score"] for row in rows if row["variant"] == name and row["dataset"] == dataset]
        means.append(statistics.mean(found) if found else 0.0)
    return statistics.mean(means)


def missing(rows: list[Row]) -> list[str]:
    """What was not run, or failed."""
    good = {(row["variant"], row["dataset"], row["seed"]) for row in rows if "score" in row}
    datasets, seeds = {row["dataset"] for row in rows}, {row["seed"] for row in rows}
    absent = [(n, d, s) for n in VARIANTS for d in sorted(datasets) for s in sorted(seeds) if (n, d, s) not in good]
    out = ["", f"{len(good)} trainings; of the variants × datasets × seeds above, {len(absent)} are missing."]
    if absent:
        out.append("Missing: " + ", ".join(f"{name} {dataset} seed {seed}" for name, dataset, seed in absent) + ".")
    return out


def _cell(rows: list[Row]) -> str:
    """Score in percent with its spread, and the validation loss."""
    if not rows:
        return ""
    scores = [100 * row["score"] for row in rows]
    spread = f" ± {statistics.stdev(scores):.0f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.0f}{spread} ({statistics.mean(row['loss'] for row in rows):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--datasets", nargs="+", default=["pirate", "sentiment", "json"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32, help="test rows scored")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file")
    parser.add_argument("--page", action="store_true", help="only rewrite docs/variants.md")
    given = parser.parse_args()
    if not given.page:
        collect(given)
    notes = ROOT / "docs" / "variants-findings.md"
    text = notes.read_text() if notes.is_file() else ""
    (ROOT / "docs" / "variants.md").write_text(page(list(lines(given.results)), text))


if __name__ == "__main__":
    main()
