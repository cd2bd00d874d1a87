"""Every variant on the embedded model at matched trained parameters; writes docs/variants.md.

    python benchmarks/variants_table.py [--datasets pirate facts-small json] [--seeds 3] [--steps 100] [--minutes 60]

A variant's rank (or block size, or number of frequencies) is chosen so that it trains about as many parameters as LoRA
at rank 8; its learning rate is its default. Every variant runs in a process of its own, so that its peak memory is its
own. Results are added to docs/variants.json after every training: a table can be cut short and taken up again, and says
what was not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench

from lora_playground.variants import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "variants.json"


def work(given: argparse.Namespace) -> None:
    """The process of one variant: prints one JSON line a training."""
    from lora_playground.jobs.scoring import score_update
    from lora_playground.models.precision import probe

    name = given.worker
    bench = Bench()
    threads = probe("cpu").threads
    config = bench.matched(name, bench.count("lora", VARIANTS["lora"].config()))
    size = {k: getattr(config, k) for k in ("rank", "block_size", "frequencies") if k in type(config).model_fields}
    for dataset in given.datasets:
        for seed in range(given.seeds):
            if f"{dataset}/{seed}" in given.done:
                continue
            began = time.monotonic()
            outcome, updates = bench.trial(name, config, dataset, seed, given.steps, given.tokens, None)
            scored = score_update(bench.base, updates, dataset, bench.home, rows=given.rows, seconds=None)
            row = {
                "dataset": dataset,
                "seed": seed,
                "size": size,
                "parameters": outcome.trainable_parameters,
                "loss": outcome.validation_end,
                "score": scored["score"] and scored["score"]["adapted"],
                "base": scored["score"] and scored["score"]["base"],
                "drop": scored["forgetting"] and scored["forgetting"]["drop"],
                "tokens_per_second": outcome.tokens_per_second,
                "peak_memory_bytes": outcome.peak_memory_bytes,
                "threads": threads,
                "seconds": time.monotonic() - began,
            }
            print(json.dumps(row), flush=True)


def collect(given: argparse.Namespace) -> dict[str, Any]:
    """Runs the workers one after another until time is up; keeps what they print."""
    settings = {"steps": given.steps, "tokens": given.tokens, "rows": given.rows}
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}
    if results["rows"] and results["settings"] != settings:
        raise SystemExit(f"docs/variants.json was measured with {results['settings']}; move it away first")
    results["settings"] = settings
    ends = time.monotonic() + 60 * given.minutes
    for name in given.variants:
        known = results["rows"].setdefault(name, [])
        done = [f"{row['dataset']}/{row['seed']}" for row in known]
        wanted = {f"{dataset}/{seed}" for dataset in given.datasets for seed in range(given.seeds)}
        if wanted <= set(done) or time.monotonic() > ends:
            continue
        command = [sys.executable, __file__, "--worker", name, "--steps", str(given.steps), "--rows", str(given.rows)]
        command += ["--tokens", str(given.tokens), "--seeds", str(given.seeds), "--datasets", *given.datasets]
        with subprocess.Popen([*command, "--done", *done], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    known.append(json.loads(line))
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                    print(name, line.strip(), flush=True)
                if time.monotonic() > ends:
                    process.terminate()
    return results


def catalogue() -> list[str]:
    """What every variant is, from its declaration alone."""
    lines = [
        "# Variants",
        "",
        "Written by `python benchmarks/variants_table.py --page`; every line comes from a variant's own file.",
        "*Rank*: whether ΔW has a rank bound set by the options. *Bases*: how the frozen weights may be stored, in",
        "bits. *GPT-2*: whether it takes Conv1D. *Rates*: the default peak learning rates, on the embedded model and",
        "on any other; starting values from the papers and from LoRA's, unless docs/learning-rates.md records a sweep",
        "of the former by benchmarks/learning_rates.py.",
        "",
        "| Variant | Name | Family | Trained, of an m × n module | Rank | Bases | GPT-2 | Rates | Paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in sorted(VARIANTS.values(), key=lambda variant: (variant.family, variant.name)):
        conv1d = "yes" if getattr(variant, "conv1d", True) else "no"
        bits = ", ".join(map(str, variant.bits))
        bounded = "bounded" if variant.low_rank else "dense"
        lines.append(
            f"| {variant.label} | `{variant.name}` | {variant.family} | ${variant.card.parameters}$ | {bounded} "
            f"| {bits} | {conv1d} | {variant.learning_rate:g}, {variant.real_rate:g} "
            f"| [{variant.card.paper}]({variant.card.url}) |"
        )
    return lines


def page(results: dict[str, Any]) -> str:
    """The Markdown page: what there is, and all that was measured."""
    lines = catalogue()
    if not any(results["rows"].values()):
        lines += [
            "",
            "No comparison has been run with this base model yet: `python benchmarks/variants_table.py` runs it.",
        ]
        return "\n".join(lines) + "\n"
    return "\n".join([*lines, "", *compared(results)]) + "\n"


def compared(results: dict[str, Any]) -> list[str]:
    """The table of what was measured."""
    rows = {name: found for name, found in results["rows"].items() if found}
    datasets = list(dict.fromkeys(row["dataset"] for found in rows.values() for row in found))
    seeds = sorted({row["seed"] for found in rows.values() for row in found})
    settings = results["settings"]
    lines = [
        "## Compared",
        "",
        f"Made by `python benchmarks/variants_table.py` on the embedded model: {settings['steps']} steps of "
        f"{settings['tokens']} tokens, {len(seeds)} seed{'s' * (len(seeds) > 1)}, each",
        "variant's default learning rate (docs/learning-rates.md), its size chosen so that it trains about as many "
        "parameters as",
        "LoRA at rank 8, as far as it can. *Score*: the dataset's own metric on test rows, mean (± standard deviation",
        "where there are several seeds). *Forgets*: loss of base skills in points, mean. Speed and memory are of this",
        "machine's CPU, the app's other processes running, so compare them roughly.",
        "",
        "| Variant | Size | Trained | " + " | ".join(f"{name}" for name in datasets) + " | Forgets | tokens/s | MB |",
        "|---|---|---|" + "---|" * len(datasets) + "---|---|---|",
    ]
    base = {row["dataset"]: row["base"] for found in rows.values() for row in found}
    lines.append("| *base model* | | | " + " | ".join(_number(base[name]) for name in datasets) + " | | | |")
    for name in sorted(rows, key=lambda name: (VARIANTS[name].family, name)):
        found = rows[name]
        cells = [_spread([row["score"] for row in found if row["dataset"] == dataset]) for dataset in datasets]
        size = ", ".join(f"{key[0]}={value}" for key, value in found[0]["size"].items())
        drops = [row["drop"] for row in found if row["drop"] is not None]
        forgets = f"{100 * statistics.mean(drops):.1f}" if drops else ""
        speed = statistics.median(row["tokens_per_second"] for row in found)
        memory = max(row["peak_memory_bytes"] for row in found) / 1e6
        lines.append(
            f"| {VARIANTS[name].label} | {size} | {found[0]['parameters']:,} | {' | '.join(cells)} | {forgets} "
            f"| {speed:.0f} | {memory:.0f} |"
        )
    missing = [name for name in VARIANTS if name not in rows]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=[v for v in VARIANTS if 16 in VARIANTS[v].bits])
    parser.add_argument("--datasets", nargs="+", default=["pirate", "facts-small", "json"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=60, help="test rows scored")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--page", action="store_true", help="only rewrite docs/variants.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--done", nargs="*", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    empty = {"rows": {}}
    results = (json.loads(RESULTS.read_text()) if RESULTS.is_file() else empty) if given.page else collect(given)
    (ROOT / "docs" / "variants.md").write_text(page(results))


if __name__ == "__main__":
    main()
