"""What live spectra cost while a run trains, and whether they are right.

    python benchmarks/live_spectra.py [--json] [--seconds 30] [--dataset facts-small] [--variant lora] [--rank 8]

Trains the embedded base as the app does (spectra, probes and validation included) and prints the share of the training
time that went into spectra. Every spectrum that was shown is then computed again by a dense float64 SVD of the same
update; `largest_error` is the largest distance of a singular value, as a share of its module's largest.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from lora_playground.analysis.spectra import spectra
from lora_playground.analysis.update import Update
from lora_playground.config import RunConfig
from lora_playground.jobs.pipeline import execution_of
from lora_playground.runs import RunStore
from lora_playground.training import train


def measure(given: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Trains once and compares what was shown."""
    variant = {"name": given.variant} | ({"rank": given.rank} if given.rank else {})
    config = {"data": {"dataset": given.dataset}, "variant": variant, "training": {"seconds": given.seconds}}
    run = RunStore(home).create(RunConfig.parse(config))
    run.begin(1)
    execution = execution_of(run)(run, lambda: False, lambda event: None)
    model, plan = execution.load()
    kept: list[list[Update]] = []

    def report(event: dict[str, Any]) -> None:
        if event["type"] == "spectra":  # copies, so that what was shown can be computed again after the training
            kept.append([_copy(update) for update in plan.variant.updates(model)])
        execution.report(event)

    outcome = train(model, plan, report, lambda: False)
    worst = 0.0
    for updates in kept[:: max(1, len(kept) // 5)]:
        found = spectra(updates)
        for update in updates:
            matrix = update.matrix().astype(np.float64)
            truth, ours = np.linalg.svd(matrix, compute_uv=False), found[update.name]
            if truth[0] > 0:
                worst = max(worst, float(np.abs(ours - truth[: len(ours)]).max() / truth[0]))
    return {
        "share": outcome.report_seconds / outcome.seconds,
        "spectra_seconds": outcome.report_seconds,
        "training_seconds": outcome.seconds,
        "budget_seconds": given.seconds,
        "reports": len(kept),
        "modules": len(kept[-1]),
        "largest_error": worst,
        "steps": outcome.steps,
        "tokens_per_second": outcome.tokens_per_second,
    }


def _copy(update: Update) -> Update:
    parts = (None if part is None else np.array(part) for part in (update.B, update.A, update.dense))
    return Update(update.name, *parts)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--dataset", default="facts-small")
    parser.add_argument("--variant", default="lora")
    parser.add_argument("--rank", type=int, default=8, help="0 for a variant without a rank")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given, Path(folder))
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
