"""Measures the shipped datasets on the embedded base model, with the app's own training and scoring.

    python benchmarks/embedded_table.py datasets            # plain LoRA r = 8, 60 s each: gain and forgetting
    python benchmarks/embedded_table.py ranks --steps 250 --seeds 2 --full-rate 1e-3   # facts-large: r = 1, 8, full
    python benchmarks/embedded_table.py style --steps 250 --seeds 2   # pirate: r = 1 and 16 at equal steps
    python benchmarks/embedded_table.py rehearsal           # one dataset at several rehearsal shares
    python benchmarks/embedded_table.py                     # the table of all that was measured

Results are added to docs/embedded.json after every run, and a run that is there already is not done again.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import list_datasets
from lora_playground.jobs import pipeline
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.runs import RunStore
from tools.embedded_model.assets import fingerprint

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "embedded.json"
Result = dict[str, Any]


def configs(given: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """(key, config) of each run that the command line asks for."""
    seeds = range(given.seeds)
    if given.what == "datasets":
        names = given.datasets or [card.name for card in list_datasets()]
        return [entry(given, name, "lora", 8, seed, given.rehearsal) for name in names for seed in seeds]
    if given.what == "ranks":
        kinds = [("lora", 1), ("lora", 8), ("full", 0)]
        return [entry(given, "facts-large", kind, rank, seed, 0.0) for seed in seeds for kind, rank in kinds]
    if given.what == "style":
        return [entry(given, "pirate", "lora", rank, seed, 0.0) for seed in seeds for rank in (1, 16)]
    name = (given.datasets or ["facts-small"])[0]
    return [entry(given, name, "lora", 8, seed, share) for seed in seeds for share in (0.0, 0.2, 0.4)]


def entry(
    given: argparse.Namespace, name: str, kind: str, rank: int, seed: int, share: float
) -> tuple[str, dict[str, Any]]:
    """One run: by seconds for `datasets`, by steps elsewhere."""
    training: dict[str, Any] = {"seed": seed, "learning_rate": given.full_rate if kind == "full" else given.rate}
    if given.what in ("datasets", "rehearsal"):
        training |= {"seconds": given.seconds}
    else:
        training |= {"steps": given.steps}
    if given.batch_tokens:
        training["batch_tokens"] = given.batch_tokens
    variant = {"name": kind} | ({"rank": rank, "alpha": 2.0 * rank} if rank else {})
    config = {"data": {"dataset": name, "rehearsal": share}, "variant": variant, "training": training}
    size = f"{given.seconds:g}s" if "seconds" in training else f"{given.steps} steps"
    key = f"{given.what}: {name}, {kind}{f' r={rank}' if rank else ''}, {size}, rehearsal {share:g}, seed {seed}"
    return key, config


def measure(config: dict[str, Any], home: str) -> Result:
    """Trains one run in this process and scores it on all test rows and all base-skill probes."""
    run = RunStore(home).create(RunConfig.parse(config))
    began = time.process_time()
    result = pipeline.execute(run, lambda: False)
    cpu = time.process_time() - began
    scored = pipeline.evaluate_run(run)
    keep = ("steps", "tokens", "tokens_per_second", "trainable_parameters", "final_loss")
    found: Result = {key: result[key] for key in keep}
    found["training_seconds"], found["cpu_seconds"] = result["seconds"]["training"], round(cpu, 1)
    found["score"], found["forgetting"] = scored["score"], scored["forgetting"]
    return found


def show(results: dict[str, Result]) -> str:
    """The runs as a Markdown table."""
    lines = ["| run | base | adapted | base skills before → after | steps | s |", "|---|--:|--:|--:|--:|--:|"]
    for key, found in results.items():
        score, skills = found["score"], found["forgetting"]
        lines.append(
            f"| {key} | {score['base']:.0%} | {score['adapted']:.0%} | {skills['base']:.0%} → {skills['adapted']:.0%} "
            f"| {found['steps']} | {found['training_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="show", choices=["datasets", "ranks", "style", "rehearsal", "show"])
    parser.add_argument("--datasets", nargs="*", help="only these")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=None, help="learning rate; default: the variant's own")
    parser.add_argument("--full-rate", type=float, default=None)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--rehearsal", type=float, default=0.2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    base = fingerprint(EMBEDDED / "model.safetensors")["sha256"][:12]
    kept = json.loads(given.results.read_text()) if given.results.is_file() else {}
    if kept.get("base") != base:
        kept = {"base": base, "runs": {}}
    with tempfile.TemporaryDirectory() as home:  # one for all: the base's own answers are kept there
        for key, config in [] if given.what == "show" else configs(given):
            if key in kept["runs"]:
                continue
            kept["runs"][key] = measure(config, home) | {"config": config}
            print(show({key: kept["runs"][key]}).splitlines()[-1], flush=True)
            given.results.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept, indent=1) if given.json else show(kept["runs"]))


if __name__ == "__main__":
    sys.exit(main())
